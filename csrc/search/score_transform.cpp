// Transformation of scores (search/score_transform.hpp).
#include "search/score_transform.hpp"

#include <algorithm>
#include <cmath>

#include "search/ledger.hpp"

namespace zopo {
namespace {

constexpr double kMaxExponent = 50.0;     // of a transformed score
constexpr double kMaxDeviations = 1e100;  // of a score from the best one, in standard deviations
constexpr double kMaxInverted = 8.0;      // the same of a mean that is converted to a score
constexpr double kMaxNoise = 1e12;  // share of the signal; such a score carries no information

double variance_of(const Doubles& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0.0, sum = 0.0;
  for (const double v : values) mean += v;
  mean /= n;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return sum / n;
}

}  // namespace

void ScoreTransform::fit(const Doubles& scores, Doubles& values) {
  // A power of two as unit, so that no square overflows or vanishes.
  double largest = 0.0;
  for (const double s : scores) largest = std::max(largest, std::abs(s));
  int exponent = 0;
  std::frexp(largest, &exponent);
  const double unit = std::ldexp(1.0, std::clamp(exponent, -1022, 1023));
  values.resize(scores.size());
  for (std::size_t k = 0; k < scores.size(); ++k) values[k] = scores[k] / unit;
  const double deviation = unit * std::sqrt(variance_of(values));
  deviation_ = deviation > 0.0 && !all_equal(scores) ? deviation : 1.0;
  reference_ = *std::max_element(scores.begin(), scores.end());
  for (std::size_t k = 0; k < scores.size(); ++k) values[k] = value(scores[k]);
  const double variance = variance_of(values);
  noise_unit_ = variance > 0.0 ? variance : 1.0;
}

double ScoreTransform::value(double score) const {
  const double u = (score - reference_) / deviation_;
  return emphasis_ > 0.0 ? std::exp(std::min(emphasis_ * u, kMaxExponent))
                         : std::clamp(u, -kMaxDeviations, kMaxDeviations);
}

double ScoreTransform::noise(double score, double variance) const {
  if (!(variance > 0.0)) return 0.0;
  const double slope = emphasis_ > 0.0 ? emphasis_ * value(score) : 1.0;
  const double share = slope / deviation_;
  return std::min(variance * (share * share) / noise_unit_, kMaxNoise);
}

void ScoreTransform::invert(double& mean, double& variance) const {
  double slope = 1.0 / deviation_, u = mean;
  if (emphasis_ > 0.0) {
    const double t =
        std::max(mean, std::exp(-emphasis_ * kMaxInverted));  // every value is positive
    u = std::log(t) / emphasis_;
    slope *= emphasis_ * t;
  }
  mean = reference_ + deviation_ * u;
  variance /= slope * slope;
}

}  // namespace zopo
