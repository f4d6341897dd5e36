// Gaussian process with the neural tangent kernel: host logic, written once for all devices.
//
//   A = K + diag(noise) = C C^T,  alpha = A^-1 y,  k_x = k(X, x),  G = dk(x, X)/dx (n, d)
//   mean      k_x^T alpha        variance             k(x, x) - |C^-1 k_x|^2
//   gradient  G^T alpha          gradient covariance  d2k - (C^-1 G)^T (C^-1 G)
//
// (Rasmussen & Williams 2006, eqs. 2.25, 2.26 and section 9.4.) K and the noise are raw: nothing is
// rescaled. The device's engine (gp/engine.hpp) holds the observations and the factor and evaluates
// the posterior. Users include the engine of their device beside this header: gp/cpu_engine.hpp or
// cuda/gp/engine.hpp. Members are defined in gp/gaussian_process.inl, which one source per device
// includes.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "gp/engine.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

template <class Device>
class GaussianProcess {
 public:
  // `where`: further arguments of the device's engine (its ordinal).
  template <class... Where>
  explicit GaussianProcess(std::shared_ptr<const Network> net, Where... where)
      : net_(std::move(net)), engine_(net_, where...) {}

  std::size_t size() const { return engine_.size(); }
  const Network& network() const { return *net_; }
  // Return the jitter added to the diagonal; usually 0.
  double jitter() const { return jitter_; }

  // Append X (count, d) with y and noise (count,), all or nothing: NotPositiveDefiniteError leaves
  // the object unchanged.
  void append(const double* X, const double* y, const double* noise, std::size_t count);
  void pop();
  void remove(std::size_t i);
  // Replace the scores, (n,); O(n^2) at the next use. ArrayError for another number of scores.
  void set_targets(const double* y, std::size_t n);

  void posterior(const double* X, std::size_t q, PosteriorOut out) const;
  void gradient_covariance(const double* x, double* out) const;  // (d, d)
  double log_marginal_likelihood() const;

  GpState state() const { return engine_.state(); }
  std::mutex& mutex() const { return mutex_; }

 private:
  void rebuild_with_jitter();

  std::shared_ptr<const Network> net_;
  mutable GpEngine<Device> engine_;  // queries bring derived quantities up to date
  double jitter_ = 0.0;
  mutable std::mutex mutex_;
};

}  // namespace zopo
