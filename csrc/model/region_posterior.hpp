// Posterior at every candidate of a region, kept up to date while observations arrive, for several
// noise levels side by side. CPU only.
//
// The kernel rows K_obs = k(observations, candidates) are rows of the Gram matrix of all candidates,
// or stored once beside the coordinates (search/kernel_rows.hpp). With
// A_g = k(observations, observations) + diag(nugget_g + noise) = C_g C_g^T, a level g keeps
// M = C_g^-1, the variances and the means. An observation at candidate c takes one pass over K_obs
// for all levels:
//
//   k = K_obs[:, c],  l = M k,  w = M^T l,  p^2 = k(c, c) + nugget + noise - l^T l
//   t = (k(c, .) - w^T K_obs) / p                       (the new row of C^-1 K)
//   v -= t^2,   K_obs^T A^-1 y += z_n t,   K_obs^T A^-1 1 likewise,   M gets the row (-w, 1) / p
//
// A revised observation i, whose noise changes by delta and whose score by e, takes another such
// pass (Sherman & Morrison 1950): with u = A^-1 e_i and s = delta / (1 + delta u_i),
//
//   t = u^T K_obs,  v += s t^2,  K_obs^T A^-1 y += (e - s u^T y) t,  K_obs^T A^-1 1 -= s (u^T 1) t
//
// t, K and the variances are in single precision: t differs from k(c, .) by rounding of that size.
// M, A^-1 y and the means, where units and offsets of the scores cancel, are in double precision.
//
// Mean and variance of all C candidates then cost O(n C) an observation. Other units of the scores
// change the means alone. A pending candidate is fantasised at its expected score: it lowers the
// variance and leaves the mean unchanged; dropping it costs nothing.
//
// Several kernels may be given. A level then is a kernel and a noise level, those of the first kernel
// first, and every kernel has rows K_obs of its own.
//
// Levels are averaged by their marginal likelihood, each with its amplitude at the maximum
// (Rasmussen & Williams 2006, eq. 5.8). The next candidate has the largest expected improvement to
// the power p (generalized expected improvement, Schonlau, Welch & Jones 1998). Single precision
// ranks the candidates, double precision decides between the best ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "model/kernel_rows.hpp"
#include "simd/simd.hpp"

namespace zopo {

class RegionPosterior {
 public:
  // Memory for `capacity` observations is reserved now, so that a run allocates nothing. The kernels
  // are those of the same candidates, all with a Gram matrix or all without one.
  RegionPosterior(std::vector<KernelRows> kernels, const Doubles& nuggets, std::size_t capacity);
  RegionPosterior(KernelRows kernel, const Doubles& nuggets, std::size_t capacity);

  std::size_t columns() const { return first().columns(); }
  std::size_t size() const { return y_.size(); }
  std::size_t levels() const { return level_.size(); }

  // Add the score of a candidate; `noise` is a variance beside the nugget, in K's units.
  // NotPositiveDefiniteError, with nothing changed, where nugget, noise and variance are all 0.
  void append(std::size_t column, double y, double noise);
  // Replace score and noise of observation i; errors as for append.
  void revise(std::size_t i, double y, double noise);
  // Replace the scores, (n,), of the same observations.
  void rescore(const double* y, std::size_t n);
  // Never propose this candidate; `include` revokes that.
  void exclude(std::size_t column) { offset_[column] = kTaken; }
  void include(std::size_t column) { offset_[column] = 0.0f; }
  bool excluded(std::size_t column) const { return offset_[column] != 0.0f; }

  // Replace candidates by the points X (n, d), which are free. The observations stay, so that this
  // costs O(n size^2). ArrayError, with nothing changed, where a candidate is observed or pending,
  // or unless the kernel rows are replaceable.
  void replace(const std::size_t* columns, std::size_t n, const double* X);
  // Add candidates at the end: X (columns, d) holds all of them, the present ones first.
  void extend(const double* X, std::size_t columns);

  // Return the candidate of largest expected improvement on `incumbent` to the power 1 or 2, with
  // pending candidates fantasised at their expected scores; -1 when all are excluded or pending.
  // Where the scores are mostly noise, only the `nearest` free candidates to `center` compete, by
  // the distance of the first kernel: the model says little about the rest.
  std::int64_t propose(const std::int64_t* pending, std::size_t n, double incumbent, int power,
                       std::size_t center, std::size_t nearest);
  // Compute mean and variance (columns,) averaged over the levels, in units of the scores. Without
  // observations they are those of a prior of amplitude 1.
  void posterior(double* mean, double* variance) const;
  // Compute mean and variance (columns,) of the score that a candidate would have without noise, as
  // the other observations predict it: for an observed candidate without its own score (leave-one-out;
  // Rasmussen & Williams 2006, eq. 5.12). The variance includes the nugget, the misfit of the model,
  // unless `latent`.
  void predict(double* mean, double* variance, bool latent = false) const;
  // Compute the same of points X (n, d + trends), which need not be candidates, from the points of the
  // observations, X_observed (size, d + trends). Errors as for KernelRows::between.
  void predict_at(const double* X_observed, const double* X, std::size_t n, double* mean,
                  double* variance, bool latent = false) const;
  // Return each level's weight and its amplitude in the scores' variance, (levels,).
  void shares(double* weight, double* amplitude) const;
  // Compute K_obs^T A^-1 r at all candidates from residuals r (n,): the update that turns a sample
  // of a level's prior into one of its posterior (Matheron's rule; Wilson et al. 2020).
  void propagate(std::size_t level, const double* r, std::size_t n, double* out) const;

