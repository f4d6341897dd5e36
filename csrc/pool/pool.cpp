#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <type_traits>

#include "base/parallel.hpp"
#include "pool/pool.hpp"
#include "simd/simd.hpp"

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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kBlock = 256;  // rows ranked at a time; their ranks stay in cache

// What a rank can be off by, for a row r_i of half-precision numbers and W = sum_j |w_j r_ij|:
// |e_i|^2 is rounded once to float32, w_j once, the products are summed in lanes of at least four
// and then across lanes, and the result is rounded once. By Cauchy-Schwarz W <= |x| |row|, where a
// row is |e_i| long, or |e_i| + |mean o inverse_scale| when the raw embeddings are scanned. A
// rounded copy is off by 2^-11 of each entry, or by the spacing of the smallest numbers. The
// float64 distances, whose order counts, are rounded too: d / 8 + 12 times, each at most 2 (|e_i|^2
// + |x|^2). Doubled, which covers the bound's own rounding.
double rank_error(double x_norm, double largest, double offset, double copied, std::size_t d) {
  constexpr double u = 0x1p-24, subnormal = 0x1p-146;
  const double n = static_cast<double>(d), terms = n / 4.0 + 24.0, longest = std::sqrt(largest);
  const double W = x_norm * (longest + offset);
  const double copy = copied > 0.0 ? x_norm * (0x1p-11 * longest + copied * std::sqrt(n)) : 0.0;
  const double distance = 0x1p-53 * (n / 8.0 + 12.0) * 2.0 * (largest + x_norm * x_norm);
  return 2.0 * (u * (2.0 * largest + 2.0 * terms * W) + 2.0 * copy + distance +
                n * subnormal * (1.0 + x_norm));
}

// Ranks [begin, end) against the k smallest so far: rows that may be among the k nearest.
struct Shortlist {
  std::vector<float>& smallest;
  std::vector<std::pair<float, std::int64_t>>& found;
  std::size_t k;
  double margin;  // twice the error: what two ranks can be apart in the wrong order
  float cut = kInfinity;

  // Whether a row may be one of them.
  bool may(float rank) const { return !(rank > cut) || rank == kInfinity; }
  void offer(std::size_t row, float rank) {
    const bool known = std::isfinite(rank);  // out of range otherwise: the rescoring decides
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

  static float above(double v) {  // rounded up
    return std::nextafter(static_cast<float>(v), kInfinity);
  }
};

}  // namespace

template <>
void Pool<Cpu>::row(std::size_t i, double* out) const;

