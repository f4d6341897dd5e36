// Free candidates near a point (search/neighborhood.hpp).
#include "search/neighborhood.hpp"

#include <algorithm>

#include "base/parallel.hpp"
#include "base/random.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr RandomKey kKey{0x5a6f706f, 0};  // any constant: the projection is the same for all pools
constexpr double kLargest = 6e4;          // of a projection, within the range of half precision
constexpr std::size_t kBlock = 64;        // candidates projected at a time

}  // namespace

Neighborhood::Neighborhood(std::size_t d) : sum_(d), sign_(d) {
  for (std::size_t j = 0; j < d; ++j) {
    // Up to kDim coordinates have a sum each, and the distances are exact but for the rounding.
    const std::uint64_t bits = d <= kDim ? j : stream_words(kKey, 0, j).word[0];
    sum_[j] = static_cast<std::uint8_t>(bits % kDim);
    sign_[j] = bits >> 63 ? -1.0 : 1.0;
  }
}

void Neighborhood::project(const double* x, double* out) const {
  std::fill_n(out, kDim, 0.0);
  for (std::size_t j = 0; j < sum_.size(); ++j) out[sum_[j]] += sign_[j] * x[j];
  for (std::size_t s = 0; s < kDim; ++s) out[s] = std::clamp(out[s], -kLargest, kLargest);
}

void Neighborhood::extend(std::size_t m, const Rows& rows) {
  const std::size_t d = sum_.size(), first = size();
  // One allocation: growing by parts would hold two copies of a large pool's projections for a while.
  projected_.resize(m * kDim);
  norm_.resize(m);
  const std::size_t blocks = (m - first + kBlock - 1) / kBlock;
  const double work = static_cast<double>(m - first) * static_cast<double>(d);
  parallel_ranges(blocks, work, [&](std::size_t from, std::size_t to) {
    Doubles X(kBlock * d), point(kDim);
    for (std::size_t b = from; b < to; ++b) {
      const std::size_t begin = first + b * kBlock, n = std::min(kBlock, m - begin);
      rows(begin, n, X.data());
      for (std::size_t i = 0; i < n; ++i) {
        std::uint16_t* to_row = &projected_[(begin + i) * kDim];
        project(&X[i * d], point.data());
        simd().narrow_f16(point.data(), kDim, to_row);
        simd().widen_f16(to_row, kDim, point.data());  // the norm of the rounded numbers
        norm_[begin + i] = static_cast<float>(simd().dot(point.data(), point.data(), kDim));
      }
    }
  });
}

void Neighborhood::nearest(const double* x, std::size_t k, const Ledger& ledger,
                           std::vector<std::int64_t>& out) {
  if (out.size() >= k) return;
  const std::size_t m = size(), wanted = k - out.size();
  double point[kDim];
  float w[kDim];
  project(x, point);
  std::copy_n(point, kDim, w);
  distance_.resize(m);
  simd().scan_f16(projected_.data(), m, kDim, Reach::Cached, w, norm_.data(), distance_.data());
  known_.assign(m, false);
  for (const std::int64_t i : out) known_[static_cast<std::size_t>(i)] = true;
  order_.clear();
  for (std::size_t i = 0; i < m; ++i)
    if (!known_[i] && !ledger.taken(static_cast<std::int64_t>(i)))
      order_.emplace_back(distance_[i], static_cast<std::int64_t>(i));
  if (order_.size() > wanted) {
    std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(wanted),
                     order_.end());
    order_.resize(wanted);
  }
  std::sort(order_.begin(), order_.end());
  for (const auto& [_, i] : order_) out.push_back(i);
}

}  // namespace zopo
