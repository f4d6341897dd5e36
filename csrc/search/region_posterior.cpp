// Posterior over a region of candidates (search/region_posterior.hpp).
#include "search/region_posterior.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>

#include "base/error.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr double kRounding = 1e-13;     // of a variance in double precision, relative
constexpr double kMinRevision = 1e-6;   // share of A's determinant that a revision may leave
constexpr double kMinVariance = 1e-12;  // of a candidate, in units of the kernel's scale
constexpr double kMinAmplitude = 1e-6;  // of a level, as a share of the scores' variance
constexpr double kMinWeight = 1e-4;     // levels of less weight are skipped

// Scores count as mostly noise when levels with a nugget above kNoisyNugget have more than this
// share of the evidence.
constexpr double kNoisyNugget = 0.3, kNoisyShare = 0.4;

}  // namespace

RegionPosterior::RegionPosterior(KernelRows kernel, const Doubles& nuggets, std::size_t capacity)
    : kernel_(std::move(kernel)) {
  row_.resize(stride());
  criterion_.resize(stride());
  t_.resize(nuggets.size() * stride());
  near_.reserve(stride());
  K_.reserve(capacity * stride());
  weights_.reserve(4 * capacity);
  gathered_.reserve(triangle_width(capacity));
  y_.reserve(capacity);
  noise_.reserve(capacity);
  column_.reserve(capacity);
  distance_.reserve(columns());
  excluded_.assign(columns(), false);
  level_.resize(nuggets.size());
  for (std::size_t g = 0; g < nuggets.size(); ++g) {
    Level& level = level_[g];
    level.nugget = nuggets[g];
    level.M.reserve(triangle_offset(capacity));
    for (Doubles* of : {&level.z_y, &level.z_1}) of->reserve(capacity);
    for (Doubles* of : {&level.l, &level.w}) of->reserve(triangle_width(capacity));
    level.variance = level.fantasised = diagonal();
    for (Doubles* of : {&level.mean_y, &level.mean_1}) of->assign(stride(), 0.0);
  }
  weigh();
}

// Fill row_, and l, w and the pivot of every level, for an observation at a candidate after the first
// `rows` ones. A pivot is 0 where neither noise nor variance is left.
void RegionPosterior::solve(std::size_t column, std::size_t rows, double noise) {
  kernel_.row(column, row_.data());
  const std::size_t padded = rows == 0 ? 0 : triangle_width(rows - 1);
  gathered_.assign(padded, 0.0);
  for (std::size_t i = 0; i < rows; ++i) gathered_[i] = row_[column_[i]];
  for (Level& level : level_) {
    level.l.assign(padded, 0.0);
    level.w.assign(padded, 0.0);
    if (rows > 0)
      simd().triangle_normal(level.M.data(), rows, gathered_.data(), level.l.data(),
                             level.w.data());
    const double prior = diagonal()[column];
    const double explained = simd().dot(level.l.data(), level.l.data(), rows);
    const double left = prior - explained > kRounding * prior ? prior - explained : 0.0;
    level.pivot = std::sqrt(left + level.nugget + noise);
  }
}

// Append the row (-w, 1) / p to M.
void RegionPosterior::extend(Level& level, std::size_t rows) {
  level.M.resize(triangle_offset(rows) + triangle_width(rows), 0.0);
  double* next = level.M.data() + triangle_offset(rows);
  std::fill_n(next, triangle_width(rows), 0.0);
  for (std::size_t i = 0; i < rows; ++i) next[i] = -level.w[i] / level.pivot;
  next[rows] = 1.0 / level.pivot;
}

// t_g += sign * weights(g)^T K_obs for all levels.
template <class Weights>
void RegionPosterior::combine(std::size_t rows, double sign, Weights weights) {
  weights_.resize(4 * rows);
  for (std::size_t first = 0; first < levels(); first += 4) {
    const std::size_t count = std::min<std::size_t>(4, levels() - first);
    for (std::size_t g = 0; g < count; ++g) {
      const double* w = weights(level_[first + g]);
      for (std::size_t i = 0; i < rows; ++i) weights_[4 * i + g] = static_cast<float>(sign * w[i]);
    }
    simd().combine_levels(K_.data(), stride(), rows, weights_.data(), count, stride(),
                          t_.data() + first * stride(), stride());
  }
}

