// CPU engine of the Gaussian process: points in growing arrays and an incremental Cholesky factor.
// The CUDA twin is cuda/gp/engine.hpp.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "gp/cholesky.hpp"
#include "gp/engine.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

// Terms of tr(G^T A^-1 G) that depend on the observations alone, where G = diag(c) X + P W_0 (see
// Linearization): H = A^-1 o X X^T (n, n) and S = X W_0^T (n, width[1]). The trace is
//   c^T H c + 2 sum(C^-1 P o C^-1 diag(c) S) + sum(C^-1 P o C^-1 P W_0 W_0^T)
// which expands sum(A^-1 o G G^T).
struct Explained {
  Doubles H, S;
};

// Inputs of a posterior, read-only while threads work on them.
struct Fit {
  const Network& net;
  PointsView points;
  const double* C;  // (n, n) lower triangular, leading dimension ldc
  std::size_t ldc;
  const double* alpha;         // (n,)
  const Explained* explained;  // null: form G itself for the gradient covariance, O(n^2 d) a point
};

// Evaluate the posterior at X (q, d).
void posterior_points(const Fit& fit, const double* X, std::size_t q, const PosteriorOut& out);
// Compute the shared terms, O(n^3 + n^2 d).
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
  static bool factorise(Cholesky& factor, std::size_t from, std::size_t to, const double* K,
                        std::size_t ldk, const double* noise, double jitter);
  void stale() { alpha_stale_ = explained_stale_ = true; }
  const double* alpha();
  const Explained& explained();

  std::shared_ptr<const Network> net_;
  Points points_;
  Doubles y_, noise_;
  Cholesky factor_;
  Doubles alpha_;
  bool alpha_stale_ = true;
  Explained explained_;
  bool explained_stale_ = true;
};

}  // namespace zopo
