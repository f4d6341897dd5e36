// The posterior at every candidate of a region, kept up to date while observations come in, for
// several noise levels side by side.
//
// With A_g = K + diag(nugget_g + noise) = C_g C_g^T over the observations, each level keeps
// V = C^-1 k(X, candidates) by rows. An observation at candidate c adds one row and changes none:
//
//   l = V[:, c], p^2 = v(c) + nugget + noise, V_n = (k(c, .) - l^T V) / p
//   v -= V_n^2,  V^T C^-1 y += z_n V_n,  V^T C^-1 1 likewise
//
// so that mean and variance of all candidates cost O(n C) an observation and no factor is kept
// beside V. A pending candidate's fantasised score is what is expected of it: it adds a row, lowers
// the variance, leaves the mean, and is dropped for nothing.
//
// Levels are averaged by their marginal likelihood, the amplitude at its best value (Rasmussen &
// Williams 2006, eq. 5.8). The next candidate has the largest expected improvement to the power p
// (generalized expected improvement, Schonlau, Welch & Jones 1998).
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

// The infinite-width kernel in closed form, as zopo_fast/infinite.py has it, over `scale`.
struct ArcCosine {
  std::size_t depth;
  double weight_variance, bias_variance;
  bool ntk;  // parametrisation: "ntk", or "standard"
  double scale;
};

class RegionPosterior {
 public:
  // Coordinates X (columns, d).
  // Room for `capacity` observations is made now, so that none is made in the middle of a run.
  RegionPosterior(const double* X, std::size_t columns, std::size_t d, const ArcCosine& kernel,
                  const Doubles& nuggets, std::size_t capacity);
  // Their Gram matrix K (columns, columns) instead, of any kernel.
  RegionPosterior(const double* K, std::size_t columns, const Doubles& nuggets,
                  std::size_t capacity);

  std::size_t columns() const { return columns_; }
  std::size_t size() const { return column_.size(); }
  std::size_t levels() const { return level_.size(); }

  // The score of a candidate, with a noise variance beside the nugget, in K's units.
  // NotPositiveDefiniteError, and nothing changed, where nugget, noise and variance are all 0.
  void append(std::size_t column, double y, double noise);
  // Forgets the observations from the n-th on: O(n C).
  void truncate(std::size_t n);
  // Other scores (n,) of the same observations: O(n C).
  void rescore(const double* y, std::size_t n);
  // A candidate that is never proposed.
  void exclude(std::size_t column);

  // The candidate of largest expected improvement on `incumbent` to the power 1 or 2, as if the
  // pending ones had scored what is expected of them; -1 when all are excluded or pending.
  // Where the scores are mostly noise to the model, only among the `nearest` free candidates to
  // `center` by the kernel's own distance: what it says of the rest is not worth much.
  std::int64_t propose(const std::int64_t* pending, std::size_t n, double incumbent, int power,
                       std::size_t center, std::size_t nearest);
  // Mean and variance (columns,) averaged over the levels, in units of the scores; with none the
  // prior's of amplitude 1.
  void posterior(double* mean, double* variance) const;
  // Share of each level and the amplitude it is best at, in the scores' variance, (levels,).
  void shares(double* weight, double* amplitude) const;
  // V^T C^-1 r at all candidates, residuals r (n,): what moves a sample of a level's prior to one
  // of its posterior (Matheron's rule; Wilson et al. 2020).
  void propagate(std::size_t level, const double* r, std::size_t n, double* out) const;

  std::mutex& mutex() const { return mutex_; }

 private:
  struct Level {
    double nugget, weight, amplitude, next_pivot, log_determinant = 0.0;
    Floats V;                     // (size + pending, stride)
    Doubles L;                    // rows of C without the diagonal: triangle of size
    Doubles pivot, z_y, z_1;      // (size,)
    Floats variance, fantasised;  // (stride,); without and with the pending ones
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
  Floats gram_;                 // (columns, stride) where that is given
  Floats diagonal_;             // (stride,)
  std::vector<Level> level_;
  // Of the scores; the levels' weights and amplitudes are of the same observations.
  double score_mean_ = 0.0, score_deviation_ = 1.0;
  std::vector<std::size_t> column_;  // of each observation
  Doubles y_;
  std::vector<std::int64_t> pending_;
  std::vector<bool> excluded_;
  Floats row_, negative_, dots_;  // scratch
  Floats near_;                   // kernel row of the last center, near_of_
  std::size_t near_of_ = 0;
  std::vector<std::pair<float, std::size_t>> distance_;
  Doubles criterion_;
  mutable std::mutex mutex_;
};

}  // namespace zopo
