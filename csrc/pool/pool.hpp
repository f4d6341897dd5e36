// Candidate embeddings, and the nearest of them to a point.
//
// Embeddings stay in the precision they came in; a candidate's standardised coordinates are
// e = (z - mean) * inverse_scale, and distances are Euclidean in those, in float64 order, ties to
// the lowest index. A scan ranks by |e|^2 - 2 e.x from half-precision numbers, the embeddings
// themselves or a rounded copy, with a rigorous error bound, and rescores in float64 whatever lies
// within it, so the answer is exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/aligned.hpp"
#include "base/device.hpp"

namespace zopo {

enum class Precision { Half, Single, Double };

struct Neighbor {
  double distance;  // squared
  std::int64_t index;
  constexpr bool operator<(const Neighbor& o) const {
    return distance != o.distance ? distance < o.distance : index < o.index;
  }
};

template <class Device>
class Pool {
 public:
  // data (m, d) row-major, owned by the caller for the life of the pool; mean and inverse_scale
  // (d,).
  Pool(const void* data, Precision precision, std::size_t m, std::size_t d, Doubles mean,
       Doubles inverse_scale);

  std::size_t size() const { return m_; }
  std::size_t dim() const { return d_; }
  // What is taken is guarded by a lock: a scan runs while no candidate changes hands.
  std::size_t available() const;
  bool taken(std::size_t i) const;
  void take(std::size_t i);
  void release(std::size_t i);

  void row(std::size_t i, double* out) const;  // standardised coordinates (d,)
  // Those of n rows, (n, d).
  void rows(const std::int64_t* index, std::size_t n, double* out) const;
  // With e_r the standardised coordinates of rows r = index[0..n): out_r = e_r . x, and
  // out += sum_r a_r e_r, (d,). Read where they lie; `work` is scratch of d numbers.
  void inner(const std::int64_t* index, std::size_t n, const double* x, double* out,
             double* work) const;
  void combine(const std::int64_t* index, std::size_t n, const double* a, double* out,
               double* work) const;
  // The nearest candidate to x (d,) that is not taken; -1 when all are.
  std::int64_t nearest(const double* x) const;
  // The k nearest, nearest first; taken ones are included unless `available_only`.
  std::vector<Neighbor> k_nearest(const double* x, std::size_t k, bool available_only) const;
  // Distance from candidate i to the k-th nearest other one, to the farthest when there are fewer.
  double radius(std::size_t i, std::size_t k) const;
  void distances(const double* x, double* out) const;  // squared, all m, float64

 private:
  // Scratch of a scan, kept between calls so that a step allocates nothing; guarded by the lock.
  struct Workspace {
    Doubles point;                             // (d,)
    std::vector<float> w;                      // (d,)
    std::vector<std::vector<float>> smallest;  // by part: max-heap of the k smallest ranks
    std::vector<std::vector<std::pair<float, std::int64_t>>> found;  // by part
    std::vector<std::int64_t> rows;                                  // what has to be rescored
    std::vector<Neighbor> nearest;                                   // rescored, nearest first
  };

  void sketch();
  // Every row that may be among the k nearest to x.
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
  // What is scanned: rows_i = 2^shift (e_i - center) rounded to half precision, or the embeddings
  // themselves where they are that already; |e_i - center|^2, and the largest of these.
  std::vector<std::uint16_t> rounded_;
  Doubles center_;
  double scale_ = 1.0;  // 2^shift
  std::vector<float> norm_;
  double largest_norm_ = 0.0, offset_ = 0.0;  // |mean o inverse_scale|
  bool mean_afterwards_ = true;  // small against the spread: products of rows may leave it for last
  mutable Workspace work_;
};

struct CudaPoolState;  // cuda/pool/state.cuh

// The same on a CUDA device: the same answers, and distances to the bit. Arrays of numbers in the
// calls are the host's. What is taken lies in both memories, so that asking for it waits for
// nothing; changing it does not wait either.
template <>
class Pool<Cuda> {
 public:
  // Embeddings of the host are copied once. Those of the device `ordinal` are used in place and
  // owned by the caller for the life of the pool; what was written to them on `stream` (a
  // cudaStream_t) is waited for here. Half-precision ones of a width that is not a multiple of
  // eight, and other precisions, are given a half-precision copy to scan, two bytes an entry.
  // ConfigError for a pool beyond what kernels count in: 2^32 rows, about 25,000 dimensions.
  Pool(const void* data, bool on_device, Precision precision, std::size_t m, std::size_t d,
       Doubles mean, Doubles inverse_scale, int ordinal, void* stream);
  ~Pool();

  std::size_t size() const { return m_; }
  std::size_t dim() const { return d_; }
  std::size_t available() const;
  bool taken(std::size_t i) const;
  void take(std::size_t i);
  void release(std::size_t i);

  void row(std::size_t i, double* out) const;
  void rows(const std::int64_t* index, std::size_t n, double* out) const;
  std::int64_t nearest(const double* x) const;
  std::vector<Neighbor> k_nearest(const double* x, std::size_t k, bool available_only) const;
  double radius(std::size_t i, std::size_t k) const;
  void distances(const double* x, double* out) const;

  // For other CUDA sources; to be used with no call under way.
  const CudaPoolState& state() const { return *state_; }

 private:
  void prepare();
  void mark(std::size_t i, bool taken);
  bool is_taken(std::size_t i) const { return taken_[i / 32] >> (i % 32) & 1; }
  // Of the query in the state's point.
  Neighbor nearest_one(bool available_only) const;
  std::vector<Neighbor> nearest_many(std::size_t k, bool available_only) const;

  mutable std::mutex mutex_;
  std::size_t m_, d_, available_;
  Doubles mean_, inverse_scale_;
  std::vector<std::uint32_t> taken_;
  std::unique_ptr<CudaPoolState> state_;
};

// Column means and standard deviations (population) of an (m, d) array, in float64.
std::pair<Doubles, Doubles> column_moments(const void* data, Precision precision, std::size_t m,
                                           std::size_t d);

// Index of the first entry that is NaN or infinite, or size when there is none.
std::size_t first_non_finite(const void* data, Precision precision, std::size_t size);

}  // namespace zopo
