#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <type_traits>

#include "parallel.hpp"
#include "pool.hpp"
#include "simd.hpp"

namespace zopo {
namespace {

struct Half {
  std::uint16_t bits;
};

// Exact: the exponent is rebased by a multiplication; a pool holds no infinities.
double value(Half h) {
  const float magnitude =
      std::bit_cast<float>(static_cast<std::uint32_t>(h.bits & 0x7fff) << 13) * 0x1p112f;
  return h.bits & 0x8000 ? -magnitude : magnitude;
}
double value(float v) { return v; }
double value(double v) { return v; }

// Calls f with `data` as a pointer to its element type.
template <class F>
decltype(auto) typed(const void* data, Precision precision, F&& f) {
  switch (precision) {
    case Precision::Half:
      return f(static_cast<const Half*>(data));
    case Precision::Single:
      return f(static_cast<const float*>(data));
    default:
      return f(static_cast<const double*>(data));
  }
}

// Entries [from, from + count) in float64, exactly.
void widen(const void* data, Precision precision, std::size_t from, std::size_t count,
           double* out) {
  if (precision == Precision::Half)
    return simd().widen_f16(static_cast<const std::uint16_t*>(data) + from, count, out);
  typed(data, precision, [&](const auto* Z) {
    for (std::size_t j = 0; j < count; ++j) out[j] = value(Z[from + j]);
  });
}

constexpr std::size_t kBlock = 256;  // rows ranked at a time; their ranks stay in cache

// What a rank can be off by. Per row i, with u the unit roundoff and W = sum_j |x_j s_j z_ij|:
// |e_i|^2 is rounded once, w_j = x_j s_j once, the products are summed in lanes of at least four
// (two in float64) and then across lanes, and the result is rounded once. Cauchy-Schwarz gives
// W <= |x| |s o z_i| <= |x| (|e_i| + |mean o s|). Doubled, which covers the bound's own rounding.
template <class F>
double rank_error(double x_norm, double largest_norm, double offset, std::size_t d) {
  const double u = std::is_same_v<F, float> ? 0x1p-24 : 0x1p-53;
  const double subnormal = std::is_same_v<F, float> ? 0x1p-146 : 0x1p-1071;
  const double terms = static_cast<double>(d) / (std::is_same_v<F, float> ? 4.0 : 2.0) + 24.0;
  const double W = x_norm * (std::sqrt(largest_norm) + offset);
  return 2.0 * (u * (2.0 * largest_norm + 2.0 * terms * W) +
                static_cast<double>(d) * subnormal * (1.0 + x_norm));
}

// Ranks [begin, end) against the k smallest so far: rows that may be among the k nearest.
template <class F>
struct Shortlist {
  std::vector<F>& smallest;
  std::vector<std::pair<F, std::int64_t>>& found;
  std::size_t k;
  double margin;  // twice the error: what two ranks can be apart in the wrong order
  F cut = std::numeric_limits<F>::infinity();

  void offer(std::size_t row, F rank) {
    found.push_back({rank, static_cast<std::int64_t>(row)});
    if (!std::isfinite(rank)) return;  // out of range: nothing is known, the rescoring decides
    if (smallest.size() == k) {
      if (rank >= smallest.front()) return;
      std::pop_heap(smallest.begin(), smallest.end());
      smallest.pop_back();
    }
    smallest.push_back(rank);
    std::push_heap(smallest.begin(), smallest.end());
    if (smallest.size() == k) cut = above(smallest.front() + margin);
  }

