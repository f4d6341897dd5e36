#include "gp.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string>

#include "error.hpp"
#include "simd.hpp"

namespace zopo {

template <class Device>
void GaussianProcess<Device>::append(const double* X, const double* y, const double* noise,
                                     std::size_t count) {
  if (count == 0) return;
  const std::size_t before = size();
  try {
    points_.append(*net_, X, count);
    y_.insert(y_.end(), y, y + count);
    noise_.insert(noise_.end(), noise, noise + count);
    stale();
    const std::size_t n = size();
    Doubles K(count * n);
    if (count == 1) {  // the usual step: one row, no packing
      Doubles gamma((net_->layers() + 1) * n);
      ntk_row<Device>(*net_, points_.row(*net_, before), points_.view(), K.data(), gamma.data());
    } else {
      const auto all = points_.view();
      const PointsView added = {count, all.x + before * net_->dim(),
                                all.h + before * net_->hidden(), all.D + before * net_->hidden()};
      ntk_gram<Device>(*net_, added, all, false, K.data(), n);
    }
    if (!extend(before, K.data(), n)) rebuild_with_jitter();
  } catch (...) {  // out of memory, or no factor: everything as it was
    points_.truncate(*net_, before);
    y_.resize(before);
    noise_.resize(before);
    factor_.truncate(before);
    throw;
  }
}

// Appends rows [from, size()) to the factor; on failure it is back at `from` rows.
template <class Device>
bool GaussianProcess<Device>::extend(std::size_t from, const double* K, std::size_t ldk) {
  for (std::size_t i = from; i < size(); ++i) {
    const double* row = K + (i - from) * ldk;
    if (!factor_.append(row, row[i] + noise_[i] + jitter_)) {
      factor_.truncate(from);
      return false;
    }
  }
  return true;
}

template <class Device>
void GaussianProcess<Device>::rebuild_with_jitter() {
  const std::size_t n = size();
  Doubles K(n * n);
  ntk_gram<Device>(*net_, points_.view(), points_.view(), true, K.data(), n);
  double scale = 0.0;
  for (std::size_t i = 0; i < n; ++i) scale += K[i * n + i] / static_cast<double>(n);

  Cholesky<Device> kept = std::move(factor_);
  const double jitter_before = jitter_;
  factor_ = {};
  try {
    // Decades from rounding level to a millionth of the signal: beyond, the answer would be wrong.
    for (double relative = 1e-12; relative < 2e-6; relative *= 10.0) {
      jitter_ = std::max(jitter_before, relative * scale);
      if (extend(0, K.data(), n)) return;
    }
  } catch (...) {
    factor_ = std::move(kept);
    jitter_ = jitter_before;
    throw;
  }
  factor_ = std::move(kept);
  jitter_ = jitter_before;
  throw NotPositiveDefiniteError(
      "the kernel matrix of " + std::to_string(n) +
      " observations is not positive definite, even with 1e-6 of its mean diagonal added; "
      "give a larger noise or remove duplicate points");
}

template <class Device>
void GaussianProcess<Device>::pop() {
  if (size() == 0) throw IndexError("pop: the process holds no observation");
  const std::size_t n = size() - 1;
  factor_.pop();
  points_.truncate(*net_, n);
  y_.resize(n);
  noise_.resize(n);
  stale();
  if (n == 0) jitter_ = 0.0;
}

template <class Device>
void GaussianProcess<Device>::remove(std::size_t i) {
  if (i >= size())
    throw IndexError("remove: index " + std::to_string(i) + " of " + std::to_string(size()) +
                     " observations");
  factor_.remove(i);
  points_.erase(*net_, i);
  y_.erase(y_.begin() + i);
  noise_.erase(noise_.begin() + i);
  stale();
  if (size() == 0) jitter_ = 0.0;
}

template <class Device>
void GaussianProcess<Device>::set_targets(const double* y, std::size_t n) {
  if (n != size())
    throw ArrayError("y: expected " + std::to_string(size()) + " entries, got " +
                     std::to_string(n));
  y_.assign(y, y + size());
  alpha_stale_ = true;
}

template <class Device>
const double* GaussianProcess<Device>::alpha() const {
  if (alpha_stale_) {
    alpha_ = y_;
    factor_.solve_lower(alpha_.data());
    factor_.solve_lower_transposed(alpha_.data());
    alpha_stale_ = false;
  }
  return alpha_.data();
}

template <class Device>
const Explained& GaussianProcess<Device>::explained() const {
  if (explained_stale_) {
    explained_ = explain<Device>(*net_, points_.view(), factor_.data(), factor_.stride());
    explained_stale_ = false;
  }
  return explained_;
}

template <class Device>
void GaussianProcess<Device>::posterior(const double* X, std::size_t q, PosteriorOut out) const {
  const std::size_t n = size(), d = net_->dim();
  // The matrices of explained() cost about n^3 + n^2 d, a point without them n^2 d / 2. The choice
  // depends on sizes alone, so that the same call gives the same bits.
  const bool shared = out.uncertainty && n > 0 && (n <= 2 * d || q * d > 2 * n);
  const Fit fit = {*net_,          points_.view(),
                   factor_.data(), factor_.stride(),
                   alpha(),        shared ? &explained() : nullptr};
  posterior_points<Device>(fit, X, q, out);
}

template <class Device>
void GaussianProcess<Device>::gradient_covariance(const double* x, double* out) const {
  const std::size_t n = size(), d = net_->dim();
  Doubles h(net_->hidden()), D(net_->hidden());
  ntk_features<Device>(*net_, x, 1, h.data(), D.data());
  const PointsView point = {1, x, h.data(), D.data()};
  Linearization at;
  ntk_linearize<Device>(*net_, point, at);
  ntk_gradient_prior<Device>(*net_, at, out);
  Doubles k(n), gamma((net_->layers() + 1) * n), G(n * d);
  ntk_row<Device>(*net_, point, points_.view(), k.data(), gamma.data());
  ntk_gradient_rows<Device>(*net_, at, points_.view(), gamma.data(), G.data());
  factor_.solve_lower_rows(G.data(), d, d);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < d; ++j)
      simd().axpy(d, -G[i * d + j], G.data() + i * d, out + j * d);
}

template <class Device>
double GaussianProcess<Device>::log_marginal_likelihood() const {
  const double n = static_cast<double>(size());
  const double fit = size() ? simd().dot(y_.data(), alpha(), size()) : 0.0;
  return -0.5 * (fit + factor_.log_determinant() + n * std::log(2.0 * std::numbers::pi));
}

template class GaussianProcess<Cpu>;

}  // namespace zopo
