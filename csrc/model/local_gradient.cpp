// Gradient of the posterior mean at one candidate (model/local_gradient.hpp).
#include "model/local_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "simd/simd.hpp"

namespace zopo {

LocalGradient::LocalGradient(std::shared_ptr<const Network> net, const Pool<Cpu>& pool,
                             std::size_t capacity)
    : net_(std::move(net)), pool_(&pool), target_(pool.dim()), work_(pool.dim()) {
  reserve(std::max<std::size_t>(capacity, 8));
  const std::size_t w = net_->width(1), wide = (w + 7) / 8 * 8;
  weight_.reserve(wide * net_->dim());
  at_.on.reserve(w);
  at_.weight.reserve(net_->layers() + 1);
  at_.first_gram.reserve(wide * wide);
  at_.work.reserve(net_->hidden() * wide);
  at_.B.resize(net_->layers() - 1);
  for (std::size_t l = 2; l <= net_->layers(); ++l) at_.B[l - 2].reserve(net_->width(l) * wide);
  point_.append(*net_, std::vector<double>(net_->dim(), 0.0).data(), 1);
}

void LocalGradient::clear() {
  index_.clear();
  for (auto* column : {&y_, &noise_, &z_y_, &z_1_}) column->clear();
  center_ = -1;
  explained_ = 0.0;
}

void LocalGradient::reserve(std::size_t n) {
  if (n <= capacity_) return;
  n = (std::max(n, capacity_ + capacity_ / 2) + 7) / 8 * 8;
  const std::size_t w = net_->width(1), wide = (w + 7) / 8 * 8;
  // Vectors keep their contents when memory runs out, so the object stays as it was.
  for (auto* triangle : {&K_, &inverse_, &precision_, &inner_})
    triangle->resize(triangle_offset(n));
  for (auto* column : {&k_, &u_, &v_, &c_}) column->resize(n);
  for (auto* column : {&y_, &noise_, &z_y_, &z_1_}) column->reserve(n);
  S_.resize(n * w);
  PS_.resize(n * 2 * wide);
  T_.resize(n * 2 * wide);
  WT_.reserve(n * wide);
  remainder_.reserve(n * wide);
  gamma_.resize((net_->layers() + 1) * n);
  for (auto* pair : {&qr_, &Wq_}) pair->resize(2 * wide);
  for (auto* features : {&h_, &D_}) features->resize(n * net_->hidden());
  index_.reserve(n);
  capacity_ = n;
}

PointsView LocalGradient::features(std::size_t from, std::size_t n) const {
  const std::size_t S = net_->hidden();
  return {n, nullptr, h_.data() + from * S, D_.data() + from * S};
}

double* LocalGradient::row(Doubles& triangle, std::size_t i) {
  return triangle.data() + triangle_offset(i);
}

// Add a point: its rows of K, X X^T and S and, with a center, c and P. The caller factorises, then
// keeps the point or drops it by index_.resize().
void LocalGradient::extend(std::size_t candidate, double noise) {
  const std::size_t n = size(), S = net_->hidden();
  reserve(n + 1);
  pool_->row(candidate, target_.data());
  ntk_features(*net_, target_.data(), 1, h_.data() + n * S, D_.data() + n * S,
               S_.data() + n * net_->width(1));
  index_.push_back(static_cast<std::int64_t>(candidate));
  try {
    double* inner = row(inner_, n);
    pool_->inner(index_.data(), n + 1, target_.data(), inner, work_.data());
    ntk_row(*net_, features(n, 1), features(0, n + 1), row(K_, n), gamma_.data(), inner);
    factorise(n, noise);
    if (center_ >= 0) follow(n, 1);
  } catch (...) {
    index_.resize(n);
    throw;
  }
}

// Compute row n of C^-1: with v = C^-1 k it is (-C^-T v, 1) / pivot^(1/2), where
// pivot = k_nn + noise - |v|^2.
void LocalGradient::factorise(std::size_t n, double noise) {
  const auto& isa = simd();
  const double* k = row(K_, n);
  double* l = row(inverse_, n);
  std::fill_n(l, triangle_width(n), 0.0);
  const double diagonal = k[n] + noise;
  double pivot = diagonal;
  if (n > 0) {
    std::copy_n(k, n, k_.data());
    std::fill(k_.begin() + static_cast<std::ptrdiff_t>(n),
              k_.begin() + static_cast<std::ptrdiff_t>(triangle_width(n - 1)), 0.0);
    isa.triangle_normal(inverse_.data(), n, k_.data(), v_.data(), l);
    pivot -= isa.dot(v_.data(), v_.data(), n);
  }
  const double rounding = 4.0 * static_cast<double>(n + 1) * std::numeric_limits<double>::epsilon();
  if (!(pivot > rounding * diagonal))
    throw NotPositiveDefiniteError("observation " + std::to_string(n) +
                                   " repeats earlier ones and its noise is too small; "
                                   "increase its noise");
  const double scale = 1.0 / std::sqrt(pivot);
  for (std::size_t j = 0; j < n; ++j) l[j] *= -scale;
  l[n] = scale;
}

// Add the last row to A^-1, C^-1 y and C^-1 1.
void LocalGradient::record(double y, double noise) {
  const auto& isa = simd();
  const std::size_t n = y_.size();
  const double* l = row(inverse_, n);
  std::fill_n(row(precision_, n), triangle_width(n), 0.0);
  isa.triangle_rank_one(precision_.data(), n + 1, l);
  y_.push_back(y);
  noise_.push_back(noise);
  double sum = 0.0;
  for (std::size_t i = 0; i <= n; ++i) sum += l[i];
  z_y_.push_back(isa.dot(l, y_.data(), n + 1));
  z_1_.push_back(sum);
}

// Compute c, P and diag(c) S at the center for n rows from `from` on.
void LocalGradient::follow(std::size_t from, std::size_t n) {
  const std::size_t a = at_.a, w = net_->width(1);
  // The kernel value is not used, so any inner products do.
  ntk_row(*net_, point_.view(), features(from, n), k_.data(), gamma_.data(), u_.data());
  std::copy_n(gamma_.data(), n, c_.data() + from);
  double* PS = PS_.data() + from * 2 * a;
  ntk_remainder(*net_, at_, features(from, n), gamma_.data(), PS, 2 * a, remainder_);
  for (std::size_t i = from; i < from + n; ++i, PS += 2 * a) {
    double* cS = PS + a;
    for (std::size_t j = 0; j < at_.on.size(); ++j) cS[j] = c_[i] * S_[i * w + at_.on[j]];
    std::fill(cS + at_.on.size(), cS + a, 0.0);
  }
}

// Compute |l^T G|^2 of the last row, in O(n^2).
double LocalGradient::explained_by_last() {
  const auto& isa = simd();
  const std::size_t n = size(), a = at_.a, wide = triangle_width(n - 1);
  const double* l = row(inverse_, n - 1);
  for (std::size_t j = 0; j < n; ++j) u_[j] = l[j] * c_[j];
  std::fill(u_.begin() + static_cast<std::ptrdiff_t>(n),
            u_.begin() + static_cast<std::ptrdiff_t>(wide), 0.0);
  isa.triangle_matvec(inner_.data(), n, u_.data(), v_.data());
  double explained = 2.0 * isa.dot(u_.data(), v_.data(), n);
  for (std::size_t i = 0; i < n; ++i) explained -= u_[i] * u_[i] * row(inner_, i)[i];
  std::fill_n(qr_.data(), 2 * a, 0.0);  // q = P^T l and r = S^T u
  isa.matvec_transposed(PS_.data(), 2 * a, n, 2 * a, l, qr_.data());
  isa.matvec(at_.first_gram.data(), a, a, a, qr_.data(), Wq_.data());
  return explained + 2.0 * isa.dot(qr_.data(), qr_.data() + a, a) +
         isa.dot(qr_.data(), Wq_.data(), a);
}

void LocalGradient::append(std::size_t candidate, double y, double noise) {
  extend(candidate, noise);
  record(y, noise);
  if (center_ >= 0) explained_ += explained_by_last();
}

void LocalGradient::refit(const double* y, const double* noise, std::size_t n) {
  if (n != size())
    throw ArrayError("y: expected " + std::to_string(size()) + " entries, got " +
                     std::to_string(n));
  if (std::equal(noise_.begin(), noise_.end(), noise)) {
    y_.assign(y, y + n);
    for (std::size_t i = 0; i < n; ++i) z_y_[i] = simd().dot(row(inverse_, i), y, i + 1);
    return;
  }
  for (auto* column : {&y_, &noise_, &z_y_, &z_1_}) column->clear();
  center_ = -1;
  for (std::size_t i = 0; i < n; ++i) {
    try {
      factorise(i, noise[i]);
    } catch (const NotPositiveDefiniteError&) {
      index_.resize(i);
      throw;
    }
    record(y[i], noise[i]);
  }
}

double LocalGradient::log_likelihood(const double* y, double noise) {
  const auto& isa = simd();
  const std::size_t n = size();
  if (n == 0) return 0.0;
  Doubles C(K_.begin(), K_.begin() + static_cast<std::ptrdiff_t>(triangle_offset(n)));
  for (std::size_t i = 0; i < n; ++i) C[triangle_offset(i) + i] += noise;
  if (!isa.triangle_cholesky(C.data(), n)) return -std::numeric_limits<double>::infinity();
  double determinant = 0.0, fit = 0.0;
  Doubles z(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double* c = C.data() + triangle_offset(i);
    z[i] = (y[i] - isa.dot(c, z.data(), i)) / c[i];
    fit += z[i] * z[i];
    determinant += std::log(c[i]);
  }
  const double count = static_cast<double>(n), tiny = std::numeric_limits<double>::min();
  return -0.5 * count * std::log(std::max(fit / count, tiny)) - determinant;
}

void LocalGradient::center(std::size_t candidate) {
  if (center_ == static_cast<std::int64_t>(candidate)) return;
  center_ = -1;  // no center while the move is incomplete
  pool_->row(candidate, target_.data());
  point_.truncate(*net_, 0);
  point_.append(*net_, target_.data(), 1);
  ntk_linearize(*net_, point_.view(), at_);
  recenter();
  center_ = static_cast<std::int64_t>(candidate);
}

void LocalGradient::recenter() {
  const auto& isa = simd();
  const std::size_t n = size(), d = net_->dim(), a = at_.a;
  weight_.assign(a * d, 0.0);
  for (std::size_t j = 0; j < at_.on.size(); ++j)
    std::copy_n(net_->weight(0) + at_.on[j] * d, d, weight_.data() + j * d);
  explained_ = 0.0;
  if (n == 0) return;
  follow(0, n);

  // T = C^-1 (P, diag(c) S), by blocks of eight rows of C^-1
  for (std::size_t i = 0; i < n; i += 8)
    isa.gemm(std::min<std::size_t>(8, n - i), 2 * a, std::min(n, triangle_width(i)),
             row(inverse_, i), triangle_width(i), PS_.data(), 2 * a, T_.data() + i * 2 * a, 2 * a,
             false);
  WT_.resize(n * a);
  isa.gemm(n, a, a, T_.data(), 2 * a, at_.first_gram.data(), a, WT_.data(), a, false);
  for (std::size_t i = 0; i < n; ++i) {
    const double* T = T_.data() + i * 2 * a;
    explained_ += isa.dot(T, WT_.data() + i * a, a) + 2.0 * isa.dot(T, T + a, a);
    const double *p = row(precision_, i), *m = row(inner_, i);
    explained_ += c_[i] * (2.0 * isa.dot3(p, m, c_.data(), i) + p[i] * m[i] * c_[i]);
  }
}

void LocalGradient::require_center() const {
  if (center_ < 0) throw IndexError("center: none is set; call center() first");
}

void LocalGradient::gradient(double* out) {
  require_center();
  const auto& isa = simd();
  const std::size_t n = y_.size(), d = net_->dim(), a = at_.a;
  std::fill_n(out, d, 0.0);
  if (n == 0) return;
  const auto [low, high] = std::minmax_element(y_.begin(), y_.end());
  if (*low == *high) return;  // equal scores have no gradient; rounding would give one
  double mean = 0.0;
  for (const double y : y_) mean += y;
  mean /= static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) u_[i] = z_y_[i] - mean * z_1_[i];
  std::fill_n(v_.data(), triangle_width(n - 1), 0.0);
  isa.triangle_matvec_transposed(inverse_.data(), n, u_.data(), v_.data());  // alpha
  std::fill_n(qr_.data(), a, 0.0);
  isa.matvec_transposed(PS_.data(), 2 * a, n, a, v_.data(), qr_.data());
  isa.matvec_transposed(weight_.data(), d, at_.on.size(), d, qr_.data(), out);
  for (std::size_t i = 0; i < n; ++i) v_[i] *= c_[i];
  pool_->combine(index_.data(), n, v_.data(), out, work_.data());
}

double LocalGradient::relative_uncertainty(const std::int64_t* pending, std::size_t count,
                                           double noise) {
  require_center();
  const std::size_t n = size();
  double explained = explained_;
  for (std::size_t p = 0; p < count; ++p) {
    try {
      extend(static_cast<std::size_t>(pending[p]), noise);
    } catch (const NotPositiveDefiniteError&) {
      continue;  // a repetition of an observed point explains nothing more
    } catch (...) {
      index_.resize(n);
      throw;
    }
    explained += explained_by_last();
  }
  index_.resize(n);
  return at_.prior_trace > 0.0 ? std::max(0.0, 1.0 - explained / at_.prior_trace) : 0.0;
}

std::int64_t LocalGradient::step(double length) {
  require_center();
  gradient(target_.data());
  const std::size_t d = net_->dim();
  const double norm = std::sqrt(simd().dot(target_.data(), target_.data(), d));
  const double scale = norm > 0.0 ? length / norm : 0.0;
  for (std::size_t j = 0; j < d; ++j) target_[j] = point_.x[j] + scale * target_[j];
  return pool_->nearest(target_.data());
}

}  // namespace zopo
