// Posterior over a region of candidates (model/region_posterior.hpp).
#include "model/region_posterior.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr double kRounding = 1e-13;     // of a variance in double precision, relative
constexpr double kMinRevision = 1e-6;   // share of A's determinant that a revision may leave
constexpr double kMinAmplitude = 1e-6;  // of a level, as a share of the scores' variance
constexpr std::size_t kPanel = 64;      // columns of a panel: see simd/simd.hpp
constexpr std::size_t kTouched = 256;   // rows of M touched at once: later they'd fault one by one

}  // namespace

RegionPosterior::RegionPosterior(KernelRows kernel, const Doubles& nuggets, std::size_t capacity)
    : RegionPosterior(
          [&] {
            std::vector<KernelRows> one;
            one.push_back(std::move(kernel));
            return one;
          }(),
          nuggets, capacity) {}

RegionPosterior::RegionPosterior(std::vector<KernelRows> kernels, const Doubles& nuggets,
                                 std::size_t capacity) {
  for (KernelRows& kernel : kernels) basis_.push_back({std::move(kernel), {}});
  level_.resize(basis_.size() * nuggets.size());
  directions_.resize(levels());
  improvements_.reserve(levels());
  for (Basis& basis : basis_)
    if (!has_gram()) basis.K_obs.reserve(capacity * stride());
  solved_.resize(levels());
  means_.resize(levels());
  weights_.reserve((nuggets.size() + 3) / 4 * 4 * capacity);
  gathered_.reserve(triangle_width(capacity));
  for (Doubles* of : {&y_, &noise_, &ones_}) of->reserve(capacity);
  for (auto* of : {&order_, &column_, &observed_}) of->reserve(capacity);
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    level.nugget = nuggets[g % nuggets.size()];
    level.M.reserve(triangle_offset(capacity));
    level.M.assign(triangle_offset(std::min(capacity, kTouched)), 0.0);
    level.M.clear();
    for (Doubles* of : {&level.z_y, &level.z_1}) of->reserve(capacity);
    for (Doubles* of : {&level.l, &level.w}) of->reserve(triangle_width(capacity));
    level.variance = basis(g).kernel.diagonal();
  }
  resize_columns(0);
  weigh();
}

// Fill l, w and the pivot of every level, and the row of every kernel, for an observation at a
// candidate after the first `rows` ones. A pivot is 0 where neither noise nor variance is left.
void RegionPosterior::solve(std::size_t column, std::size_t rows, double noise) {
  const std::size_t padded = rows == 0 ? 0 : triangle_width(rows - 1);
  gathered_.resize(padded);
  std::fill(gathered_.begin() + static_cast<std::ptrdiff_t>(rows), gathered_.end(), 0.0);
  for (std::size_t g = 0; g < levels(); ++g) {
    Basis& of = basis_[g / nuggets()];
    if (g % nuggets() == 0) {
      of.row = of.kernel.row(column);
      for (std::size_t i = 0; i < rows; ++i) gathered_[i] = of.row[column_[i]];
    }
    Level& level = level_[g];
    level.l.resize(padded);
    level.w.assign(padded, 0.0);
    if (rows > 0)
      simd().triangle_normal(level.M.data(), rows, gathered_.data(), level.l.data(),
                             level.w.data());
    const double prior = of.kernel.diagonal()[column];
    const double explained = simd().dot(level.l.data(), level.l.data(), rows);
    const double left = prior - explained > kRounding * prior ? prior - explained : 0.0;
    level.pivot = std::sqrt(left + level.nugget + noise);
  }
}

// Keep the kernel rows that `solve` found as rows of K_obs after the first `rows` ones.
void RegionPosterior::keep_row(std::size_t column, std::size_t rows) {
  column_.resize(rows);
  column_.push_back(column);
  if (has_gram()) return;
  for (Basis& of : basis_) {
    of.K_obs.resize(rows * stride());
    of.K_obs.insert(of.K_obs.end(), of.row, of.row + stride());
  }
  while (order_.size() <= rows) order_.push_back(order_.size());
}

