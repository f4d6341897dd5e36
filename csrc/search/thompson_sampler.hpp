// Samples of the posterior at every candidate of a region (Thompson 1933), by Matheron's rule: a
// sample of the prior, corrected at the observations (Wilson et al. 2020).
#pragma once

#include <cstdint>

#include "base/aligned.hpp"
#include "base/random.hpp"
#include "model/region_posterior.hpp"

namespace zopo {

class ThompsonSampler {
 public:
  // The n-th sample depends on the seed, on n and on the model alone.
  explicit ThompsonSampler(RandomKey seed) : seed_(seed) {}

  // Return the next sample, (model.columns(),), standardised like the scores. One level is drawn by
  // its weight. values and noises (n,) are those of the model's observations.
  const Doubles& sample(RegionPosterior& model, const Doubles& nuggets, const Doubles& values,
                        const Doubles& noises);
  // Process that the candidates of the model have changed.
  void forget_prior() { prior_columns_ = 0; }

 private:
  void factorise(RegionPosterior& model);

  RandomKey seed_;
  std::uint64_t count_ = 0;        // samples drawn
  std::size_t prior_columns_ = 0;  // of prior_; 0 for none
  Doubles prior_;                  // Cholesky factor of the prior covariance, a packed triangle
  Doubles normal_, sample_, residual_, shift_, weight_, amplitude_;
};

}  // namespace zopo
