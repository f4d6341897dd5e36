// The Gaussian process's engine on the CPU: points in growing arrays, an incremental Cholesky
// factor.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "gp/cholesky.hpp"
#include "gp/engine.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

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

void posterior_points(const Fit& fit, const double* X, std::size_t q, const PosteriorOut& out);
Explained explain(const Network& net, PointsView points, const double* C, std::size_t ldc);

template <>
class GpEngine<Cpu> {
 public:
  using Gram = Doubles;  // (n, n), the lower triangle

  explicit GpEngine(std::shared_ptr<const Network> net) : net_(std::move(net)) {}

  std::size_t size() const { return points_.n; }
  void add(const double* X, const double* y, const double* noise, std::size_t count);
  bool extend(std::size_t from, double jitter);
  Gram gram() const;
  double mean_diagonal(const Gram& K) const;
  bool refactor(const Gram& K, double jitter);
  void truncate(std::size_t n);
  void remove(std::size_t i);
  void set_targets(const double* y);
  void posterior(const double* X, std::size_t q, const PosteriorOut& out);
  void gradient_covariance(const double* x, double* out);
  double fit();
  double log_determinant() const { return factor_.log_determinant(); }
  GpState state() const { return {points_.x, y_, noise_}; }

 private:
  static bool factorise(Cholesky<Cpu>& factor, std::size_t from, std::size_t to, const double* K,
                        std::size_t ldk, const double* noise, double jitter);
  void stale() { alpha_stale_ = explained_stale_ = true; }
  const double* alpha();
  const Explained& explained();

  std::shared_ptr<const Network> net_;
  Points<Cpu> points_;
  Doubles y_, noise_;
  Cholesky<Cpu> factor_;
  Doubles alpha_;
  bool alpha_stale_ = true;
  Explained explained_;
  bool explained_stale_ = true;
};

}  // namespace zopo
