// Transformation of scores into the values that the model of the improvement search is fitted to.
#pragma once

#include <cstddef>

#include "base/aligned.hpp"

namespace zopo {

// exp(e u) of a score, with u in standard deviations from the best score and the emphasis e.
// Differences among good scores then count more than among bad ones, which need no exact fit. With
// e = 0 the value is u.
class ScoreTransform {
 public:
  explicit ScoreTransform(double emphasis) : emphasis_(emphasis) {}

  // Set the units from all scores, (n,), and write their values, (n,).
  void fit(const Doubles& scores, Doubles& values);
  double value(double score) const;
  // Convert the variance of a score to a share of the signal variance, by the slope at the score; NaN
  // counts as 0.
  double noise(double score, double variance) const;
  // Convert mean and variance of a value to those of a score, by the slope at the mean.
  void invert(double& mean, double& variance) const;

 private:
  double emphasis_, reference_ = 0.0, deviation_ = 1.0, noise_unit_ = 1.0;
};

}  // namespace zopo
