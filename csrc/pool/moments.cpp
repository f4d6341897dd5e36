// Moments of the columns of a pool.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/parallel.hpp"
#include "pool/embeddings.hpp"
#include "pool/pool.hpp"
#include "simd/simd.hpp"

namespace zopo {

std::pair<Doubles, Doubles> column_moments(const void* data, Precision precision, std::size_t m,
                                           std::size_t d) {
  // Sum fixed blocks of rows and add the sums in order: the same bits for any number of threads.
  constexpr std::size_t kRows = 4096;
  const std::size_t blocks = (m + kRows - 1) / kRows;
  const auto for_blocks = [&](auto&& body) {
    const double work = static_cast<double>(m) * static_cast<double>(d);
    parallel_ranges(blocks, work, [&](std::size_t begin, std::size_t end) {
      Doubles row(d);
      for (std::size_t b = begin; b < end; ++b)
        for (std::size_t i = b * kRows; i < std::min(m, (b + 1) * kRows); ++i) {
          widen(data, precision, i * d, d, row.data());
          body(b, row.data());
        }
    });
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Doubles sums(blocks * d, 0.0), low(blocks * d, infinity), high(blocks * d, -infinity);
  for_blocks([&](std::size_t b, const double* row) {
    simd().moments_pass(row, d, sums.data() + b * d, low.data() + b * d, high.data() + b * d);
  });
  const double rows = static_cast<double>(m);
  Doubles mean(d, 0.0), deviation(d, 0.0);
  for (std::size_t j = 0; j < d; ++j) {
    double lowest = infinity, highest = -infinity;
    for (std::size_t b = 0; b < blocks; ++b) {
      mean[j] += sums[b * d + j];
      lowest = std::min(lowest, low[b * d + j]);
      highest = std::max(highest, high[b * d + j]);
    }
    // Take a constant column's mean from its entries, not from a rounded sum: its deviation is
    // then exactly 0.
    mean[j] = lowest == highest ? lowest : mean[j] / rows;
  }
  std::fill(sums.begin(), sums.end(), 0.0);
  for_blocks([&](std::size_t b, const double* row) {  // a second pass avoids cancellation
    simd().squares_pass(row, d, mean.data(), sums.data() + b * d);
  });
  for (std::size_t j = 0; j < d; ++j) {
    for (std::size_t b = 0; b < blocks; ++b) deviation[j] += sums[b * d + j];
    deviation[j] = std::sqrt(deviation[j] / rows);
  }
  return {std::move(mean), std::move(deviation)};
}

}  // namespace zopo