// Append the row (-w, 1) / p to M.
void RegionPosterior::extend(Level& level, std::size_t rows) {
  const double inverse = 1.0 / level.pivot;
  level.M.resize(triangle_offset(rows) + triangle_width(rows));
  double* next = level.M.data() + triangle_offset(rows);
  for (std::size_t i = 0; i < rows; ++i) next[i] = -level.w[i] * inverse;
  next[rows] = inverse;
  std::fill(next + rows + 1, next + triangle_width(rows), 0.0);
}

// Change the levels as directions_ says along t_g = row + sign w_g^T K_obs; without a row it is zero.
void RegionPosterior::add_directions(std::size_t rows, double sign, bool has_row) {
  const std::size_t count = nuggets();
  weights_.resize((count + 3) / 4 * 4 * rows);
  for (std::size_t b = 0; b < basis_.size(); ++b) {
    const Basis& of = basis_[b];
    for (std::size_t g = 0; g < count; ++g) {
      const double* w = level_[b * count + g].w.data();
      float* to = weights_.data() + g / 4 * 4 * rows + g % 4;
      for (std::size_t i = 0; i < rows; ++i) to[4 * i] = static_cast<float>(sign * w[i]);
    }
    // A multiply-add in single precision, with K in the cache, takes half the time of one in double.
    const double work = 0.5 * static_cast<double>(rows * count) * static_cast<double>(stride());
    parallel_ranges(stride() / kPanel, work, [&](std::size_t begin, std::size_t end) {
      for (std::size_t g = 0; g < count; g += 4)
        simd().add_directions(of.K(), stride(), rows_of_K(), rows, weights_.data() + g * rows,
                              has_row ? of.row : nullptr, begin * kPanel, end * kPanel,
                              std::min<std::size_t>(4, count - g), &directions_[b * count + g]);
    });
  }
}

void RegionPosterior::append(std::size_t column, double y, double noise) {
  const std::size_t n = size();
  drop_pending();
  solve(column, n, noise);
  for (const Level& level : level_)
    if (!(level.pivot > 0.0))
      throw NotPositiveDefiniteError("observation " + std::to_string(n) + " at candidate " +
                                     std::to_string(column) +
                                     " has neither noise nor remaining variance; give it a noise "
                                     "variance above 0");
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    extend(level, n);
    // z_n = (y - l^T z) / p
    const double p = level.pivot;
    level.z_y.push_back((y - simd().dot(level.l.data(), level.z_y.data(), n)) / p);
    level.z_1.push_back((1.0 - simd().dot(level.l.data(), level.z_1.data(), n)) / p);
    level.log_determinant += std::log(p);
    directions_[g] = {-1.0 / (p * p),        level.z_y[n] / p,    level.z_1[n] / p,
                      level.variance.data(), level.mean_y.data(), level.mean_1.data()};
  }
  add_directions(n, -1.0, true);
  keep_row(column, n);
  observed_.push_back(column);
  y_.push_back(y);
  noise_.push_back(noise);
  ones_.push_back(1.0);
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
  drop_pending();
  const double delta = noise - noise_[i], shift = y - y_[i];
  for (Level& level : level_) {  // u in w, and column i of M in l
    level.l.assign(triangle_width(n - 1), 0.0);
    level.w.assign(triangle_width(n - 1), 0.0);
    for (std::size_t r = i; r < n; ++r) level.l[r] = level.M[triangle_offset(r) + i];
    simd().triangle_matvec_transposed(level.M.data(), n, level.l.data(), level.w.data());
    if (!(1.0 + delta * level.w[i] > kMinRevision)) return rebuild(i, y, noise);
  }
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    const double at = level.w[i], s = delta / (1.0 + delta * at);
    const double u_y = simd().dot(level.l.data(), level.z_y.data(), n) + shift * at;
    const double u_1 = simd().dot(level.l.data(), level.z_1.data(), n);
    directions_[g] = {s,
                      shift - s * u_y,
                      -s * u_1,
                      level.variance.data(),
                      level.mean_y.data(),
                      level.mean_1.data()};
    level.log_determinant += 0.5 * std::log1p(delta * at);
  }
  add_directions(n, 1.0, false);
  for (Level& level : level_) update_inverse(level, i, level.l, delta, shift);
  y_[i] = y;
  noise_[i] = noise;
  weigh();
}

