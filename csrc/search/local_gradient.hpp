// The posterior mean's gradient at one candidate, kept up to date while observations come in.
//
// The search asks for the derivative at the same center again and again, with one observation more
// each time. C^-1 is kept by rows l_i: a new observation adds a row and changes none. With
// G = dk(x, X)/dx = diag(c) X + P W_0 at the center, M = X X^T and S = X W_0^T, each row adds
//
//   |l_i^T G|^2 = u^T M u + 2 q^T (S^T u) + q^T W_0 W_0^T q,   u = c o l_i, q = P^T l_i
//
// to what is explained of the derivative's variance, tr G^T A^-1 G: O(n^2) an observation, without
// a pass over the d columns of G. A new center needs all rows at once, O(n^2 w): with A^-1 kept,
// the first terms sum to sum(A^-1 o M o c c^T). The gradient itself is G^T alpha, alpha = A^-1 (y -
// mean y), one pass over X when a step is asked for.
//
// P is zero where a first-layer unit is off at the center: those columns are left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ntk/ntk.hpp"
#include "pool/pool.hpp"

namespace zopo {

template <class Device>
class LocalGradient {
 public:
  // Points are the pool's standardised rows; the pool has to outlive this object. Room for
  // `capacity` observations is made now, so that none is made in the middle of a run.
  LocalGradient(std::shared_ptr<const Network> net, const Pool<Device>& pool, std::size_t capacity);

  std::size_t size() const { return index_.size(); }
  const Pool<Device>& pool() const { return *pool_; }
  void clear();
  // NotPositiveDefiniteError, and nothing changed, when the pivot is rounding noise.
  void append(std::size_t candidate, double y, double noise);
  // Other scores and noise variances, (n,): O(n^2) when the noise stays, O(n^3) otherwise; the
  // kernel stays in any case. After a NotPositiveDefiniteError the observations before the one it
  // names are left. ArrayError for another number of them.
  void refit(const double* y, const double* noise, std::size_t n);
  // log p(y | noise) of standardised scores y (n,), up to a constant, with the amplitude a of
  // y ~ N(0, a (K + noise I)) at its best value: -n/2 log a - 1/2 log det(K + noise I), a = y^T (K
  // + noise I)^-1 y / n (Rasmussen & Williams 2006, eq. 5.8). -infinity when it cannot be
  // factorised.
  double log_likelihood(const double* y, double noise);
  // Moves the center; O(1) when it is there already.
  void center(std::size_t candidate);

  // G^T A^-1 (y - mean y) at the center, (d,).
  void gradient(double* out);
  // tr of the gradient covariance over its prior at the center, as if the pending candidates were
  // observed too (their scores do not matter for it).
  double relative_uncertainty(const std::int64_t* pending, std::size_t count, double noise);
  // The nearest free candidate to the center moved by `length` along the gradient; -1: none is
  // free.
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
  const Pool<Device>* pool_;
  std::size_t capacity_ = 0;
  // Observed candidates, read in the pool where they lie: a copy in float64 would be the largest
  // part of what a step has to hold in the second-level cache.
  std::vector<std::int64_t> index_;
  Doubles h_, D_;  // their features, (n, hidden)
  // Triangles (see simd/simd.hpp), (n, n).
  Doubles K_, inverse_, precision_, inner_;  // without noise; C^-1; A^-1; X X^T
  Doubles S_;                                // X W_0^T (n, w)
  Doubles y_, noise_, z_y_, z_1_;            // scores, variances, C^-1 y, C^-1 1

  std::int64_t center_ = -1;
  double explained_ = 0.0;
  Points<Device> point_;  // the center
  Linearization at_;
  Doubles weight_;  // W_0 of the units on, (a, d)
  Doubles c_;       // (n,)
  Doubles PS_;      // P and diag(c) S of the units on, side by side: (n, 2a)
  // Workspaces; the first three are zero beyond n.
  Doubles k_, u_, v_, gamma_, qr_, Wq_, T_, WT_, target_, work_, remainder_;
  mutable std::mutex mutex_;
};

}  // namespace zopo
