// Index arithmetic that kernels and host code share, and that is tested on the host.
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

// The t-th tile of the lower triangle (column <= row), row by row: t = row (row + 1) / 2 + column.
ZOPO_HD inline TilePosition lower_tile(std::int64_t t) {
  auto row = static_cast<std::int64_t>((sqrt(8.0 * static_cast<double>(t) + 1.0) - 1.0) / 2.0);
  // The root is rounded: one step either way puts it right.
  while (row * (row + 1) / 2 > t) --row;
  while ((row + 1) * (row + 2) / 2 <= t) ++row;
  return {static_cast<int>(row), static_cast<int>(t - row * (row + 1) / 2)};
}
ZOPO_HD constexpr std::int64_t lower_tiles(std::int64_t rows) { return rows * (rows + 1) / 2; }

// The same with tiles `ratio` times as tall as wide: all that touch the lower triangle, and up to
// ratio - 1 beyond it in each row of tiles.
ZOPO_HD inline TilePosition lower_tile_wide(std::int64_t t, int ratio) {
  const TilePosition square = lower_tile(t / ratio);
  return {square.row, square.column * ratio + static_cast<int>(t % ratio)};
}

// The t-th of rows x columns tiles, in bands of `band` rows, each column by column: tiles that are
// worked on together share their operands.
ZOPO_HD inline TilePosition banded_tile(std::int64_t t, int rows, int columns, int band) {
  const auto first = static_cast<int>(t / (static_cast<std::int64_t>(band) * columns)) * band;
  const int height = rows - first < band ? rows - first : band;
  const auto within = t - static_cast<std::int64_t>(first) * columns;
  return {first + static_cast<int>(within % height), static_cast<int>(within / height)};
}

}  // namespace zopo
