// Index arithmetic shared by kernels and host code; tested on the host.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ZOPO_HD __host__ __device__
#else
#define ZOPO_HD
#endif

namespace zopo {

struct TilePosition {
  int row, column;
};

// Return the t-th tile of the lower triangle (column <= row), row by row:
// t = row (row + 1) / 2 + column.
ZOPO_HD inline TilePosition lower_tile(std::int64_t t) {
  auto row = static_cast<std::int64_t>((sqrt(8.0 * static_cast<double>(t) + 1.0) - 1.0) / 2.0);
  // The root is rounded: correct it by one step either way.
  while (row * (row + 1) / 2 > t) --row;
  while ((row + 1) * (row + 2) / 2 <= t) ++row;
  return {static_cast<int>(row), static_cast<int>(t - row * (row + 1) / 2)};
}
ZOPO_HD constexpr std::int64_t lower_tiles(std::int64_t rows) { return rows * (rows + 1) / 2; }

// Return the t-th tile of the lower triangle, with tiles `ratio` times as tall as wide. The
// sequence holds all tiles that touch the triangle, and up to ratio - 1 more in each row of tiles.
ZOPO_HD inline TilePosition lower_tile_wide(std::int64_t t, int ratio) {
  const TilePosition square = lower_tile(t / ratio);
  return {square.row, square.column * ratio + static_cast<int>(t % ratio)};
}

// Return the t-th of rows x columns tiles, in bands of `band` rows, each band column by column.
// Tiles computed at the same time then share their operands.
ZOPO_HD inline TilePosition banded_tile(std::int64_t t, int rows, int columns, int band) {
  const auto first = static_cast<int>(t / (static_cast<std::int64_t>(band) * columns)) * band;
  const int height = rows - first < band ? rows - first : band;
  const auto within = t - static_cast<std::int64_t>(first) * columns;
  return {first + static_cast<int>(within % height), static_cast<int>(within / height)};
}

}  // namespace zopo
