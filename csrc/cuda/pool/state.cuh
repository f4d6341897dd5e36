// State of a pool on a device: the view of its kernels, its rows in float64, and the host's part.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "cuda/pool/pool.hpp"
#include "cuda/runtime/support.cuh"

namespace zopo {

// Arguments of the kernels, by value. All pointers are to device memory.
struct PoolView {
  const void* data;  // the embeddings, (m, d), `stride` entries from row to row
  std::int64_t m, stride;
  int d;
  const double *mean, *inverse_scale;  // (d,)
  // Scanned numbers (cuda/pool/nearest.cu): rows of `vectors` times eight half-precision numbers,
  // with zeros beyond d. norm holds |e_i - center|^2 times the unit, (m,).
  const uint4* rows;
  int vectors;
  const float* norm;
  const double *center, *factor;  // (d,)
  double margin[3];               // coefficients of 1, |x - center| and |x - center|^2
};

// Scratch and result of a step; each launch leaves every word as it found it.
struct Selection {
  unsigned prefix, remaining;  // radix selection: digits found, rank of the key among those left
  unsigned arrived;            // number of finished blocks
  unsigned cut;                // keys up to here are candidates
  unsigned long long found;    // number of candidates
  double margin;
  unsigned histogram[2048];
};

struct PoolStream {
  cudaStream_t handle = nullptr;
  PoolStream() {
    check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~PoolStream() { (void)cudaStreamDestroy(handle); }
  PoolStream(const PoolStream&) = delete;
  PoolStream& operator=(const PoolStream&) = delete;
};

struct CudaPoolState {
  int ordinal;
  Precision precision;
  PoolStream stream;
  Buffer<unsigned char> data;  // empty if the caller's embeddings are used in place
  Buffer<uint4> rows;          // empty if the embeddings themselves are scanned
  Buffer<float> norm;
  Buffer<double> vectors;        // mean, inverse scale, center, factor, the query: (d,) each
  Buffer<std::uint32_t> taken;   // a bit for each candidate
  Buffer<Neighbor> block_found;  // the nearest candidate of each block
  Buffer<Selection> selection;
  Buffer<unsigned> keys, minima;  // ranks as keys, by row and by 32 rows
  Mailbox<Neighbor> found;
  Mailbox<unsigned long long> count;
  PoolView view;

  double* point() const { return vectors.data() + 4 * static_cast<std::size_t>(view.d); }
};

// Call f with a null pointer of the embeddings' type.
template <class F>
decltype(auto) with_type(Precision precision, F&& f) {
  switch (precision) {
    case Precision::Half:
      return f(static_cast<const __half*>(nullptr));
    case Precision::Single:
      return f(static_cast<const float*>(nullptr));
    default:
      return f(static_cast<const double*>(nullptr));
  }
}

constexpr int kScanThreads = 256, kScanWarps = kScanThreads / 32;
constexpr int kRowLanes = 8;  // lanes that share a row; also the halves in a 16-byte load

// Return the bytes of shared memory of a scan of this dimension.
std::size_t scan_shared(int vectors);
// Return whether every warp of a grid that fills the device has 32 rows to scan.
bool many_rows(const PoolView& p);
// Return a grid that fills the device, or a smaller one for fewer rows.
Launch scan_launch(const CudaPoolState& s, int rows_a_warp);

// ---- in kernels --------------------------------------------------------------------------------

namespace scan {

__device__ inline double value(__half h) { return static_cast<double>(__half2float(h)); }
__device__ inline double value(float v) { return static_cast<double>(v); }
__device__ inline double value(double v) { return v; }

// Standardise entry j of a row with the CPU's operations, each rounded on its own.
template <class T>
__device__ inline double standardised(const PoolView& p, const T* row, int j) {
  return __dmul_rn(__dsub_rn(value(row[j]), p.mean[j]), p.inverse_scale[j]);
}

template <class T>
__device__ inline const T* row_of(const PoolView& p, std::int64_t i) {
  return static_cast<const T*>(p.data) + i * p.stride;
}

// Compute the squared distance of row i to x (d,), to the bit as the CPU does: eight sums, one a
// lane, added in order. A warp computes four rows, each on eight lanes, all of which get the row's
// distance. All lanes take part.
template <class T>
__device__ inline double squared_distance(const PoolView& p, std::int64_t i, const double* x) {
  const T* row = row_of<T>(p, i);
  double partial = 0.0, total = 0.0;
#pragma unroll 4
  for (int j = static_cast<int>(threadIdx.x) % kRowLanes; j < p.d; j += kRowLanes) {
    const double e = __dsub_rn(standardised(p, row, j), x[j]);
    partial = __dadd_rn(partial, __dmul_rn(e, e));
  }
#pragma unroll
  for (int lane = 0; lane < kRowLanes; ++lane)
    total = __dadd_rn(total, __shfl_sync(kFullWarp, partial, lane, kRowLanes));
  return total;
}

}  // namespace scan
}  // namespace zopo
