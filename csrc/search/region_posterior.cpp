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

constexpr std::size_t kGroup = 64;      // columns are padded to a multiple of this
constexpr double kMinVariance = 1e-12;  // of a candidate, in units of the kernel's scale
constexpr double kMinAmplitude = 1e-6;  // of a level, as a share of the scores' variance
constexpr double kMinWeight = 1e-4;     // levels of less weight are skipped

// Scores count as mostly noise when levels with a nugget above kNoisyNugget have more than this
// share of the evidence.
constexpr double kNoisyNugget = 0.3, kNoisyShare = 0.4;

}  // namespace

RegionPosterior::RegionPosterior(const double* X, std::size_t columns, std::size_t d,
                                 const ArcCosine& kernel, const Doubles& nuggets,
                                 std::size_t capacity)
    : columns_(columns),
      stride_((columns + kGroup - 1) / kGroup * kGroup),
      dim_(d),
      kernel_(kernel) {
  X_.resize(columns * d);
  across_.assign(d * stride_, 0.0f);
  square_.assign(kernel.depth + 1, Floats(stride_, 1.0f));
  diagonal_.assign(stride_, 0.0f);
  const double w = kernel.weight_variance, b = kernel.bias_variance;
  for (std::size_t i = 0; i < columns; ++i) {
    double square = 0.0;
    for (std::size_t j = 0; j < d; ++j) {
      const auto x = static_cast<float>(X[i * d + j]);
      X_[i * d + j] = x;
      square += static_cast<double>(x) * x;
    }
    double S = w / static_cast<double>(d) * square + b;
    double T = kernel.ntk ? S : 0.0;
    square_[0][i] = static_cast<float>(S);
    for (std::size_t l = 1; l <= kernel.depth; ++l) {
      const double after = w / 2 * S + b;
      T = (kernel.ntk ? after : S / 2) + w / 2 * T;
      square_[l][i] = static_cast<float>(S = after);
    }
    diagonal_[i] = static_cast<float>(T / kernel.scale);
    if (!std::isfinite(square) || !std::isfinite(diagonal_[i]) || !std::isfinite(square_.back()[i]))
      throw ArrayError("X: row " + std::to_string(i) + " exceeds the range of single precision");
  }
  for (std::size_t begin = 0; begin < columns; begin += kGroup)  // transpose by whole cache lines
    for (std::size_t j = 0; j < d; ++j)
      for (std::size_t i = begin; i < std::min(begin + kGroup, columns); ++i)
        across_[j * stride_ + i] = X_[i * d + j];
  prepare(nuggets, capacity);
}

RegionPosterior::RegionPosterior(const double* K, std::size_t columns, const Doubles& nuggets,
                                 std::size_t capacity)
    : columns_(columns), stride_((columns + kGroup - 1) / kGroup * kGroup) {
  gram_.assign(columns * stride_, 0.0f);
  diagonal_.assign(stride_, 0.0f);
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      gram_[i * stride_ + j] = static_cast<float>(K[i * columns + j]);
      if (!std::isfinite(gram_[i * stride_ + j]))
        throw ArrayError("K: row " + std::to_string(i) + " exceeds the range of single precision");
    }
    diagonal_[i] = gram_[i * stride_ + i];
  }
  prepare(nuggets, capacity);
}

void RegionPosterior::prepare(const Doubles& nuggets, std::size_t capacity) {
  row_.resize(stride_);
  dots_.resize(stride_);
  criterion_.resize(stride_);
  near_.reserve(stride_);
  negative_.reserve(capacity);
  y_.reserve(capacity);
  column_.reserve(capacity);
  distance_.reserve(columns_);
  excluded_.assign(columns_, false);
  level_.resize(nuggets.size());
  for (std::size_t g = 0; g < nuggets.size(); ++g) {
    Level& level = level_[g];
    level.nugget = nuggets[g];
    level.V.reserve(capacity * stride_);
    level.L.reserve(capacity * capacity / 2);
    for (Doubles* of : {&level.pivot, &level.z_y, &level.z_1}) of->reserve(capacity);
    level.variance = level.fantasised = diagonal_;
    for (Doubles* of : {&level.mean_y, &level.mean_1}) of->assign(stride_, 0.0);
  }
  weigh();
}