void RegionPosterior::append(std::size_t column, double y, double noise) {
  const std::size_t n = size();
  column_.resize(n);  // drops the pending candidates
  pending_.clear();
  solve(column, n, noise);
  for (const Level& level : level_)
    if (!(level.pivot > 0.0))
      throw NotPositiveDefiniteError("observation " + std::to_string(n) + " at candidate " +
                                     std::to_string(column) +
                                     " has neither noise nor remaining variance; give it a noise "
                                     "variance above 0");
  for (std::size_t g = 0; g < levels(); ++g) std::copy(row_.begin(), row_.end(), &t_[g * stride()]);
  combine(n, -1.0, [](const Level& level) { return level.w.data(); });
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    extend(level, n);
    // z_n = (y - l^T z) / p
    const double p = level.pivot;
    level.z_y.push_back((y - simd().dot(level.l.data(), level.z_y.data(), n)) / p);
    level.z_1.push_back((1.0 - simd().dot(level.l.data(), level.z_1.data(), n)) / p);
    level.log_determinant += std::log(p);
    simd().add_direction(stride(), &t_[g * stride()], -1.0 / (p * p), level.z_y[n] / p,
                         level.z_1[n] / p, level.variance.data(), level.mean_y.data(),
                         level.mean_1.data());
  }
  K_.resize(n * stride());
  K_.insert(K_.end(), row_.begin(), row_.end());
  column_.push_back(column);
  y_.push_back(y);
  noise_.push_back(noise);
  weigh();
}

// Update M, z_y and z_1 to a noise larger by delta and a score larger by `shift` at observation i;
// a is column i of M. A + delta e_i e_i^T = C (I + delta a a^T) C^T and I + delta a a^T = D D^T,
// where a lower triangle D is known in closed form (Gill, Golub, Murray & Saunders 1974, method
// C1). The new M is D^-1 M.
void RegionPosterior::update_inverse(Level& level, std::size_t i, const Doubles& a, double delta,
                                     double shift) {
  const std::size_t n = size();
  Doubles& sum = level.w;
  sum.assign(triangle_width(n - 1), 0.0);
  double sum_y = 0.0, sum_1 = 0.0, before = 1.0;
  for (std::size_t r = i; r < n; ++r) {
    const double after = before + delta * a[r] * a[r];
    const double diagonal = std::sqrt(after / before), beta = delta * a[r] / (before * diagonal);
    simd().update_row(r + 1, a[r], 1.0 / diagonal, beta, level.M.data() + triangle_offset(r),
                      sum.data());
    level.z_y[r] = (level.z_y[r] + shift * a[r] - a[r] * sum_y) / diagonal;
    level.z_1[r] = (level.z_1[r] - a[r] * sum_1) / diagonal;
    sum_y += beta * level.z_y[r];
    sum_1 += beta * level.z_1[r];
    before = after;
  }
}

void RegionPosterior::revise(std::size_t i, double y, double noise) {
  const std::size_t n = size();
  if (i >= n)
    throw ArrayError("i: expected an observation from 0 to " + std::to_string(n) + ", got " +
                     std::to_string(i));
  column_.resize(n);
  pending_.clear();
  const double delta = noise - noise_[i], shift = y - y_[i];
  for (Level& level : level_) {  // u in w, and column i of M in l
    level.l.assign(triangle_width(n - 1), 0.0);
    level.w.assign(triangle_width(n - 1), 0.0);
    for (std::size_t r = i; r < n; ++r) level.l[r] = level.M[triangle_offset(r) + i];
    simd().triangle_matvec_transposed(level.M.data(), n, level.l.data(), level.w.data());
    if (!(1.0 + delta * level.w[i] > kMinRevision)) return rebuild(i, y, noise);
  }
  std::fill(t_.begin(), t_.end(), 0.0);
  combine(n, 1.0, [](const Level& level) { return level.w.data(); });
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    const double at = level.w[i], s = delta / (1.0 + delta * at);
    const double u_y = simd().dot(level.l.data(), level.z_y.data(), n) + shift * at;
    const double u_1 = simd().dot(level.l.data(), level.z_1.data(), n);
    simd().add_direction(stride(), &t_[g * stride()], s, shift - s * u_y, -s * u_1,
                         level.variance.data(), level.mean_y.data(), level.mean_1.data());
    level.log_determinant += 0.5 * std::log1p(delta * at);
    update_inverse(level, i, level.l, delta, shift);
  }
  y_[i] = y;
  noise_[i] = noise;
  weigh();
}

// Revise observation i by appending all of them again, where an update would cancel too many digits.
void RegionPosterior::rebuild(std::size_t i, double y, double noise) {
  const std::size_t n = size();
  const std::vector<std::size_t> columns = column_;
  const Doubles scores = y_, noises = noise_;
  const auto append_all = [&](double y_i, double noise_i) {
    clear();
    for (std::size_t j = 0; j < n; ++j)
      append(columns[j], j == i ? y_i : scores[j], j == i ? noise_i : noises[j]);
  };
  try {
    append_all(y, noise);
  } catch (const NotPositiveDefiniteError&) {
    append_all(scores[i], noises[i]);
    throw;
  }
}

void RegionPosterior::clear() {
  K_.clear();
  column_.clear();
  y_.clear();
  noise_.clear();
  pending_.clear();
  for (Level& level : level_) {
    level.M.clear();
    level.z_y.clear();
    level.z_1.clear();
    level.log_determinant = 0.0;
    level.variance = diagonal();
    std::fill(level.mean_y.begin(), level.mean_y.end(), 0.0);
    std::fill(level.mean_1.begin(), level.mean_1.end(), 0.0);
  }
  weigh();
}

