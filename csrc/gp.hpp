// Gaussian process with the neural tangent kernel: host logic, written once over the device.
//
//   A = K + diag(noise) = C C^T,  alpha = A^-1 y,  k_x = k(X, x),  G = dk(x, X)/dx (n, d)
//   mean k_x^T alpha             variance k(x, x) - |C^-1 k_x|^2
//   gradient G^T alpha           gradient covariance d2k - (C^-1 G)^T (C^-1 G)
//
// K and the noise are raw here: nothing is rescaled.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "cholesky.hpp"
#include "ntk.hpp"

namespace zopo {

// Where posterior() writes; a null pointer skips that part. q query points of dimension d.
struct PosteriorOut {
  double* mean;         // (q,)
  double* variance;     // (q,) latent, clamped at 0
  double* gradient;     // (q, d)
  double* uncertainty;  // (q,) trace of the gradient covariance, clamped at 0
};

// A copy of what was observed: X (n, d), y and noise (n,).
struct GpState {
  Doubles X, y, noise;
};

// What tr(G^T A^-1 G) needs of the observations when G = diag(c) X + P W_0 (see ntk_linearize):
// H = A^-1 o X X^T (n, n) and S = X W_0^T (n, width[1]); it is then
//   c^T H c + 2 sum(C^-1 P o C^-1 diag(c) S) + sum(C^-1 P o C^-1 P W_0 W_0^T).
struct Explained {
  Doubles H, S;
};

// Everything a posterior is computed from, read-only while threads work on it.
struct Fit {
  const Network& net;
  PointsView points;
  const double* C;  // (n, n) lower triangular, leading dimension ldc
  std::size_t ldc;
  const double* alpha;         // (n,)
  const Explained* explained;  // null: the derivative's covariance by G itself, O(n^2 d) a point
};

template <class Device>
void posterior_points(const Fit& fit, const double* X, std::size_t q, const PosteriorOut& out);

template <class Device>
Explained explain(const Network& net, PointsView points, const double* C, std::size_t ldc);

template <class Device>
class GaussianProcess {
 public:
  GaussianProcess(std::shared_ptr<const Network> net) : net_(std::move(net)) {}

  std::size_t size() const { return points_.n; }
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

  GpState state() const { return {points_.x, y_, noise_}; }
  std::mutex& mutex() const { return mutex_; }

 private:
  bool extend(std::size_t from, const double* K, std::size_t ldk);
  void rebuild_with_jitter();
  void stale() const { alpha_stale_ = explained_stale_ = true; }
  const double* alpha() const;
  const Explained& explained() const;

  std::shared_ptr<const Network> net_;
  Points<Device> points_;
  Doubles y_, noise_;
  Cholesky<Device> factor_;
  double jitter_ = 0.0;
  mutable Doubles alpha_;
  mutable bool alpha_stale_ = true;
  mutable Explained explained_;
  mutable bool explained_stale_ = true;
  mutable std::mutex mutex_;
};

}  // namespace zopo
