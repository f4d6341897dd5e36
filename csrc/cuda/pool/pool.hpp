// Pool of candidates on a CUDA device: the twin of pool/pool.hpp, with the same answers and with
// distances equal to the bit. Plain C++, no CUDA headers.
//
// Arrays in the calls are in host memory. Availability is kept on both sides: queries do not wait
// for the device, and neither do changes.
#pragma once

#include <memory>

#include "pool/pool.hpp"

namespace zopo {

struct CudaPoolState;  // cuda/pool/state.cuh

template <>
class Pool<Cuda> {
 public:
  // Embeddings in host memory are copied once. Embeddings on the device `ordinal` are used in
  // place; the caller owns them for the life of the pool, and the constructor waits for what was
  // written to them on `stream` (a cudaStream_t). A half-precision copy for scans, two bytes an
  // entry, is made of other precisions and of half-precision rows whose width is not a multiple of
  // eight. ConfigError for a pool beyond what kernels count in: 2^32 rows, about 25,000 dimensions.
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

  // Return the device state for other CUDA sources; no call may be in progress.
  const CudaPoolState& state() const { return *state_; }

 private:
  void prepare();
  void mark(std::size_t i, bool taken);
  bool is_taken(std::size_t i) const { return taken_[i / 32] >> (i % 32) & 1; }
  // Scan for the query that is stored in the state's point.
  Neighbor nearest_one(bool available_only) const;
  std::vector<Neighbor> nearest_many(std::size_t k, bool available_only) const;

  mutable std::mutex mutex_;
  std::size_t m_, d_, available_;
  Doubles mean_, inverse_scale_;
  std::vector<std::uint32_t> taken_;
  std::unique_ptr<CudaPoolState> state_;
};

}  // namespace zopo