void RegionPosterior::kernel_row(std::size_t column) {
  if (!gram_.empty()) {
    std::copy_n(gram_.data() + column * stride_, stride_, row_.data());
    return;
  }
  const Simd& loops = simd();
  std::fill(dots_.begin(), dots_.end(), 0.0f);
  loops.combine_f32(across_.data(), stride_, dim_, X_.data() + column * dim_, stride_,
                    dots_.data());
  const auto w = static_cast<float>(kernel_.weight_variance);
  const auto b = static_cast<float>(kernel_.bias_variance);
  loops.arc_cosine_first(stride_, w / static_cast<float>(dim_), b, kernel_.ntk, dots_.data(),
                         row_.data());
  for (std::size_t l = 0; l < kernel_.depth; ++l)
    loops.arc_cosine_layer(stride_, w, b, kernel_.ntk, square_[l][column], square_[l].data(),
                           dots_.data(), row_.data());
  const auto inverse = static_cast<float>(1.0 / kernel_.scale);
  for (float& k : row_) k *= inverse;
  row_[column] = diagonal_[column];  // exact, where the rounding of the angle would show
}

double RegionPosterior::pivot_of(const Level& level, double variance, double noise) {
  return std::sqrt(std::max(variance, 0.0) + level.nugget + noise);
}

// Write the next row of V, after kernel_row(column); leave -l in negative_.
void RegionPosterior::extend(Level& level, std::size_t column, std::size_t rows, double pivot) {
  level.V.resize((rows + 1) * stride_);
  negative_.resize(rows);
  for (std::size_t i = 0; i < rows; ++i) negative_[i] = -level.V[i * stride_ + column];
  float* next = level.V.data() + rows * stride_;
  std::copy(row_.begin(), row_.end(), next);
  simd().combine_f32(level.V.data(), stride_, rows, negative_.data(), stride_, next);
  simd().scale_f32(stride_, static_cast<float>(1.0 / pivot), next);
}

void RegionPosterior::accumulate(Level& level, std::size_t row) {
  simd().accumulate_row(stride_, level.V.data() + row * stride_, level.z_y[row], level.z_1[row],
                        level.variance.data(), level.mean_y.data(), level.mean_1.data());
}

void RegionPosterior::append(std::size_t column, double y, double noise) {
  const std::size_t n = size();
  for (Level& level : level_) {
    level.next_pivot = pivot_of(level, level.variance[column], noise);
    if (!(level.next_pivot > 0.0))
      throw NotPositiveDefiniteError("observation " + std::to_string(n) + " at candidate " +
                                     std::to_string(column) +
                                     " has neither noise nor remaining variance; give it a noise "
                                     "variance above 0");
  }
  pending_.clear();  // the new row overwrites the rows of pending candidates
  kernel_row(column);
  for (Level& level : level_) {
    extend(level, column, n, level.next_pivot);
    double z_y = y, z_1 = 1.0;
    for (std::size_t i = 0; i < n; ++i) {
      const double l = -negative_[i];
      level.L.push_back(l);
      z_y -= l * level.z_y[i];
      z_1 -= l * level.z_1[i];
    }
    level.pivot.push_back(level.next_pivot);
    level.log_determinant += std::log(level.next_pivot);
    level.z_y.push_back(z_y / level.next_pivot);
    level.z_1.push_back(z_1 / level.next_pivot);
    accumulate(level, n);
  }
  column_.push_back(column);
  y_.push_back(y);
  weigh();
}

