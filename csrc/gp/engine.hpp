// What a Gaussian process's engine is, on every device.
#pragma once

#include <cstddef>

#include "base/aligned.hpp"
#include "base/device.hpp"

namespace zopo {

// Where posterior() writes; a null pointer skips that part. q query points of dimension d.
struct PosteriorOut {
  double* mean;         // (q,)
  double* variance;     // (q,) latent, clamped at 0
  double* gradient;     // (q, d)
  double* uncertainty;  // (q,) trace of the gradient covariance, clamped at 0
  // (q, d): dk(x, x)/dx - 2 G^T A^-1 k_x, of the variance before it is clamped.
  double* variance_gradient = nullptr;
};

// A copy of what was observed: X (n, d), y and noise (n,).
struct GpState {
  Doubles X, y, noise;
};

// Observations, their factor and what follows from both. Each device defines it with these members
// (gp/cpu_engine.hpp, cuda/gp/engine.hpp); n = size() observations, the factor has a row for each of them except
// between add() and extend().
//
//   size()                   observations
//   add(X, y, noise, count)  appends observations, no factor rows
//   extend(from, jitter)     appends factor rows [from, n) of K + diag(noise) + jitter I; false,
//   and
//                            the factor is back at `from`, when a pivot is not positive beyond
//                            rounding: at most 4 (rows + 1) eps times the diagonal
//   gram()                   K as the next two take it
//   mean_diagonal(K)         of K
//   refactor(K, jitter)      all factor rows anew; false, or an exception, leaves the factor there
//   is truncate(n)              the first n observations, and at most as many factor rows remove(i)
//   without observation i set_targets(y)           other scores, (n,) posterior(X, q, out),
//   gradient_covariance(x, out) fit()                    y^T alpha log_determinant()        log det
//   A state()                  what was observed
//
// An exception thrown by add() or extend() may leave some of it done: truncate() undoes it.
template <class Device>
class GpEngine;

}  // namespace zopo
