// Standard normal numbers (base/random.hpp). Compiled without fused multiply-adds.
#include "base/random.hpp"

#include <algorithm>
#include <cmath>

namespace zopo {
namespace {

constexpr std::size_t kBlocks = 64;  // of four numbers; a tile's 4 KiB stay in the L1 cache

static_assert(product_high_by_halves(0xD2E7470EE14C6C93, 0xFEDCBA9876543211) ==
                  product_high(0xD2E7470EE14C6C93, 0xFEDCBA9876543211) &&
              product_high_by_halves(~0ull, ~0ull) == ~0ull - 1);

// Write the numbers of a few blocks. Separate loops: the integer products stay scalar, the rest
// becomes vector code.
void box_muller(RandomKey key, std::uint64_t stream, std::uint64_t first, std::size_t blocks,
                double* out) {
  std::uint64_t u[2 * kBlocks], v[2 * kBlocks];
  for (std::size_t b = 0; b < blocks; ++b) {
    const RandomWords words = stream_words(key, stream, first + b);
    u[2 * b] = words.word[0];
    v[2 * b] = words.word[1];
    u[2 * b + 1] = words.word[2];
    v[2 * b + 1] = words.word[3];
  }
  for (std::size_t j = 0; j < 2 * blocks; ++j) {
    const double radius = std::sqrt(squared_radius(uniform(u[j])));
    const Direction at = direction(uniform(v[j]));
    out[2 * j] = radius * at.cos;
    out[2 * j + 1] = radius * at.sin;
  }
}

}  // namespace

void normals(RandomKey key, std::uint64_t stream, std::size_t n, double* out, std::size_t first) {
  double tile[4 * kBlocks];
  while (n > 0) {
    const std::size_t skip = first % 4;
    const std::size_t count = std::min(n, 4 * kBlocks - skip);
    box_muller(key, stream, first / 4, (skip + count + 3) / 4, tile);
    std::copy_n(tile + skip, count, out);
    first += count;
    out += count;
    n -= count;
  }
}

}  // namespace zopo