  static F above(double v) {  // rounded up
    return std::nextafter(static_cast<F>(v), std::numeric_limits<F>::infinity());
  }
};

}  // namespace

template <>
template <class Norms>
void Pool<Cpu>::prepare(Norms& norm) {
  using F = typename Norms::value_type;
  norm.resize(m_);
  std::mutex merging;
  parallel_ranges(m_, static_cast<double>(m_) * d_, [&](std::size_t begin, std::size_t end) {
    double largest = 0.0;
    Doubles e(d_);
    for (std::size_t i = begin; i < end; ++i) {
      row(i, e.data());
      const double total = simd().dot(e.data(), e.data(), d_);
      norm[i] = static_cast<F>(total);
      largest = std::max(largest, total);
    }
    const std::lock_guard lock(merging);
    largest_norm_ = std::max(largest_norm_, largest);
  });
}

template <>
Pool<Cpu>::Pool(const void* data, Precision precision, std::size_t m, std::size_t d, Doubles mean,
                Doubles inverse_scale)
    : data_(data),
      precision_(precision),
      m_(m),
      d_(d),
      available_(m),
      mean_(std::move(mean)),
      inverse_scale_(std::move(inverse_scale)),
      taken_((m + 63) / 64),
      point_(d) {
  nearest_.reserve(kBlock);
  for (std::size_t j = 0; j < d_; ++j) {
    const double v = mean_[j] * inverse_scale_[j];
    offset_ += v * v;
  }
  offset_ = std::sqrt(offset_);
  if (precision_ == Precision::Double)
    prepare(norm_f64_);
  else
    prepare(norm_f32_);
}

template <>
std::size_t Pool<Cpu>::available() const {
  const std::lock_guard lock(mutex_);
  return available_;
}

template <>
bool Pool<Cpu>::taken(std::size_t i) const {
  const std::lock_guard lock(mutex_);
  return is_taken(i);
}

template <>
void Pool<Cpu>::take(std::size_t i) {
  const std::lock_guard lock(mutex_);
  if (!is_taken(i)) --available_;
  taken_[i / 64] |= std::uint64_t{1} << (i % 64);
}

template <>
void Pool<Cpu>::release(std::size_t i) {
  const std::lock_guard lock(mutex_);
  if (is_taken(i)) ++available_;
  taken_[i / 64] &= ~(std::uint64_t{1} << (i % 64));
}

template <>
void Pool<Cpu>::row(std::size_t i, double* out) const {
  if (precision_ == Precision::Half)
    return simd().standardise_f16(static_cast<const std::uint16_t*>(data_) + i * d_, d_,
                                  mean_.data(), inverse_scale_.data(), out);
  typed(data_, precision_, [&](const auto* Z) {
    for (std::size_t j = 0; j < d_; ++j)
      out[j] = (value(Z[i * d_ + j]) - mean_[j]) * inverse_scale_[j];
  });
}

template <>
void Pool<Cpu>::inner(const std::int64_t* index, std::size_t n, const double* x, double* out,
                      double* work) const {
  for (std::size_t j = 0; j < d_; ++j) work[j] = x[j] * inverse_scale_[j];
  const auto& isa = simd();
  typed(data_, precision_, [&](const auto* Z) {
    if constexpr (std::is_same_v<decltype(Z), const Half*>)
      isa.rows_matvec_f16(&Z->bits, d_, index, n, mean_.data(), work, out);
    else if constexpr (std::is_same_v<decltype(Z), const float*>)
      isa.rows_matvec_f32(Z, d_, index, n, mean_.data(), work, out);
    else
      isa.rows_matvec_f64(Z, d_, index, n, mean_.data(), work, out);
  });
}

template <>
void Pool<Cpu>::combine(const std::int64_t* index, std::size_t n, const double* a, double* out,
                        double* work) const {
  std::fill_n(work, d_, 0.0);
  const auto& isa = simd();
  typed(data_, precision_, [&](const auto* Z) {
    if constexpr (std::is_same_v<decltype(Z), const Half*>)
      isa.rows_combine_f16(&Z->bits, d_, index, n, mean_.data(), a, work);
    else if constexpr (std::is_same_v<decltype(Z), const float*>)
      isa.rows_combine_f32(Z, d_, index, n, mean_.data(), a, work);
    else
      isa.rows_combine_f64(Z, d_, index, n, mean_.data(), a, work);
  });
  for (std::size_t j = 0; j < d_; ++j) out[j] += work[j] * inverse_scale_[j];
}

template <>
double Pool<Cpu>::distance(std::size_t i, const double* x) const {
  constexpr std::size_t kChunk = 64, kSums = 8;  // the additions need not wait for each other
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

template <>
template <class Z, class F>
void Pool<Cpu>::shortlist(const Z* data, const F* norm, Workspace<F>& work, const double* x,
                          std::size_t k, bool available_only) const {
  double x_norm = 0.0;
  work.w.resize(d_);
  for (std::size_t j = 0; j < d_; ++j) {
    work.w[j] = static_cast<F>(x[j] * inverse_scale_[j]);
    x_norm += x[j] * x[j];
  }
  const double margin = 2.0 * rank_error<F>(std::sqrt(x_norm), largest_norm_, offset_, d_);
  const double cost = static_cast<double>(m_) * static_cast<double>(d_);
  const std::size_t parts = parallel_parts(m_, cost);
  work.smallest.resize(std::max(work.smallest.size(), parts));
  work.found.resize(std::max(work.found.size(), parts));
  for (auto& found : work.found) found.reserve(kBlock);
  work.rows.reserve(kBlock);
  // A step touches as much again as a quarter of a usual second-level cache.
  constexpr std::size_t kNear = std::size_t{1} << 18, kCached = std::size_t{1} << 24;
  const std::size_t bytes = m_ * d_ * sizeof(Z);
  const Reach reach = bytes <= kNear     ? Reach::Near
                      : bytes <= kCached ? Reach::Cached
                                         : Reach::Memory;
  std::atomic<std::size_t> next{0};
  parallel_ranges(m_, cost, [&](std::size_t begin, std::size_t end) {
    const std::size_t part = next++;
    Shortlist<F> mine{work.smallest[part], work.found[part], k, margin};
    mine.smallest.clear();
    mine.found.clear();
    F rank[kBlock];
    for (std::size_t b = begin; b < end; b += kBlock) {
      const std::size_t rows = std::min(kBlock, end - b);
      if constexpr (std::is_same_v<Z, Half>)
        simd().scan_f16(&data[b * d_].bits, rows, d_, reach, work.w.data(), norm + b, rank);
      else if constexpr (std::is_same_v<Z, float>)
        simd().scan_f32(data + b * d_, rows, d_, reach, work.w.data(), norm + b, rank);
      else
        simd().scan_f64(data + b * d_, rows, d_, reach, work.w.data(), norm + b, rank);
      for (std::size_t r = 0; r < rows; ++r)
        if (!(rank[r] > mine.cut) && !(available_only && is_taken(b + r)))
          mine.offer(b + r, rank[r]);
    }
  });
  auto& smallest = work.smallest[0];
  const std::size_t used = next;
  for (std::size_t p = 1; p < used; ++p)
    smallest.insert(smallest.end(), work.smallest[p].begin(), work.smallest[p].end());
  F cut = std::numeric_limits<F>::infinity();
  if (smallest.size() >= k) {
    const auto at = smallest.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(smallest.begin(), at, smallest.end());
    cut = Shortlist<F>::above(*at + margin);
  }
  work.rows.clear();
  for (std::size_t p = 0; p < used; ++p)
    for (const auto& [rank, row] : work.found[p])
      if (!(rank > cut)) work.rows.push_back(row);
}

template <>
const std::vector<std::int64_t>& Pool<Cpu>::candidates(const double* x, std::size_t k,
                                                       bool available_only) const {
  return typed(data_, precision_, [&](const auto* Z) -> const std::vector<std::int64_t>& {
    if constexpr (std::is_same_v<decltype(Z), const double*>) {
      shortlist(Z, norm_f64_.data(), work_f64_, x, k, available_only);
      return work_f64_.rows;
    } else {
      shortlist(Z, norm_f32_.data(), work_f32_, x, k, available_only);
      return work_f32_.rows;
    }
  });
}

// Rescores in float64: the k nearest of these rows into nearest_.
template <>
void Pool<Cpu>::nearest_of(const std::vector<std::int64_t>& rows, const double* x,
                           std::size_t k) const {
  nearest_.resize(rows.size());
  parallel_ranges(rows.size(), static_cast<double>(rows.size()) * d_,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t c = begin; c < end; ++c)
                      nearest_[c] = {distance(static_cast<std::size_t>(rows[c]), x), rows[c]};
                  });
  std::partial_sort(nearest_.begin(), nearest_.begin() + static_cast<std::ptrdiff_t>(k),
                    nearest_.end());
  nearest_.resize(k);
}

