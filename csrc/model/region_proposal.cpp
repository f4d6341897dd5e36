// Proposals of a region: pending candidates and the expected improvement
// (model/region_posterior.hpp).
#include <algorithm>
#include <bit>
#include <limits>

#include "base/parallel.hpp"
#include "model/region_posterior.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr std::size_t kPanel = 64;      // columns of a panel: see simd/simd.hpp
constexpr double kMinVariance = 1e-12;  // of a candidate, in units of the kernel's scale
constexpr double kMinWeight = 1e-4;     // levels of less weight are skipped

// The criterion in single precision is off by 4e-4 of its value, down to kMinCriterion.
constexpr float kUncertain = 2e-3f, kMinCriterion = 1e-12f;
constexpr double kCriterionWork = 12;  // multiply-adds that one candidate's criterion is worth

// Scores count as mostly noise when levels with a nugget above kNoisyNugget have more than this
// share of the evidence.
constexpr double kNoisyNugget = 0.3, kNoisyShare = 0.4;

// Map numbers to integers in the same order, and back.
std::int32_t rank(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
float ranked(std::int32_t rank) {
  return std::bit_cast<float>(rank < 0 ? rank ^ 0x7fffffff : rank);
}

}  // namespace

void RegionPosterior::fantasise(const std::int64_t* pending, std::size_t n) {
  std::size_t same = 0;
  while (same < std::min(n, pending_.size()) && pending[same] == pending_[same]) ++same;
  if (same < pending_.size()) same = 0;
  if (same == 0 && n > 0)
    for (Level& level : level_) level.fantasised = level.variance;
  pending_.resize(same);
  column_.resize(size() + same);
  for (; same < n; ++same) {
    const auto column = static_cast<std::size_t>(pending[same]);
    const std::size_t rows = size() + same;
    solve(column, rows, kMinVariance);
    for (std::size_t g = 0; g < levels(); ++g) {
      Level& level = level_[g];
      extend(level, rows);
      directions_[g] = {
          -1.0 / (level.pivot * level.pivot), 0.0, 0.0, level.fantasised.data(), nullptr, nullptr};
    }
    add_directions(rows, -1.0, true);
    keep_row(column, rows);
    pending_.push_back(pending[same]);
  }
}

const Floats& RegionPosterior::uncertainty(const Level& level) const {
  return pending_.empty() ? level.variance : level.fantasised;
}

bool RegionPosterior::mostly_noise() const {
  double share = 0.0;
  for (const Level& level : level_)
    if (level.nugget > kNoisyNugget) share += level.weight;
  return share > kNoisyShare;
}

// Restrict the criterion to the free candidates nearest to `center`. Of equal distances, lower
// indices go first. The largest distance follows by bisection: counting costs less than sorting.
void RegionPosterior::keep_near(std::size_t center, std::size_t nearest) {
  KernelRows& kernel = basis_.front().kernel;
  const float* row = near_.data();
  if (has_gram()) {
    row = kernel.row(center);
  } else if (near_.empty() || near_of_ != center) {
    row = kernel.row(center);
    near_.assign(row, row + stride());
    near_of_ = center;
  }
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr float kNever = std::numeric_limits<float>::infinity();
  const std::size_t n = stride();
  const float* own = kernel.diagonal().data();
  float *criterion = criterion_.data(), *distance = distance_.data();
  for (std::size_t j = 0; j < n; ++j)
    distance[j] = criterion[j] >= 0.0f ? own[j] - 2.0f * row[j] : kNever;
  const auto within = [&](std::int64_t radius) {
    return simd().count_at_most(distance, n, ranked(static_cast<std::int32_t>(radius)));
  };
  std::int64_t outside = rank(-kMost) - std::int64_t{1}, inside = rank(kMost);
  if (within(inside) <= nearest) return;
  while (inside - outside > 1) {
    const std::int64_t middle = outside + (inside - outside) / 2;
    (within(middle) >= nearest ? inside : outside) = middle;
  }
  const float radius = ranked(static_cast<std::int32_t>(inside));
  for (std::size_t j = 0; j < n; ++j) criterion[j] = distance[j] <= radius ? criterion[j] : kTaken;
  std::size_t excess = within(inside) - nearest;  // at equal distances
  for (std::size_t j = n; excess > 0; --j)
    if (distance[j - 1] == radius) {
      criterion[j - 1] = kTaken;
      --excess;
    }
}

// Add a level's criterion in double precision at the promising candidates to exact_.
void RegionPosterior::improve(const Level& level, double incumbent, int power) {
  const std::size_t n = promising_.size();
  double *mean_y = exact_.data() + n, *mean_1 = mean_y + n;
  float* variance = distance_.data();
  for (std::size_t i = 0; i < n; ++i) {
    mean_y[i] = level.mean_y[promising_[i]];
    mean_1[i] = level.mean_1[promising_[i]];
    variance[i] = uncertainty(level)[promising_[i]];
  }
  simd().improvement(n, mean_y, mean_1, variance, score_mean_, 1.0 / score_deviation_, incumbent,
                     level.amplitude, level.weight, power, exact_.data());
}

std::int64_t RegionPosterior::propose(const std::int64_t* pending, std::size_t n, double incumbent,
                                      int power, std::size_t center, std::size_t nearest) {
  fantasise(pending, n);
  const double standardised = (incumbent - score_mean_) / score_deviation_;
  improvements_.clear();
  for (const Level& level : level_)
    if (level.weight > kMinWeight)
      improvements_.push_back({level.mean_y.data(), level.mean_1.data(), uncertainty(level).data(),
                               level.amplitude, level.weight});
  const double work = kCriterionWork * static_cast<double>(stride() * improvements_.size());
  parallel_ranges(stride() / kPanel, work, [&](std::size_t begin, std::size_t end) {
    simd().criterion(improvements_.size(), improvements_.data(), score_mean_,
                     1.0 / score_deviation_, standardised, power, begin * kPanel, end * kPanel,
                     offset_.data(), criterion_.data());
  });
  for (const std::int64_t i : pending_) criterion_[static_cast<std::size_t>(i)] = kTaken;
  if (nearest < columns() && mostly_noise()) keep_near(center, nearest);

  const float top = simd().maximum(criterion_.data(), stride());
  if (top < 0.0f) return -1;
  const float least = top < kMinCriterion ? 0.0f : (1.0f - kUncertain) * top;
  promising_.clear();
  for (std::size_t j = 0; j < stride(); j += kPanel)
    if (simd().maximum(criterion_.data() + j, kPanel) >= least)
      for (std::size_t c = j; c < j + kPanel; ++c)
        if (criterion_[c] >= least) promising_.push_back(c);
  if (promising_.size() == 1) return static_cast<std::int64_t>(promising_[0]);

  exact_.assign(3 * promising_.size(), 0.0);
  const auto count = static_cast<std::ptrdiff_t>(promising_.size());
  const auto best = [&] { return std::max_element(exact_.begin(), exact_.begin() + count); };
  for (const Level& level : level_)
    if (level.weight > kMinWeight) improve(level, standardised, power);
  if (!(*best() > 0.0)) {
    // Every improvement underflows: rank by standardised distance from the incumbent instead.
    std::fill_n(exact_.begin(), count, 0.0);
    improve(*std::max_element(level_.begin(), level_.end(),
                              [](const Level& a, const Level& b) { return a.weight < b.weight; }),
            standardised, 0);
  }
  return static_cast<std::int64_t>(promising_[static_cast<std::size_t>(best() - exact_.begin())]);
}

}  // namespace zopo
