// Posterior at every candidate of a region, kept up to date while observations arrive, for several
// noise levels side by side. CPU only.
//
// With A_g = K + diag(nugget_g + noise) = C_g C_g^T over the observations, each level g keeps
// V = C^-1 k(X, candidates) by rows. An observation at candidate c adds one row and changes none:
//
//   l = V[:, c],  p^2 = v(c) + nugget + noise,  V_n = (k(c, .) - l^T V) / p
//   v -= V_n^2,   V^T C^-1 y += z_n V_n,        V^T C^-1 1 likewise
//
// Mean and variance of all C candidates then cost O(n C) an observation, and no factor is kept
// beside V. A pending candidate is fantasised at its expected score: it adds a row and lowers the
// variance, but leaves the mean unchanged; dropping its row costs nothing.
//
// Levels are averaged by their marginal likelihood, each with its amplitude at the maximum
// (Rasmussen & Williams 2006, eq. 5.8). The next candidate has the largest expected improvement to
// the power p (generalized expected improvement, Schonlau, Welch & Jones 1998).
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

// Closed-form infinite-width kernel over `scale`, as zopo_fast/gp/infinite_ntk.py defines it.
struct ArcCosine {
  std::size_t depth;
  double weight_variance, bias_variance;
  bool ntk;  // parametrisation: "ntk" if true, else "standard"
  double scale;
};

class RegionPosterior {
 public:
  // Build from coordinates X (columns, d). Memory for `capacity` observations is reserved now, so
  // that a run allocates nothing.
  RegionPosterior(const double* X, std::size_t columns, std::size_t d, const ArcCosine& kernel,
                  const Doubles& nuggets, std::size_t capacity);
  // Build from a Gram matrix K (columns, columns) of any kernel.
  RegionPosterior(const double* K, std::size_t columns, const Doubles& nuggets,
                  std::size_t capacity);

  std::size_t columns() const { return columns_; }
  std::size_t size() const { return column_.size(); }
  std::size_t levels() const { return level_.size(); }

  // Add the score of a candidate; `noise` is a variance beside the nugget, in K's units.
  // NotPositiveDefiniteError, with nothing changed, where nugget, noise and variance are all 0.
  void append(std::size_t column, double y, double noise);
  // Keep the first n observations. O(n C).
  void truncate(std::size_t n);
  // Replace the scores, (n,), of the same observations. O(n C).
  void rescore(const double* y, std::size_t n);
  // Never propose this candidate.
  void exclude(std::size_t column);

  // Return the candidate of largest expected improvement on `incumbent` to the power 1 or 2, with
  // pending candidates fantasised at their expected scores; -1 when all are excluded or pending.
  // Where the scores are mostly noise, only the `nearest` free candidates to `center` compete, by
  // the kernel's own distance: the model says little about the rest.
  std::int64_t propose(const std::int64_t* pending, std::size_t n, double incumbent, int power,
                       std::size_t center, std::size_t nearest);
  // Compute mean and variance (columns,) averaged over the levels, in units of the scores. Without
  // observations they are those of a prior of amplitude 1.
  void posterior(double* mean, double* variance) const;
  // Return each level's weight and its amplitude in the scores' variance, (levels,).
  void shares(double* weight, double* amplitude) const;
  // Compute V^T C^-1 r at all candidates from residuals r (n,): the update that turns a sample of a
  // level's prior into one of its posterior (Matheron's rule; Wilson et al. 2020).
  void propagate(std::size_t level, const double* r, std::size_t n, double* out) const;

  std::mutex& mutex() const { return mutex_; }

 private:
  struct Level {
    double nugget, weight, amplitude, next_pivot, log_determinant = 0.0;
    Floats V;                     // (size + pending, stride)
    Doubles L;                    // rows of C without the diagonal, as a triangle of size
    Doubles pivot, z_y, z_1;      // (size,)
    Floats variance, fantasised;  // (stride,) without and with the pending candidates
    Doubles mean_y, mean_1;       // V^T C^-1 y, V^T C^-1 1 (stride,)
  };

  void prepare(const Doubles& nuggets, std::size_t capacity);
  void kernel_row(std::size_t column);
  static double pivot_of(const Level& level, double variance, double noise);
  void extend(Level& level, std::size_t column, std::size_t rows, double pivot);
  void accumulate(Level& level, std::size_t row);
  void fantasise(const std::int64_t* pending, std::size_t n);
  void weigh();
  bool mostly_noise() const;
  void keep_near(std::size_t center, std::size_t nearest);
  std::int64_t most_promising() const;

  std::size_t columns_, stride_, dim_ = 0;
  ArcCosine kernel_{};
  Floats X_, across_;           // (columns, d); transposed (d, stride)
  std::vector<Floats> square_;  // S_l(x, x) by layer, (stride,)
  Floats gram_;                 // (columns, stride), when built from a Gram matrix
  Floats diagonal_;             // (stride,)
  std::vector<Level> level_;
  // Moments of the scores; the levels' weights and amplitudes are of the same observations.
  double score_mean_ = 0.0, score_deviation_ = 1.0;
  std::vector<std::size_t> column_;  // candidate of each observation
  Doubles y_;
  std::vector<std::int64_t> pending_;
  std::vector<bool> excluded_;
  Floats row_, negative_, dots_;  // scratch
  Floats near_;                   // kernel row of near_of_, the last center
  std::size_t near_of_ = 0;
  std::vector<std::pair<float, std::size_t>> distance_;
  Doubles criterion_;
  mutable std::mutex mutex_;
};

}  // namespace zopo