template <>
std::vector<Neighbor> Pool<Cpu>::k_nearest(const double* x, std::size_t k,
                                           bool available_only) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, available_only ? available_ : m_);
  if (k == 0) return {};
  nearest_of(candidates(x, k, available_only), x, k);
  return nearest_;
}

template <>
double Pool<Cpu>::radius(std::size_t i, std::size_t k) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k + 1, m_);  // itself among them
  row(i, point_.data());
  nearest_of(candidates(point_.data(), k, false), point_.data(), k);
  return std::sqrt(nearest_.back().distance);
}

template <>
std::int64_t Pool<Cpu>::nearest(const double* x) const {
  const std::lock_guard lock(mutex_);
  if (available_ == 0) return -1;
  const auto& rows = candidates(x, 1, true);
  if (rows.size() == 1) return rows.front();  // the usual case: nothing else within the error
  nearest_of(rows, x, 1);
  return nearest_.front().index;
}

template <>
void Pool<Cpu>::distances(const double* x, double* out) const {
  parallel_ranges(m_, static_cast<double>(m_) * d_, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) out[i] = distance(i, x);
  });
}

std::pair<Doubles, Doubles> column_moments(const void* data, Precision precision, std::size_t m,
                                           std::size_t d) {
  // Sums of fixed blocks of rows, added up in order: the same bits for any number of threads.
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
    double least = infinity, most = -infinity;
    for (std::size_t b = 0; b < blocks; ++b) {
      mean[j] += sums[b * d + j];
      least = std::min(least, low[b * d + j]);
      most = std::max(most, high[b * d + j]);
    }
    // A constant column's mean is that constant, not its rounded sum: its deviation is then exactly
    // 0.
    mean[j] = least == most ? least : mean[j] / rows;
  }
  std::fill(sums.begin(), sums.end(), 0.0);
  for_blocks([&](std::size_t b, const double* row) {  // a second pass: no cancellation
    simd().squares_pass(row, d, mean.data(), sums.data() + b * d);
  });
  for (std::size_t j = 0; j < d; ++j) {
    for (std::size_t b = 0; b < blocks; ++b) deviation[j] += sums[b * d + j];
    deviation[j] = std::sqrt(deviation[j] / rows);
  }
  return {std::move(mean), std::move(deviation)};
}

