// Candidate embeddings, and the candidates nearest to a point.
//
// Embeddings stay in the precision they came in. A candidate's standardised coordinates are
// e = (z - mean) * inverse_scale; distances are Euclidean in these, in float64 order, with ties to
// the lowest index. A scan ranks rows by |e|^2 - 2 e.x from half-precision numbers, which are the
// embeddings themselves or a rounded copy. It has a rigorous error bound and rescores in float64
// every row within the bound, so the answer is exact.
//
// The CPU class is defined here; the CUDA twin is cuda/pool/pool.hpp, with the same answers and
// with distances equal to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "base/aligned.hpp"
#include "base/device.hpp"
#include "base/precision.hpp"

namespace zopo {

struct Neighbor {
  double distance;  // squared
  std::int64_t index;
  constexpr bool operator<(const Neighbor& o) const {
    return distance != o.distance ? distance < o.distance : index < o.index;
  }
};

template <class Device>
class Pool;

template <>
class Pool<Cpu> {
 public:
  // `data` (m, d) is row-major and owned by the caller for the life of the pool; mean and
  // inverse_scale are (d,).
  Pool(const void* data, Precision precision, std::size_t m, std::size_t d, Doubles mean,
       Doubles inverse_scale);

  std::size_t size() const { return m_; }
  std::size_t dim() const { return d_; }
  Precision precision() const { return precision_; }
  // Query and change availability. A lock keeps it constant during a scan.
  std::size_t available() const;
  bool taken(std::size_t i) const;
  void take(std::size_t i);
  void release(std::size_t i);

  // Compute the standardised coordinates of a row, (d,), or of n rows, (n, d).
  void row(std::size_t i, double* out) const;
  void rows(const std::int64_t* index, std::size_t n, double* out) const;
  // Compute the same of row i of other embeddings, (n, d), of the pool's precision.
  void standardise(const void* data, std::size_t i, double* out) const;
  // Multiply by the standardised rows e_r, r = index[0..n), without copying them: out_r = e_r . x,
  // and out += sum_r a_r e_r, (d,). `work` is scratch of d numbers.
  void inner(const std::int64_t* index, std::size_t n, const double* x, double* out,
             double* work) const;
  void combine(const std::int64_t* index, std::size_t n, const double* a, double* out,
               double* work) const;
  // Return the nearest candidate to x (d,) that is not taken; -1 when all are taken.
  std::int64_t nearest(const double* x) const;
  // Return the k nearest candidates, nearest first; taken ones count unless `available_only`.
  std::vector<Neighbor> k_nearest(const double* x, std::size_t k, bool available_only) const;
  // Return the distance from candidate i to its k-th nearest neighbour, or to the farthest
  // candidate when there are fewer.
  double radius(std::size_t i, std::size_t k) const;
  // Compute the squared distances to all candidates, (m,).
  void distances(const double* x, double* out) const;

 private:
  static constexpr std::size_t kBlock = 256;  // rows ranked at a time; their ranks stay in cache

  // Scratch of a scan, kept between calls so that a step allocates nothing; guarded by the lock.
  struct Workspace {
    Doubles point;                             // (d,)
    std::vector<float> w;                      // (d,)
    std::vector<std::vector<float>> smallest;  // by part: max-heap of the k smallest ranks
    std::vector<std::vector<std::pair<float, std::int64_t>>> found;  // by part
    std::vector<std::int64_t> rows;                                  // rows to rescore
    std::vector<Neighbor> nearest;                                   // rescored, nearest first
  };

  void sketch();
  // Return every row that may be among the k nearest to x.
  const std::vector<std::int64_t>& candidates(const double* x, std::size_t k,
                                              bool available_only) const;
  const double* mean_within() const { return mean_afterwards_ ? nullptr : mean_.data(); }
  double distance(std::size_t i, const double* x) const;
  void nearest_of(const std::vector<std::int64_t>& rows, const double* x, std::size_t k) const;

  bool is_taken(std::size_t i) const { return taken_[i / 64] >> (i % 64) & 1; }

  mutable std::mutex mutex_;
  const void* data_;
  Precision precision_;
  std::size_t m_, d_, available_;
  Doubles mean_, inverse_scale_;
  std::vector<std::uint64_t> taken_;
  // Scanned numbers: 2^shift (e_i - center) rounded to half precision, or the embeddings themselves
  // if they have half precision; |e_i - center|^2, and the largest of these.
  std::vector<std::uint16_t> rounded_;
  Doubles center_;
  double scale_ = 1.0;  // 2^shift
  std::vector<float> norm_;
  double largest_norm_ = 0.0, offset_ = 0.0;  // offset_: |mean o inverse_scale|
  // True if the mean is small against the spread, so that products of rows may subtract it at the
  // end without cancellation.
  bool mean_afterwards_ = true;
  mutable Workspace work_;
};

// Compute column means and population standard deviations of an (m, d) array, in float64.
std::pair<Doubles, Doubles> column_moments(const void* data, Precision precision, std::size_t m,
                                           std::size_t d);

}  // namespace zopo
