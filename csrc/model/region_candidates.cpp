// Candidates of a region that are replaced or added (model/region_posterior.hpp).
#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "model/region_posterior.hpp"
#include "simd/simd.hpp"

namespace zopo {
// Fit everything that has an entry for each candidate to the kernel rows; the candidates after the
// first `before` ones are new, and free.
void RegionPosterior::resize_columns(std::size_t before) {
  criterion_.resize(stride());
  distance_.resize(stride());
  near_.reserve(has_gram() ? 0 : stride());
  promising_.reserve(columns());
  exact_.reserve(3 * columns());
  offset_.resize(before);
  offset_.resize(columns(), 0.0f);
  offset_.resize(stride(), kTaken);
  for (Level& level : level_) {
    level.variance.resize(stride(), 0.0f);
    level.fantasised.resize(stride(), 0.0f);
    for (Doubles* of : {&level.mean_y, &level.mean_1}) of->resize(stride(), 0.0);
  }
}

// Compute |V_c|^2, V_c^T M y and V_c^T M 1 with V = M k, of kConditioned columns k (size, kConditioned)
// that are zero up to a multiple of 8 rows; `V` is scratch of 8 rows. A panel of columns stays in L1
// while the rows of M pass by.
void RegionPosterior::project(const Level& level, const double* k, double* V, double* sums) const {
  const std::size_t rows = size();
  alignas(64) constexpr double zeros[kConditioned] = {};
  double *squares = sums, *y = squares + kConditioned, *ones = y + kConditioned;
  std::fill_n(sums, 3 * kConditioned, 0.0);
  for (std::size_t i = 0; i < rows; i += 8) {
    const std::size_t count = std::min<std::size_t>(8, rows - i);
    simd().gemm(count, kConditioned, triangle_width(i), level.M.data() + triangle_offset(i),
                triangle_width(i), k, kConditioned, V, kConditioned, false);
    for (std::size_t r = 0; r < count; ++r)
      simd().squares_pass(V + r * kConditioned, kConditioned, zeros, squares);
    simd().matvec_transposed(V, kConditioned, count, kConditioned, &level.z_y[i], y);
    simd().matvec_transposed(V, kConditioned, count, kConditioned, &level.z_1[i], ones);
  }
}

// Recompute variances and means at columns from M: with V = M K_obs they are k(c, c) - |V_c|^2 and
// V^T M y.
void RegionPosterior::condition(const std::size_t* columns, std::size_t n) {
  for (std::size_t b = 0; b < basis_.size(); ++b)
    condition(basis_[b], std::span(level_).subspan(b * nuggets(), nuggets()), columns, n);
}

void RegionPosterior::condition(const Basis& basis, std::span<Level> levels,
                                const std::size_t* columns, std::size_t n) {
  const std::size_t rows = size(), padded = rows == 0 ? 0 : triangle_width(rows - 1);
  const double work =
      static_cast<double>(n * rows) * static_cast<double>(rows * levels.size()) / 2.0;
  parallel_ranges(
      (n + kConditioned - 1) / kConditioned, work, [&](std::size_t begin, std::size_t end) {
        Doubles k(padded * kConditioned, 0.0), V(8 * kConditioned), sums(3 * kConditioned);
        const double *squares = sums.data(), *y = squares + kConditioned, *ones = y + kConditioned;
        for (std::size_t j = begin * kConditioned; j < std::min(n, end * kConditioned);
             j += kConditioned) {
          const std::size_t width = std::min(kConditioned, n - j);
          for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t c = 0; c < width; ++c)
              k[i * kConditioned + c] = basis.K()[rows_of_K()[i] * stride() + columns[j + c]];
          for (Level& level : levels) {
            project(level, k.data(), V.data(), sums.data());
            for (std::size_t c = 0; c < width; ++c) {
              const std::size_t at = columns[j + c];
              level.variance[at] = static_cast<float>(basis.kernel.diagonal()[at] - squares[c]);
              level.mean_y[at] = y[c];
              level.mean_1[at] = ones[c];
            }
          }
        }
      });
}

void RegionPosterior::replace(const std::size_t* columns, std::size_t n, const double* X) {
  std::vector<bool> taken(this->columns(), false);
  for (const std::size_t column : column_) taken[column] = true;  // pending ones too
  for (std::size_t i = 0; i < n; ++i) {
    if (taken[columns[i]])
      throw ArrayError("columns: candidate " + std::to_string(columns[i]) +
                       " is observed, pending or listed twice");
    taken[columns[i]] = true;
  }
  for (Basis& of : basis_) of.kernel.replace(columns, n, X);
  drop_pending();
  near_.clear();
  if (!has_gram() && size() > 0) {
    Floats k(size() * n);
    for (Basis& of : basis_) {
      of.kernel.block(observed_.data(), size(), columns, n, k.data(), n);
      for (std::size_t i = 0; i < size(); ++i)
        for (std::size_t j = 0; j < n; ++j) of.K_obs[i * stride() + columns[j]] = k[i * n + j];
    }
  }
  for (std::size_t i = 0; i < n; ++i) include(columns[i]);
  condition(columns, n);
}

void RegionPosterior::extend(const double* X, std::size_t columns) {
  const std::size_t before = this->columns(), old_stride = stride();
  if (columns < before)
    throw ArrayError("X: expected at least the " + std::to_string(before) + " present rows, got " +
                     std::to_string(columns));
  drop_pending();
  near_.clear();
  std::vector<std::size_t> added(columns - before);
  std::iota(added.begin(), added.end(), before);
  for (Basis& of : basis_) {
    if (of.kernel.gram() && !of.kernel.keeps_gram(columns)) {  // from now on K_obs is stored here
      of.K_obs.clear();
      for (const std::size_t c : observed_)
        of.K_obs.insert(of.K_obs.end(), of.kernel.row(c), of.kernel.row(c) + old_stride);
    }
    of.kernel.extend(X, columns);
    if (of.kernel.gram()) continue;
    const std::size_t stride = of.kernel.stride();
    Floats K(size() * stride, 0.0f);
    for (std::size_t i = 0; i < size(); ++i)
      std::copy_n(&of.K_obs[i * old_stride], before, &K[i * stride]);
    of.kernel.block(observed_.data(), size(), added.data(), added.size(), K.data() + before,
                    stride);
    of.K_obs = std::move(K);
  }
  while (!has_gram() && order_.size() < size()) order_.push_back(order_.size());
  resize_columns(before);
  condition(added.data(), added.size());
}

}  // namespace zopo
