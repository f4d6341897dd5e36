// Members of GaussianProcess, included by the one source of each device that instantiates the
// class: gp/gaussian_process.cpp and cuda/gp/gaussian_process.cu.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/error.hpp"
#include "gp/gaussian_process.hpp"

namespace zopo {

template <class Device>
void GaussianProcess<Device>::append(const double* X, const double* y, const double* noise,
                                     std::size_t count) {
  if (count == 0) return;
  const std::size_t before = size();
  try {
    engine_.add(X, y, noise, count);
    if (!engine_.extend(before, jitter_)) rebuild_with_jitter();
  } catch (...) {  // out of memory or no factor: restore the state before the call
    engine_.truncate(before);
    throw;
  }
}

template <class Device>
void GaussianProcess<Device>::rebuild_with_jitter() {
  const auto K = engine_.gram();
  const double scale = engine_.mean_diagonal(K);
  // Try decades from rounding level to a millionth of the signal; more would distort the posterior.
  for (double relative = 1e-12; relative < 2e-6; relative *= 10.0) {
    const double jitter = std::max(jitter_, relative * scale);
    if (!engine_.refactor(K, jitter)) continue;
    jitter_ = jitter;
    return;
  }
  throw NotPositiveDefiniteError(
      "the kernel matrix of " + std::to_string(size()) +
      " observations is not positive definite, even with 1e-6 of its mean diagonal added; "
      "increase the noise or remove duplicate points");
}

template <class Device>
void GaussianProcess<Device>::pop() {
  if (size() == 0) throw IndexError("pop: the process has no observations");
  engine_.truncate(size() - 1);
  if (size() == 0) jitter_ = 0.0;
}

template <class Device>
void GaussianProcess<Device>::remove(std::size_t i) {
  if (i >= size())
    throw IndexError("remove: index " + std::to_string(i) + " is not in [0, " +
                     std::to_string(size()) + ")");
  engine_.remove(i);
  if (size() == 0) jitter_ = 0.0;
}

template <class Device>
void GaussianProcess<Device>::set_targets(const double* y, std::size_t n) {
  if (n != size())
    throw ArrayError("y: expected " + std::to_string(size()) + " entries, got " +
                     std::to_string(n));
  engine_.set_targets(y);
}

template <class Device>
void GaussianProcess<Device>::posterior(const double* X, std::size_t q, PosteriorOut out) const {
  engine_.posterior(X, q, out);
}

template <class Device>
void GaussianProcess<Device>::gradient_covariance(const double* x, double* out) const {
  engine_.gradient_covariance(x, out);
}

template <class Device>
double GaussianProcess<Device>::log_marginal_likelihood() const {
  const double n = static_cast<double>(size());
  return -0.5 * (engine_.fit() + engine_.log_determinant() + n * std::log(2.0 * std::numbers::pi));
}

}  // namespace zopo
