// Gradient of the posterior mean at one candidate, kept up to date while observations arrive. CPU
// only; the device side of a batch is cuda/model/.
//
// The search asks for the gradient at the same center again and again, with one more observation
// each time. C^-1 is kept by rows l_i: a new observation adds a row and changes none. With
// G = dk(x, X)/dx = diag(c) X + P W_0 at the center, M = X X^T and S = X W_0^T, each row adds
//
//   |l_i^T G|^2 = u^T M u + 2 q^T (S^T u) + q^T W_0 W_0^T q,   u = c o l_i,  q = P^T l_i
//
// to the explained part tr(G^T A^-1 G) of the gradient's variance. That is O(n^2) an observation,
// without a pass over the d columns of G. A new center needs all rows at once, O(n^2 w): with A^-1
// kept, the first terms sum to sum(A^-1 o M o c c^T). The gradient is G^T alpha with
// alpha = A^-1 (y - mean y), one pass over X for each step.
//
// Columns of P whose first-layer unit is inactive at the center are zero and left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ntk/ntk.hpp"
#include "pool/pool.hpp"

namespace zopo {

class LocalGradient {
 public:
  // Points are the pool's standardised rows; the pool must outlive this object. Memory for
  // `capacity` observations is reserved now, so that a run allocates nothing.
  LocalGradient(std::shared_ptr<const Network> net, const Pool<Cpu>& pool, std::size_t capacity);

  std::size_t size() const { return index_.size(); }
  const Pool<Cpu>& pool() const { return *pool_; }
  void clear();
  // Add an observation. NotPositiveDefiniteError, with nothing changed, when the pivot is rounding
  // noise.
  void append(std::size_t candidate, double y, double noise);
  // Replace scores and noise variances, (n,): O(n^2) when the noise stays, O(n^3) otherwise. The
  // kernel stays in any case. NotPositiveDefiniteError keeps the observations before the one it
  // names; ArrayError for another number of scores.
  void refit(const double* y, const double* noise, std::size_t n);
  // Return log p(y | noise) of standardised scores y (n,), up to a constant, with the amplitude a
  // in y ~ N(0, a (K + noise I)) at its maximum (Rasmussen & Williams 2006, eq. 5.8):
  //   -n/2 log a - 1/2 log det(K + noise I),  a = y^T (K + noise I)^-1 y / n
  // -infinity when the matrix cannot be factorised.
  double log_likelihood(const double* y, double noise);
  // Move the center; O(1) when the candidate is the center already.
  void center(std::size_t candidate);

  // Compute G^T A^-1 (y - mean y) at the center, (d,).
  void gradient(double* out);
  // Return the trace of the gradient covariance over that of its prior at the center, as if the
  // pending candidates were observed too; their scores do not enter.
  double relative_uncertainty(const std::int64_t* pending, std::size_t count, double noise);
  // Return the free candidate nearest to the center moved by `length` along the gradient; -1 when
  // none is free.
  std::int64_t step(double length);

  std::mutex& mutex() const { return mutex_; }

 private:
  void reserve(std::size_t n);
  double* row(Doubles& triangle, std::size_t i);
  void extend(std::size_t candidate, double noise);
  void factorise(std::size_t n, double noise);
  void record(double y, double noise);
  double explained_by_last();
  void follow(std::size_t from, std::size_t n);
  PointsView features(std::size_t from, std::size_t n) const;
  void recenter();
  void require_center() const;

  std::shared_ptr<const Network> net_;
  const Pool<Cpu>* pool_;
  std::size_t capacity_ = 0;
  // Observed candidates, read where they lie in the pool: a float64 copy would be the largest array
  // that a step holds in the L2 cache.
  std::vector<std::int64_t> index_;
  Doubles h_, D_;  // features of the observed candidates, (n, hidden)
  // Packed triangles (simd/simd.hpp), (n, n).
  Doubles K_, inverse_, precision_, inner_;  // without noise; C^-1; A^-1; X X^T
  Doubles S_;                                // X W_0^T (n, w)
  Doubles y_, noise_, z_y_, z_1_;            // scores, variances, C^-1 y, C^-1 1

  std::int64_t center_ = -1;
  double explained_ = 0.0;
  Points point_;  // the center
  Linearization at_;
  Doubles weight_;  // W_0 of the active units, (a, d)
  Doubles c_;       // (n,)
  Doubles PS_;      // P and diag(c) S of the active units, side by side: (n, 2a)
  // Scratch; the first three are zero beyond n.
  Doubles k_, u_, v_, gamma_, qr_, Wq_, T_, WT_, target_, work_, remainder_;
  mutable std::mutex mutex_;
};

}  // namespace zopo