// Revise observation i by appending all of them again, where an update would cancel too many digits.
void RegionPosterior::rebuild(std::size_t i, double y, double noise) {
  const std::size_t n = size();
  const std::vector<std::size_t> columns = observed_;
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
  for (Basis& of : basis_) of.K_obs.clear();
  column_.clear();
  observed_.clear();
  y_.clear();
  noise_.clear();
  ones_.clear();
  pending_.clear();
  for (std::size_t g = 0; g < levels(); ++g) {
    Level& level = level_[g];
    level.M.clear();
    level.z_y.clear();
    level.z_1.clear();
    level.log_determinant = 0.0;
    level.variance = basis(g).kernel.diagonal();
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
    }
    for (std::size_t g = 0; g < levels(); ++g) {
      solved_[g] = level_[g].w.data();
      means_[g] = level_[g].mean_y.data();
    }
    for (std::size_t g = 0; g < levels(); g += nuggets())
      simd().combine_f32_f64(basis(g).K(), stride(), rows_of_K(), n, solved_.data() + g, nuggets(),
                             stride(), means_.data() + g);
  }
  weigh();
}

void RegionPosterior::drop_pending() {
  column_.resize(size());
  pending_.clear();
}

void RegionPosterior::weigh() {
  const std::size_t n = size();
  const auto count = static_cast<double>(n);
  score_mean_ = 0.0;
  score_deviation_ = 1.0;
  double deviation = 0.0;
  if (n > 0) {
    score_mean_ = simd().dot(y_.data(), ones_.data(), n) / count;
    deviation = std::sqrt(simd().centered_square(y_.data(), ones_.data(), score_mean_, n) / count);
  }
  const bool varied = deviation > 1e-12 * std::abs(score_mean_);
  if (varied) score_deviation_ = deviation;
  double best = -std::numeric_limits<double>::infinity();
  for (Level& level : level_) {
    const double quadratic =
        simd().centered_square(level.z_y.data(), level.z_1.data(), score_mean_, n);
    level.amplitude =
        varied ? std::max(quadratic / (count * deviation * deviation), kMinAmplitude) : 1.0;
    level.weight = -0.5 * count * std::log(level.amplitude) - level.log_determinant;
    best = std::max(best, level.weight);
  }
  double total = 0.0;
  for (Level& level : level_) total += level.weight = std::exp(level.weight - best);
  for (Level& level : level_) level.weight /= total;
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

void RegionPosterior::alpha(std::size_t level, double* out) const {
  const std::size_t n = size();
  const Level& at = level_[level];
  if (n == 0) return;
  Doubles z(triangle_width(n - 1), 0.0), sums(z);
  for (std::size_t i = 0; i < n; ++i) z[i] = at.z_y[i] - score_mean_ * at.z_1[i];
  simd().triangle_matvec_transposed(at.M.data(), n, z.data(), sums.data());
  std::copy_n(sums.begin(), n, out);
}

void RegionPosterior::copy_gram(double* out) {
  for (std::size_t i = 0; i < columns(); ++i)
    std::copy_n(basis_.front().kernel.row(i), columns(), out + i * columns());
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
    const double* weights = w.data();
    double* to = sums.data();
    simd().combine_f32_f64(basis(level).K(), stride(), rows_of_K(), n, &weights, 1, stride(), &to);
  }
  std::copy_n(sums.begin(), columns(), out);
}

}  // namespace zopo