  // Compute A^-1 (y - mean of y), (size,), of a level.
  void alpha(std::size_t level, double* out) const;
  // Compute the first kernel between all candidates, (columns, columns).
  void copy_gram(double* out);
  // Candidates of the observations, (size,).
  const std::vector<std::size_t>& observed() const { return observed_; }
  // Dimension of the coordinates; 0 for a model of a Gram matrix.
  std::size_t dim() const { return first().dim(); }

  std::mutex& mutex() const { return mutex_; }

 private:
  // A kernel; row i of its K_obs is row rows_of_K()[i] of K(), which has the leading dimension stride().
  struct Basis {
    KernelRows kernel;
    // K_obs, then the rows of the pending candidates; empty where a Gram matrix has these rows.
    Floats K_obs;
    const float* row = nullptr;  // of the next observation

    const float* K() const { return kernel.gram() ? kernel.gram() : K_obs.data(); }
  };
  struct Level {
    double nugget, weight, amplitude, log_determinant = 0.0;  // of A, halved
    Doubles M;                    // C^-1, a packed triangle of size + pending rows
    Doubles z_y, z_1;             // M y, M 1 (size,)
    Floats variance, fantasised;  // (stride,) without and with the pending candidates
    Doubles mean_y, mean_1;       // K_obs^T A^-1 y, K_obs^T A^-1 1 (stride,)
    Doubles l, w;                 // scratch of the next observation, padded
    double pivot = 0.0;
  };

  static constexpr float kTaken = -std::numeric_limits<float>::max();  // below every criterion

  const KernelRows& first() const { return basis_.front().kernel; }
  std::size_t stride() const { return first().stride(); }
  bool has_gram() const { return first().gram() != nullptr; }
  const std::size_t* rows_of_K() const { return has_gram() ? column_.data() : order_.data(); }
  std::size_t nuggets() const { return level_.size() / basis_.size(); }
  // The kernel of a level.
  const Basis& basis(std::size_t level) const { return basis_[level / nuggets()]; }
  void solve(std::size_t column, std::size_t rows, double noise);
  void keep_row(std::size_t column, std::size_t rows);
  void drop_pending();
  void condition(const std::size_t* columns, std::size_t n);
  void condition(const Basis& basis, std::span<Level> levels, const std::size_t* columns,
                 std::size_t n);
  static constexpr std::size_t kConditioned = 32;  // columns conditioned at a time
  void project(const Level& level, const double* k, double* V, double* sums) const;
  void extend(Level& level, std::size_t rows);
  void add_directions(std::size_t rows, double sign, bool has_row);
  void rebuild(std::size_t i, double y, double noise);
  void clear();
  void update_inverse(Level& level, std::size_t i, const Doubles& a, double delta, double shift);
  void fantasise(const std::int64_t* pending, std::size_t n);
  void weigh();
  bool mostly_noise() const;
  void keep_near(std::size_t center, std::size_t nearest);
  void improve(const Level& level, double incumbent, int power);
  const Floats& uncertainty(const Level& level) const;
  void resize_columns(std::size_t before);

  std::vector<Basis> basis_;
  std::vector<Level> level_;  // by kernel, then by nugget
  // Moments of the scores; the levels' weights and amplitudes are of the same observations.
  double score_mean_ = 0.0, score_deviation_ = 1.0;
  std::vector<std::size_t> order_;              // 0, 1, 2, ...: the rows of every K_obs
  std::vector<std::size_t> observed_, column_;  // without and with the pending candidates
  Doubles y_, noise_, ones_;                    // (size,)
  std::vector<std::int64_t> pending_;
  Floats offset_;  // kTaken where a candidate is not free, else 0
  // Scratch.
  std::vector<const double*> solved_;  // A^-1 y of each level, and its means
  std::vector<double*> means_;
  Floats weights_;  // (rows, 4) of every four levels of a kernel
  std::vector<DirectionOf> directions_;
  std::vector<ImprovementOf> improvements_;
  Doubles gathered_;
  Floats criterion_, distance_;
  std::vector<std::size_t> promising_;
  Doubles exact_;
  // Row of the first kernel at near_of_, the last center, where it is not one of a Gram matrix.
  Floats near_;
  std::size_t near_of_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace zopo