void RegionPosterior::truncate(std::size_t n) {
  if (n > size())
    throw ArrayError("truncate: cannot keep " + std::to_string(n) + " observations, there are " +
                     std::to_string(size()));
  if (n == size()) return;
  column_.resize(n);
  y_.resize(n);
  pending_.clear();
  for (Level& level : level_) {
    level.L.resize(n * (n - (n > 0)) / 2);
    level.pivot.resize(n);
    level.z_y.resize(n);
    level.z_1.resize(n);
    level.log_determinant = 0.0;
    for (const double p : level.pivot) level.log_determinant += std::log(p);
    level.variance = diagonal_;
    std::fill(level.mean_y.begin(), level.mean_y.end(), 0.0);
    std::fill(level.mean_1.begin(), level.mean_1.end(), 0.0);
    for (std::size_t i = 0; i < n; ++i) accumulate(level, i);
  }
  weigh();
}

void RegionPosterior::rescore(const double* y, std::size_t n) {
  if (n != size())
    throw ArrayError("y: expected " + std::to_string(size()) + " scores, got " + std::to_string(n));
  y_.assign(y, y + n);
  for (Level& level : level_) {
    level.variance = diagonal_;
    std::fill(level.mean_y.begin(), level.mean_y.end(), 0.0);
    std::fill(level.mean_1.begin(), level.mean_1.end(), 0.0);
    const double* l = level.L.data();
    for (std::size_t i = 0; i < n; ++i) {
      double z = y[i];
      for (std::size_t j = 0; j < i; ++j) z -= *l++ * level.z_y[j];
      level.z_y[i] = z / level.pivot[i];
      accumulate(level, i);
    }
  }
  pending_.clear();
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
  for (; same < n; ++same) {
    const auto column = static_cast<std::size_t>(pending[same]);
    kernel_row(column);
    for (Level& level : level_) {
      const std::size_t rows = size() + same;
      const double variance = std::max(level.fantasised[column], 0.0f);
      extend(level, column, rows, pivot_of(level, variance, kMinVariance));
      const float* row = level.V.data() + rows * stride_;
      for (std::size_t j = 0; j < stride_; ++j) level.fantasised[j] -= row[j] * row[j];
    }
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
  for (std::size_t j = 0; j < columns_; ++j)
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
    kernel_row(center);
    near_ = row_;
    near_of_ = center;
  }
  distance_.clear();
  for (std::size_t j = 0; j < columns_; ++j)
    if (!excluded_[j] && criterion_[j] >= 0.0)
      distance_.emplace_back(diagonal_[j] - 2.0f * near_[j], j);
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
    simd().improvement(stride_, level.mean_y.data(), level.mean_1.data(), level.fantasised.data(),
                       score_mean_, 1.0 / score_deviation_, standardised, level.amplitude,
                       level.weight, p, criterion_.data());
  };
  std::fill(criterion_.begin(), criterion_.end(), 0.0);
  for (const Level& level : level_)
    if (level.weight > kMinWeight) add(level, power);
  const auto mask_unavailable = [&] {
    for (const std::int64_t i : pending_) criterion_[static_cast<std::size_t>(i)] = -1.0;
    if (nearest < columns_ && mostly_noise()) keep_near(center, nearest);
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
  std::fill_n(mean, columns_, 0.0);
  std::fill_n(variance, columns_, 0.0);
  for (const Level& level : level_) {
    const double scale = level.amplitude * score_deviation_ * score_deviation_;
    for (std::size_t j = 0; j < columns_; ++j) {
      const double mu = level.mean_y[j] - score_mean_ * level.mean_1[j];
      const double v = std::max(static_cast<double>(level.variance[j]), 0.0) * scale;
      mean[j] += level.weight * mu;
      variance[j] += level.weight * (v + mu * mu);
    }
  }
  for (std::size_t j = 0; j < columns_; ++j) {
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
  Doubles z(n);
  const double* l = at.L.data();
  std::fill_n(out, columns_, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    z[i] = r[i];
    for (std::size_t j = 0; j < i; ++j) z[i] -= *l++ * z[j];
    z[i] /= at.pivot[i];
    const float* row = at.V.data() + i * stride_;
    for (std::size_t j = 0; j < columns_; ++j) out[j] += z[i] * row[j];
  }
}

}  // namespace zopo
