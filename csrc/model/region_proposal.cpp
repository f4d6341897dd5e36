// Proposals of a region: pending candidates and the expected improvement
// (model/region_posterior.hpp).
#include <algorithm>

#include "model/region_posterior.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr double kMinVariance = 1e-12;  // of a candidate, in units of the kernel's scale
constexpr double kMinWeight = 1e-4;     // levels of less weight are skipped

// Scores count as mostly noise when levels with a nugget above kNoisyNugget have more than this
// share of the evidence.
constexpr double kNoisyNugget = 0.3, kNoisyShare = 0.4;

}  // namespace

void RegionPosterior::fantasise(const std::int64_t* pending, std::size_t n) {
  std::size_t same = 0;
  while (same < std::min(n, pending_.size()) && pending[same] == pending_[same]) ++same;
  if (same < pending_.size() || pending_.empty()) {
    same = 0;
    for (Level& level : level_) level.fantasised = level.variance;
  }
  pending_.resize(same);
  column_.resize(size() + same);
  for (; same < n; ++same) {
    const auto column = static_cast<std::size_t>(pending[same]);
    const std::size_t rows = size() + same;
    const float* row = solve(column, rows, kMinVariance);
    for (std::size_t g = 0; g < levels(); ++g) std::copy_n(row, stride(), &t_[g * stride()]);
    combine(rows, -1.0);
    for (std::size_t g = 0; g < levels(); ++g) {
      Level& level = level_[g];
      extend(level, rows);
      simd().add_variance(stride(), &t_[g * stride()], -1.0 / (level.pivot * level.pivot),
                          level.fantasised.data());
    }
    keep_row(column, row, rows);
    pending_.push_back(pending[same]);
  }
}

std::int64_t RegionPosterior::most_promising() const {
  std::int64_t at = -1;
  for (std::size_t j = 0; j < columns(); ++j)
    if (!excluded_[j] && criterion_[j] >= 0.0 &&
        (at < 0 || criterion_[j] > criterion_[static_cast<std::size_t>(at)]))
      at = static_cast<std::int64_t>(j);
  return at;
}

bool RegionPosterior::mostly_noise() const {
  double share = 0.0;
  for (const Level& level : level_)
    if (level.nugget > kNoisyNugget) share += level.weight;
  return share > kNoisyShare;
}

// Restrict the criterion to the free candidates nearest to `center`.
void RegionPosterior::keep_near(std::size_t center, std::size_t nearest) {
  if (near_.empty() || near_of_ != center) {
    const float* row = kernel_.row(center);
    near_.assign(row, row + stride());
    near_of_ = center;
  }
  distance_.clear();
  for (std::size_t j = 0; j < columns(); ++j)
    if (!excluded_[j] && criterion_[j] >= 0.0)
      distance_.emplace_back(diagonal()[j] - 2.0f * near_[j], j);
  if (distance_.size() <= nearest) return;
  const auto last = distance_.begin() + static_cast<std::ptrdiff_t>(nearest);
  std::nth_element(distance_.begin(), last, distance_.end());
  for (auto far = last; far != distance_.end(); ++far) criterion_[far->second] = -1.0;
}

std::int64_t RegionPosterior::propose(const std::int64_t* pending, std::size_t n, double incumbent,
                                      int power, std::size_t center, std::size_t nearest) {
  fantasise(pending, n);
  const double standardised = (incumbent - score_mean_) / score_deviation_;
  const auto add = [&](const Level& level, int p) {
    simd().improvement(stride(), level.mean_y.data(), level.mean_1.data(), level.fantasised.data(),
                       score_mean_, 1.0 / score_deviation_, standardised, level.amplitude,
                       level.weight, p, criterion_.data());
  };
  std::fill(criterion_.begin(), criterion_.end(), 0.0);
  for (const Level& level : level_)
    if (level.weight > kMinWeight) add(level, power);
  const auto mask_unavailable = [&] {
    for (const std::int64_t i : pending_) criterion_[static_cast<std::size_t>(i)] = -1.0;
    if (nearest < columns() && mostly_noise()) keep_near(center, nearest);
  };
  mask_unavailable();
  const std::int64_t found = most_promising();
  if (found < 0 || criterion_[static_cast<std::size_t>(found)] > 0.0) return found;
  // Every improvement underflows: rank by standardised distance from the incumbent instead.
  std::fill(criterion_.begin(), criterion_.end(), 0.0);
  add(*std::max_element(level_.begin(), level_.end(),
                        [](const Level& a, const Level& b) { return a.weight < b.weight; }),
      0);
  const double lowest = *std::min_element(criterion_.begin(), criterion_.end());
  for (double& c : criterion_) c -= lowest;
  mask_unavailable();
  return most_promising();
}

}  // namespace zopo
