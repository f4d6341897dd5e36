// CPU engine of the pool (pool/pool.hpp): construction, availability and rows in float64. Scans are
// in pool/scan.cpp. The CUDA twin is cuda/pool/rows.cu.
#include "pool/pool.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <type_traits>

#include "base/parallel.hpp"
#include "pool/embeddings.hpp"
#include "simd/simd.hpp"

namespace zopo {
// Prepare the numbers that are scanned. A copy is centered, so that rounding is relative to the
// spread, and scaled by a power of two into the middle of half precision's range.
void Pool<Cpu>::sketch() {
  std::mutex merging;
  // Call body(i, e_i, own) on all rows and merge(own) once a thread, one thread at a time.
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
  // Clamp the exponent: the scale must stay within float64, its inverse within float32.
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
  // A thousand deviations cost three of float64's sixteen digits.
  for (std::size_t j = 0; j < d_; ++j)
    mean_afterwards_ &= std::abs(mean_[j] * inverse_scale_[j]) <= 1e3;
  sketch();
}

std::size_t Pool<Cpu>::available() const {
  const std::lock_guard lock(mutex_);
  return available_;
}

bool Pool<Cpu>::taken(std::size_t i) const {
  const std::lock_guard lock(mutex_);
  return is_taken(i);
}

void Pool<Cpu>::take(std::size_t i) {
  const std::lock_guard lock(mutex_);
  if (!is_taken(i)) --available_;
  taken_[i / 64] |= std::uint64_t{1} << (i % 64);
}

void Pool<Cpu>::release(std::size_t i) {
  const std::lock_guard lock(mutex_);
  if (is_taken(i)) ++available_;
  taken_[i / 64] &= ~(std::uint64_t{1} << (i % 64));
}

void Pool<Cpu>::row(std::size_t i, double* out) const { standardise(data_, i, out); }

void Pool<Cpu>::standardise(const void* data, std::size_t i, double* out) const {
  if (precision_ == Precision::Half)
    return simd().standardise_f16(static_cast<const std::uint16_t*>(data) + i * d_, d_,
                                  mean_.data(), inverse_scale_.data(), out);
  typed(data, precision_, [&](const auto* Z) {
    for (std::size_t j = 0; j < d_; ++j)
      out[j] = (widened(Z[i * d_ + j]) - mean_[j]) * inverse_scale_[j];
  });
}

void Pool<Cpu>::rows(const std::int64_t* index, std::size_t n, double* out) const {
  for (std::size_t i = 0; i < n; ++i) row(static_cast<std::size_t>(index[i]), out + i * d_);
}

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

}  // namespace zopo
