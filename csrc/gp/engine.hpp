// Contract of a Gaussian process engine, on every device.
#pragma once

#include <cstddef>

#include "base/aligned.hpp"
#include "base/device.hpp"

namespace zopo {

// Destinations of posterior(); a null pointer skips that part. q query points of dimension d.
struct PosteriorOut {
  double* mean;         // (q,)
  double* variance;     // (q,) latent, clamped at 0
  double* gradient;     // (q, d)
  double* uncertainty;  // (q,) trace of the gradient covariance, clamped at 0
  // (q, d) dk(x, x)/dx - 2 G^T A^-1 k_x, the gradient of the variance before it is clamped.
  double* variance_gradient = nullptr;
};

// A copy of the observations: X (n, d), y and noise (n,).
struct GpState {
  Doubles X, y, noise;
};

// Observations with their Cholesky factor, and the quantities derived from both. Each device
// defines the class with these members (gp/cpu_engine.hpp, cuda/gp/engine.hpp). There are n =
// size() observations; the factor has a row for each of them, except between add() and extend().
//
//   member                      effect
//   size()                      number of observations
//   add(X, y, noise, count)     append observations, but no factor rows
//   extend(from, jitter)        append factor rows [from, n) of K + diag(noise) + jitter I; return
//                               false, with the factor back at `from` rows, when a pivot is not
//                               positive beyond rounding, 4 (rows + 1) eps times the diagonal
//   gram()                      K, in the form that the next two take
//   mean_diagonal(K)            mean of K's diagonal
//   refactor(K, jitter)         replace all factor rows; after false or an exception the old factor
//                               is still there
//   truncate(n)                 keep the first n observations and at most n factor rows
//   remove(i)                   drop observation i
//   set_targets(y)              replace the scores, (n,)
//   posterior(X, q, out)        evaluate the posterior at q points
//   gradient_covariance(x, out) evaluate the gradient's covariance at a point, (d, d)
//   fit()                       y^T alpha
//   log_determinant()           log det A
//   state()                     a copy of the observations
//
// An exception from add() or extend() may leave part of the work done: truncate() undoes it.
template <class Device>
class GpEngine;

}  // namespace zopo
