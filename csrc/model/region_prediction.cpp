// Predictions of a region's model, at its candidates and at any point (model/region_posterior.hpp).
#include <algorithm>

#include "base/parallel.hpp"
#include "model/region_posterior.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr std::size_t kPanel = 64;  // columns of a panel: see simd/simd.hpp

}  // namespace

void RegionPosterior::predict(double* mean, double* variance, bool latent) const {
  const std::size_t n = size();
  std::fill_n(mean, columns(), 0.0);
  std::fill_n(variance, columns(), 0.0);
  const auto add = [&](std::size_t j, double weight, double mu, double v) {
    mean[j] += weight * mu;
    variance[j] += weight * (std::max(v, 0.0) + mu * mu);
  };
  std::vector<bool> is_observed(columns());
  for (const std::size_t j : observed_) is_observed[j] = true;
  Doubles a(n), precision(n);
  for (std::size_t g = 0; g < levels(); ++g) {
    const Level& level = level_[g];
    const double nugget = latent ? 0.0 : level.nugget;
    const double scale = level.amplitude * score_deviation_ * score_deviation_;
    for (std::size_t j = 0; j < columns(); ++j)
      if (!is_observed[j])
        add(j, level.weight, level.mean_y[j] - score_mean_ * level.mean_1[j],
            scale * (std::max(static_cast<double>(level.variance[j]), 0.0) + nugget));
    alpha(g, a.data());
    std::fill(precision.begin(), precision.end(), 0.0);
    for (std::size_t r = 0; r < n; ++r) {
      const double* row = level.M.data() + triangle_offset(r);
      for (std::size_t i = 0; i <= r; ++i) precision[i] += row[i] * row[i];
    }
    for (std::size_t i = 0; i < n; ++i)
      add(observed_[i], level.weight, y_[i] - score_mean_ - a[i] / precision[i],
          scale * (1.0 / precision[i] - noise_[i] - (level.nugget - nugget)));
  }
  for (std::size_t j = 0; j < columns(); ++j) {
    variance[j] = std::max(variance[j] - mean[j] * mean[j], 0.0);
    mean[j] += score_mean_;
  }
}

void RegionPosterior::predict_at(const double* X_observed, const double* X, std::size_t n,
                                 double* mean, double* variance, bool latent) const {
  const std::size_t rows = size(), height = rows == 0 ? 0 : triangle_width(rows - 1);
  const std::size_t ld = (n + kPanel - 1) / kPanel * kPanel;
  std::fill_n(mean, n, 0.0);
  std::fill_n(variance, n, 0.0);
  Floats K(rows * ld), own(n);
  for (std::size_t b = 0; b < basis_.size(); ++b) {
    basis_[b].kernel.between(X_observed, rows, X, n, K.data(), ld, own.data());
    const std::span levels = std::span(level_).subspan(b * nuggets(), nuggets());
    const double work =
        static_cast<double>(n * rows) * static_cast<double>(rows * levels.size()) / 2.0;
    parallel_ranges(ld / kConditioned, work, [&](std::size_t begin, std::size_t end) {
      Doubles k(height * kConditioned, 0.0), V(8 * kConditioned), sums(3 * kConditioned);
      const double *squares = sums.data(), *y = squares + kConditioned, *ones = y + kConditioned;
      for (std::size_t j = begin * kConditioned; j < std::min(n, end * kConditioned);
           j += kConditioned) {
        const std::size_t width = std::min(kConditioned, n - j);
        for (std::size_t i = 0; i < rows; ++i)
          for (std::size_t c = 0; c < width; ++c) k[i * kConditioned + c] = K[i * ld + j + c];
        for (const Level& level : levels) {
          project(level, k.data(), V.data(), sums.data());
          const double nugget = latent ? 0.0 : level.nugget;
          const double scale = level.amplitude * score_deviation_ * score_deviation_;
          for (std::size_t c = 0; c < width; ++c) {
            const double mu = y[c] - score_mean_ * ones[c];
            const double left = std::max(own[j + c] - squares[c], 0.0);
            mean[j + c] += level.weight * mu;
            variance[j + c] += level.weight * (scale * (left + nugget) + mu * mu);
          }
        }
      }
    });
  }
  for (std::size_t j = 0; j < n; ++j) {
    variance[j] = std::max(variance[j] - mean[j] * mean[j], 0.0);
    mean[j] += score_mean_;
  }
}

}  // namespace zopo
