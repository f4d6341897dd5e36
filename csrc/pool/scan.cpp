// Scans of the CPU pool (pool/pool.hpp). The CUDA twins are cuda/pool/nearest.cu and k_nearest.cu.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/parallel.hpp"
#include "pool/embeddings.hpp"
#include "pool/pool.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Bound on the error of a rank computed from half-precision rows r_i, with W = sum_j |w_j r_ij|:
//
//   |e_i|^2    rounded once to float32
//   w_j        rounded once
//   w.r_i      summed in at least four lanes, then across lanes, and rounded once
//
// By Cauchy-Schwarz W <= |x| |row|. The length of a row is |e_i|, or |e_i| + |mean o inverse_scale|
// when the raw embeddings are scanned. A rounded copy is off by 2^-11 of each entry, or by the
// spacing of the smallest numbers (`copied`). The float64 distances, whose order counts, are
// rounded d / 8 + 12 times, each time by at most 2^-53 of 2 (|e_i|^2 + |x|^2). The total is
// doubled, which covers the rounding of the bound itself.
double rank_error(double x_norm, double largest, double offset, double copied, std::size_t d) {
  constexpr double u = 0x1p-24, subnormal = 0x1p-146;
  const double n = static_cast<double>(d), terms = n / 4.0 + 24.0, longest = std::sqrt(largest);
  const double W = x_norm * (longest + offset);
  const double copy = copied > 0.0 ? x_norm * (0x1p-11 * longest + copied * std::sqrt(n)) : 0.0;
  const double distance = 0x1p-53 * (n / 8.0 + 12.0) * 2.0 * (largest + x_norm * x_norm);
  return 2.0 * (u * (2.0 * largest + 2.0 * terms * W) + 2.0 * copy + distance +
                n * subnormal * (1.0 + x_norm));
}

// Rows that may be among the k nearest, collected while ranks arrive.
struct Shortlist {
  std::vector<float>& smallest;
  std::vector<std::pair<float, std::int64_t>>& found;
  std::size_t k;
  double margin;  // twice the error bound: two ranks further apart are in the true order
  float cut = kInfinity;

  // Return whether a row of this rank may be among the k nearest.
  bool may(float rank) const { return !(rank > cut) || rank == kInfinity; }
  void offer(std::size_t row, float rank) {
    const bool known = std::isfinite(rank);  // an overflowed rank decides nothing: rescore the row
    found.push_back({known ? rank : -kInfinity, static_cast<std::int64_t>(row)});
    if (!known) return;
    if (smallest.size() == k) {
      if (rank >= smallest.front()) return;
      std::pop_heap(smallest.begin(), smallest.end());
      smallest.pop_back();
    }
    smallest.push_back(rank);
    std::push_heap(smallest.begin(), smallest.end());
    if (smallest.size() == k) cut = above(smallest.front() + margin);
  }

  static float above(double v) {  // round up
    return std::nextafter(static_cast<float>(v), kInfinity);
  }
};

}  // namespace

double Pool<Cpu>::distance(std::size_t i, const double* x) const {
  constexpr std::size_t kChunk = 64, kSums = 8;  // independent sums hide the latency of additions
  double e[kChunk] = {}, partial[kSums] = {};
  for (std::size_t begin = 0; begin < d_; begin += kChunk) {
    const std::size_t count = std::min(kChunk, d_ - begin);
    widen(data_, precision_, i * d_ + begin, count, e);
    for (std::size_t j = 0; j < count; ++j)
      e[j] = (e[j] - mean_[begin + j]) * inverse_scale_[begin + j] - x[begin + j];
    std::fill(e + count, e + kChunk, 0.0);
    for (std::size_t j = 0; j < kChunk; j += kSums)
      for (std::size_t q = 0; q < kSums; ++q) partial[q] += e[j + q] * e[j + q];
  }
  double total = 0.0;
  for (const double sum : partial) total += sum;
  return total;
}

