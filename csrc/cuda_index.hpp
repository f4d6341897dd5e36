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

}  // namespace zopo