void RegionPosterior::rescore(const double* y, std::size_t n) {
  if (n != size())
    throw ArrayError("y: expected " + std::to_string(size()) + " scores, got " + std::to_string(n));
  y_.assign(y, y + n);
  if (n > 0) {
    gathered_.assign(triangle_width(n - 1), 0.0);
    std::copy_n(y, n, gathered_.begin());
    for (Level& level : level_) {
      level.l.assign(triangle_width(n - 1), 0.0);
      level.w.assign(triangle_width(n - 1), 0.0);
      simd().triangle_normal(level.M.data(), n, gathered_.data(), level.l.data(), level.w.data());
      level.z_y.assign(level.l.begin(), level.l.begin() + static_cast<std::ptrdiff_t>(n));
      std::fill(level.mean_y.begin(), level.mean_y.end(), 0.0);
      simd().combine_f32_f64(K_.data(), stride(), n, level.w.data(), stride(), level.mean_y.data());
    }
  }
  weigh();
}

void RegionPosterior::exclude(std::size_t column) { excluded_[column] = true; }

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
    solve(column, rows, kMinVariance);
    for (std::size_t g = 0; g < levels(); ++g)
      std::copy(row_.begin(), row_.end(), &t_[g * stride()]);
    combine(rows, -1.0, [](const Level& level) { return level.w.data(); });
    for (std::size_t g = 0; g < levels(); ++g) {
      Level& level = level_[g];
      extend(level, rows);
      simd().add_variance(stride(), &t_[g * stride()], -1.0 / (level.pivot * level.pivot),
                          level.fantasised.data());
    }
    K_.resize(rows * stride());
    K_.insert(K_.end(), row_.begin(), row_.end());
    column_.push_back(column);
    pending_.push_back(pending[same]);
  }
}

void RegionPosterior::weigh() {
  const std::size_t n = size();
  const auto count = static_cast<double>(n);
  score_mean_ = 0.0;
  score_deviation_ = 1.0;
  if (n > 0) {
    for (const double y : y_) score_mean_ += y;
    score_mean_ /= count;
  }
  double squares = 0.0;
  for (const double y : y_) squares += (y - score_mean_) * (y - score_mean_);
  const double deviation = n > 0 ? std::sqrt(squares / count) : 0.0;
  const bool varied = deviation > 1e-12 * std::abs(score_mean_);
  if (varied) score_deviation_ = deviation;
  double best = -std::numeric_limits<double>::infinity();
  for (Level& level : level_) {
    double quadratic = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      const double z = level.z_y[i] - score_mean_ * level.z_1[i];
      quadratic += z * z;
    }
    level.amplitude =
        varied ? std::max(quadratic / (count * deviation * deviation), kMinAmplitude) : 1.0;
    level.weight = -0.5 * count * std::log(level.amplitude) - level.log_determinant;
    best = std::max(best, level.weight);
  }
  double total = 0.0;
  for (Level& level : level_) total += level.weight = std::exp(level.weight - best);
  for (Level& level : level_) level.weight /= total;
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
    kernel_.row(center, row_.data());
    near_ = row_;
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

void RegionPosterior::posterior(double* mean, double* variance) const {
  std::fill_n(mean, columns(), 0.0);
  std::fill_n(variance, columns(), 0.0);
  for (const Level& level : level_) {
    const double scale = level.amplitude * score_deviation_ * score_deviation_;
    for (std::size_t j = 0; j < columns(); ++j) {
      const double mu = level.mean_y[j] - score_mean_ * level.mean_1[j];
      const double v = std::max(static_cast<double>(level.variance[j]), 0.0) * scale;
      mean[j] += level.weight * mu;
      variance[j] += level.weight * (v + mu * mu);
    }
  }
  for (std::size_t j = 0; j < columns(); ++j) {
    variance[j] = std::max(variance[j] - mean[j] * mean[j], 0.0);
    mean[j] += score_mean_;
  }
}

void RegionPosterior::shares(double* weight, double* amplitude) const {
  for (std::size_t g = 0; g < levels(); ++g) {
    weight[g] = level_[g].weight;
    amplitude[g] = level_[g].amplitude;
  }
}

void RegionPosterior::propagate(std::size_t level, const double* r, std::size_t n,
                                double* out) const {
  if (n != size())
    throw ArrayError("residuals: expected " + std::to_string(size()) + " entries, got " +
                     std::to_string(n));
  const Level& at = level_[level];
  Doubles sums(stride(), 0.0);
  if (n > 0) {
    Doubles padded(triangle_width(n - 1), 0.0), l(padded), w(padded);
    std::copy_n(r, n, padded.begin());
    simd().triangle_normal(at.M.data(), n, padded.data(), l.data(), w.data());
    simd().combine_f32_f64(K_.data(), stride(), n, w.data(), stride(), sums.data());
  }
  std::copy_n(sums.begin(), columns(), out);
}

}  // namespace zopo