const std::vector<std::int64_t>& Pool<Cpu>::candidates(const double* x, std::size_t k,
                                                       bool available_only) const {
  auto& work = work_;
  const bool copy = precision_ != Precision::Half;
  double x_norm = 0.0;
  for (std::size_t j = 0; j < d_; ++j) {
    const double v = x[j] - center_[j];
    work.w[j] = static_cast<float>(copy ? v / scale_ : v * inverse_scale_[j]);
    x_norm += v * v;
  }
  const double margin = 2.0 * rank_error(std::sqrt(x_norm), largest_norm_, offset_,
                                         copy ? 0x1p-25 / scale_ : 0.0, d_);
  const std::uint16_t* rows = copy ? rounded_.data() : static_cast<const std::uint16_t*>(data_);
  const double cost = static_cast<double>(m_) * static_cast<double>(d_);
  const std::size_t parts = parallel_parts(m_, cost);
  if (work.found.size() < parts) {
    work.smallest.resize(parts);
    work.found.resize(parts);
    for (auto& found : work.found) found.reserve(kBlock);
  }
  // A step reads about as much besides the pool, so count a quarter of a typical L2 cache as near.
  constexpr std::size_t kMaxNear = std::size_t{1} << 18, kMaxCached = std::size_t{1} << 24;
  const std::size_t bytes = m_ * d_ * sizeof(std::uint16_t);
  const Reach reach = bytes <= kMaxNear     ? Reach::Near
                      : bytes <= kMaxCached ? Reach::Cached
                                            : Reach::Memory;
  std::atomic<std::size_t> next{0};
  parallel_ranges(m_, cost, [&](std::size_t begin, std::size_t end) {
    const std::size_t part = next++;
    Shortlist mine{work.smallest[part], work.found[part], k, margin};
    mine.smallest.clear();
    mine.found.clear();
    float rank[kBlock];
    for (std::size_t b = begin; b < end; b += kBlock) {
      const std::size_t count = std::min(kBlock, end - b);
      simd().scan_f16(rows + b * d_, count, d_, reach, work.w.data(), norm_.data() + b, rank);
      for (std::size_t r = 0; r < count; ++r)
        if (mine.may(rank[r]) && !(available_only && is_taken(b + r))) mine.offer(b + r, rank[r]);
    }
  });
  auto& smallest = work.smallest[0];
  const std::size_t used = next;
  for (std::size_t p = 1; p < used; ++p)
    smallest.insert(smallest.end(), work.smallest[p].begin(), work.smallest[p].end());
  float cut = kInfinity;
  if (smallest.size() >= k) {
    const auto at = smallest.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(smallest.begin(), at, smallest.end());
    cut = Shortlist::above(*at + margin);
  }
  work.rows.clear();
  for (std::size_t p = 0; p < used; ++p)
    for (const auto& [rank, row] : work.found[p])
      if (!(rank > cut)) work.rows.push_back(row);
  return work.rows;
}

// Rescore these rows in float64 and leave the k nearest in work_.nearest.
void Pool<Cpu>::nearest_of(const std::vector<std::int64_t>& rows, const double* x,
                           std::size_t k) const {
  work_.nearest.resize(rows.size());
  parallel_ranges(rows.size(), static_cast<double>(rows.size()) * d_,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t c = begin; c < end; ++c)
                      work_.nearest[c] = {distance(static_cast<std::size_t>(rows[c]), x), rows[c]};
                  });
  std::partial_sort(work_.nearest.begin(), work_.nearest.begin() + static_cast<std::ptrdiff_t>(k),
                    work_.nearest.end());
  work_.nearest.resize(k);
}

std::vector<Neighbor> Pool<Cpu>::k_nearest(const double* x, std::size_t k,
                                           bool available_only) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, available_only ? available_ : m_);
  if (k == 0) return {};
  nearest_of(candidates(x, k, available_only), x, k);
  return work_.nearest;
}

double Pool<Cpu>::radius(std::size_t i, std::size_t k) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, m_ - 1) + 1;  // the candidate itself is counted too
  row(i, work_.point.data());
  nearest_of(candidates(work_.point.data(), k, false), work_.point.data(), k);
  return std::sqrt(work_.nearest.back().distance);
}

std::int64_t Pool<Cpu>::nearest(const double* x) const {
  const std::lock_guard lock(mutex_);
  if (available_ == 0) return -1;
  const auto& rows = candidates(x, 1, true);
  if (rows.size() == 1) return rows.front();  // the usual case: one candidate within the margin
  nearest_of(rows, x, 1);
  return work_.nearest.front().index;
}

void Pool<Cpu>::distances(const double* x, double* out) const {
  parallel_ranges(m_, static_cast<double>(m_) * d_, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) out[i] = distance(i, x);
  });
}

}  // namespace zopo
