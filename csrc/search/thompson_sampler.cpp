// Samples of the posterior (search/thompson_sampler.hpp).
#include "search/thompson_sampler.hpp"

#include <cmath>

#include "base/error.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

// Added to the prior covariance, in units of the kernel's scale, so that it has a Cholesky factor
// despite near-duplicates.
constexpr double kJitter = 1e-6, kMaxJitter = 1.0;

}  // namespace

void ThompsonSampler::factorise(RegionPosterior& model) {
  const std::size_t m = model.columns();
  Doubles K(m * m);
  model.copy_gram(K.data());
  for (double jitter = kJitter;; jitter *= 10.0) {
    prior_.assign(triangle_offset(m - 1) + triangle_width(m - 1), 0.0);
    for (std::size_t i = 0; i < m; ++i) {
      double* row = prior_.data() + triangle_offset(i);
      for (std::size_t j = 0; j <= i; ++j) row[j] = K[i * m + j];
      row[i] += jitter;
    }
    if (simd().triangle_cholesky(prior_.data(), m)) break;
    if (jitter > kMaxJitter)
      throw NotPositiveDefiniteError(
          "the prior covariance of the candidates has no Cholesky factor");
  }
  prior_columns_ = m;
}

const Doubles& ThompsonSampler::sample(RegionPosterior& model, const Doubles& nuggets,
                                       const Doubles& values, const Doubles& noises) {
  const std::size_t m = model.columns(), n = values.size(), padded = triangle_width(m - 1);
  if (prior_columns_ != m) factorise(model);
  const std::uint64_t stream = 2 * count_++;  // the odd stream after it chooses the level

  weight_.resize(nuggets.size());
  amplitude_.resize(nuggets.size());
  model.shares(weight_.data(), amplitude_.data());
  double left = uniform(stream_words(seed_, stream + 1, 0).word[0]);
  std::size_t level = 0;
  while (level + 1 < nuggets.size() && left >= weight_[level]) left -= weight_[level++];
  const double scale = std::sqrt(amplitude_[level]);

  normal_.assign(padded, 0.0);
  normals(seed_, stream, m, normal_.data());  // of the candidates, then of the observations
  residual_.resize(n);
  normals(seed_, stream, n, residual_.data(), m);
  sample_.assign(padded, 0.0);
  simd().triangle_matvec(prior_.data(), m, normal_.data(), sample_.data());
  for (double& f : sample_) f *= scale;

  double mean = 0.0, square = 0.0;
  for (const double y : values) mean += y / static_cast<double>(n);
  for (const double y : values) square += (y - mean) * (y - mean) / static_cast<double>(n);
  // The mean of equal values is not always exact, and its rounding error is no deviation.
  const double spread = std::sqrt(square) > 1e-12 * std::abs(mean) ? std::sqrt(square) : 1.0;
  for (std::size_t k = 0; k < n; ++k)
    residual_[k] = (values[k] - mean) / spread - sample_[model.observed()[k]] -
                   scale * std::sqrt(nuggets[level] + noises[k]) * residual_[k];
  shift_.resize(m);
  model.propagate(level, residual_.data(), n, shift_.data());
  for (std::size_t j = 0; j < m; ++j) sample_[j] += shift_[j];
  return sample_;
}

}  // namespace zopo
