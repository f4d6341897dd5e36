// Gaussian process with the neural tangent kernel: host logic, written once over the device.
//
//   A = K + diag(noise) = C C^T,  alpha = A^-1 y,  k_x = k(X, x),  G = dk(x, X)/dx (n, d)
//   mean k_x^T alpha             variance k(x, x) - |C^-1 k_x|^2
//   gradient G^T alpha           gradient covariance d2k - (C^-1 G)^T (C^-1 G)
//
// K and the noise are raw here: nothing is rescaled. What is kept of the observations, and how the
// factor and the posterior are computed, is the engine of the device (gp/engine.hpp).
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "gp/cpu_engine.hpp"
#ifdef ZOPO_HAS_CUDA
#include "cuda/gp/engine.hpp"
#endif

namespace zopo {

template <class Device>
class GaussianProcess {
 public:
  // `where`: what else the device's engine is made with (its ordinal).
  template <class... Where>
  explicit GaussianProcess(std::shared_ptr<const Network> net, Where... where)
      : net_(std::move(net)), engine_(net_, where...) {}

  std::size_t size() const { return engine_.size(); }
  const Network& network() const { return *net_; }
  // What had to be added to the diagonal to factorise; 0 as a rule.
  double jitter() const { return jitter_; }

  // X (count, d), y and noise (count,). All or nothing: NotPositiveDefiniteError leaves the
  // object as it was.
  void append(const double* X, const double* y, const double* noise, std::size_t count);
  void pop();
  void remove(std::size_t i);
  // Same points, other scores, (n,); O(n^2) at the next use. ArrayError for another number of them.
  void set_targets(const double* y, std::size_t n);

  void posterior(const double* X, std::size_t q, PosteriorOut out) const;
  void gradient_covariance(const double* x, double* out) const;  // (d, d)
  double log_marginal_likelihood() const;

  GpState state() const { return engine_.state(); }
  std::mutex& mutex() const { return mutex_; }

 private:
  void rebuild_with_jitter();

  std::shared_ptr<const Network> net_;
  mutable GpEngine<Device> engine_;  // a question may bring up to date what follows from the data
  double jitter_ = 0.0;
  mutable std::mutex mutex_;
};

}  // namespace zopo