// The numbers to scan. A copy is centered, so that rounding is relative to the spread, and scaled
// by a power of two into the middle of half precision's range.
template <>
void Pool<Cpu>::sketch() {
  std::mutex merging;
  // Calls body(i, e_i, mine) on all rows and merge(mine) once a thread, one at a time.
  const auto for_rows = [&](auto mine, auto&& body, auto&& merge) {
    const double work = static_cast<double>(m_) * static_cast<double>(d_);
    parallel_ranges(m_, work, [&](std::size_t begin, std::size_t end) {
      Doubles e(d_);
      auto own = mine;
      for (std::size_t i = begin; i < end; ++i) {
        row(i, e.data());
        body(i, e.data(), own);
      }
      const std::lock_guard lock(merging);
      merge(own);
    });
  };
  const auto measure = [&](std::size_t i, const double* e, double& largest) {
    const double norm = simd().dot(e, e, d_);
    norm_[i] = static_cast<float>(norm);
    largest = std::max(largest, norm);
  };
  const auto keep = [&](double largest) { largest_norm_ = std::max(largest_norm_, largest); };
  norm_.resize(m_);
  if (precision_ == Precision::Half) {
    for (std::size_t j = 0; j < d_; ++j) {
      const double v = mean_[j] * inverse_scale_[j];
      offset_ += v * v;
    }
    offset_ = std::sqrt(offset_);
    return for_rows(0.0, measure, keep);
  }

  struct Extent {
    Doubles sum, low, high;
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Extent all = {Doubles(d_, 0.0), Doubles(d_, infinity), Doubles(d_, -infinity)};
  for_rows(
      all,
      [&](std::size_t, const double* e, Extent& own) {
        simd().moments_pass(e, d_, own.sum.data(), own.low.data(), own.high.data());
      },
      [&](const Extent& own) {
        for (std::size_t j = 0; j < d_; ++j) {
          all.low[j] = std::min(all.low[j], own.low[j]);
          all.high[j] = std::max(all.high[j], own.high[j]);
        }
      });
  double largest_entry = 0.0;
  for (std::size_t j = 0; j < d_; ++j) {
    center_[j] = 0.5 * all.low[j] + 0.5 * all.high[j];
    largest_entry = std::max(largest_entry, 0.5 * all.high[j] - 0.5 * all.low[j]);
  }
  int exponent = 0;
  std::frexp(largest_entry, &exponent);
  // Not so far that the scale itself leaves the range of float64 or its inverse that of float32.
  scale_ = std::ldexp(1.0, std::clamp(10 - exponent, -100, 100));
  rounded_.resize(m_ * d_);
  for_rows(
      0.0,
      [&](std::size_t i, double* e, double& largest) {
        for (std::size_t j = 0; j < d_; ++j) e[j] -= center_[j];
        measure(i, e, largest);
        for (std::size_t j = 0; j < d_; ++j) e[j] *= scale_;
        simd().narrow_f16(e, d_, rounded_.data() + i * d_);
      },
      keep);
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
      center_(d, 0.0) {
  work_.point.resize(d);
  work_.w.resize(d);
  work_.nearest.reserve(kBlock);
  work_.rows.reserve(kBlock);
  // A thousand deviations: three of float64's sixteen digits.
  for (std::size_t j = 0; j < d_; ++j)
    mean_afterwards_ &= std::abs(mean_[j] * inverse_scale_[j]) <= 1e3;
  sketch();
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
void Pool<Cpu>::rows(const std::int64_t* index, std::size_t n, double* out) const {
  for (std::size_t i = 0; i < n; ++i) row(static_cast<std::size_t>(index[i]), out + i * d_);
}

template <>
void Pool<Cpu>::inner(const std::int64_t* index, std::size_t n, const double* x, double* out,
                      double* work) const {
  for (std::size_t j = 0; j < d_; ++j) work[j] = x[j] * inverse_scale_[j];
  const auto& isa = simd();
  typed(data_, precision_, [&](const auto* Z) {
    if constexpr (std::is_same_v<decltype(Z), const Half*>)
      isa.rows_matvec_f16(&Z->bits, d_, index, n, mean_within(), work, out);
    else if constexpr (std::is_same_v<decltype(Z), const float*>)
      isa.rows_matvec_f32(Z, d_, index, n, mean_within(), work, out);
    else
      isa.rows_matvec_f64(Z, d_, index, n, mean_within(), work, out);
  });
  if (!mean_afterwards_) return;
  const double offset = isa.dot(mean_.data(), work, d_);
  for (std::size_t i = 0; i < n; ++i) out[i] -= offset;
}

template <>
void Pool<Cpu>::combine(const std::int64_t* index, std::size_t n, const double* a, double* out,
                        double* work) const {
  std::fill_n(work, d_, 0.0);
  const auto& isa = simd();
  typed(data_, precision_, [&](const auto* Z) {
    if constexpr (std::is_same_v<decltype(Z), const Half*>)
      isa.rows_combine_f16(&Z->bits, d_, index, n, mean_within(), a, work);
    else if constexpr (std::is_same_v<decltype(Z), const float*>)
      isa.rows_combine_f32(Z, d_, index, n, mean_within(), a, work);
    else
      isa.rows_combine_f64(Z, d_, index, n, mean_within(), a, work);
  });
  if (mean_afterwards_) isa.axpy(d_, -std::accumulate(a, a + n, 0.0), mean_.data(), work);
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
  // A step touches as much again as a quarter of a usual second-level cache.
  constexpr std::size_t kNear = std::size_t{1} << 18, kCached = std::size_t{1} << 24;
  const std::size_t bytes = m_ * d_ * sizeof(std::uint16_t);
  const Reach reach = bytes <= kNear     ? Reach::Near
                      : bytes <= kCached ? Reach::Cached
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

// Rescores in float64: the k nearest of these rows into work_.nearest.
template <>
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

template <>
std::vector<Neighbor> Pool<Cpu>::k_nearest(const double* x, std::size_t k,
                                           bool available_only) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, available_only ? available_ : m_);
  if (k == 0) return {};
  nearest_of(candidates(x, k, available_only), x, k);
  return work_.nearest;
}

template <>
double Pool<Cpu>::radius(std::size_t i, std::size_t k) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, m_ - 1) + 1;  // itself among them
  row(i, work_.point.data());
  nearest_of(candidates(work_.point.data(), k, false), work_.point.data(), k);
  return std::sqrt(work_.nearest.back().distance);
}

template <>
std::int64_t Pool<Cpu>::nearest(const double* x) const {
  const std::lock_guard lock(mutex_);
  if (available_ == 0) return -1;
  const auto& rows = candidates(x, 1, true);
  if (rows.size() == 1) return rows.front();  // the usual case: nothing else within the error
  nearest_of(rows, x, 1);
  return work_.nearest.front().index;
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