namespace {

// All exponent bits set: infinity or NaN. Adding one to the exponent then carries into the sign
// bit, so that a block can be tested without a branch.
template <class Bits>
std::size_t first_non_finite(const void* data, std::size_t size, Bits exponent) {
  const auto bits = [data](std::size_t k) {
    Bits value;
    std::memcpy(&value, static_cast<const char*>(data) + k * sizeof(Bits), sizeof(Bits));
    return value;
  };
  constexpr std::size_t kBlock = 1024;
  constexpr Bits sign = Bits{1} << (8 * sizeof(Bits) - 1);
  const Bits one = exponent & (~exponent + 1);
  for (std::size_t begin = 0; begin < size; begin += kBlock) {
    const std::size_t end = std::min(size, begin + kBlock);
    Bits any = 0;
    for (std::size_t k = begin; k < end; ++k) any |= static_cast<Bits>((bits(k) & exponent) + one);
    if (!(any & sign)) continue;
    for (std::size_t k = begin; k < end; ++k)
      if ((bits(k) & exponent) == exponent) return k;
  }
  return size;
}

}  // namespace

std::size_t first_non_finite(const void* data, Precision precision, std::size_t size) {
  switch (precision) {
    case Precision::Half:
      return first_non_finite(data, size, std::uint16_t{0x7c00});
    case Precision::Single:
      return first_non_finite(data, size, std::uint32_t{0x7f800000});
    default:
      return first_non_finite(data, size, std::uint64_t{0x7ff0000000000000});
  }
}

}  // namespace zopo
