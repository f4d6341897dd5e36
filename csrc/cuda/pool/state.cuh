// A pool on a device: what its kernels see of it, its rows in float64, and what the host keeps.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "cuda/runtime/support.cuh"
#include "pool/pool.hpp"

namespace zopo {

// What kernels take by value. All pointers are the device's.
struct PoolView {
  const void* data;  // the embeddings, (m, d), `stride` entries from row to row
  std::int64_t m, stride;
  int d;
  const double *mean, *inverse_scale;  // (d,)
  // What is scanned (cuda/pool/nearest.cu): rows of half-precision numbers, `vectors` times eight of them
  // each, zeros behind the d-th; |e_i - center|^2 times the unit, (m,).
  const uint4* rows;
  int vectors;
  const float* norm;
  const double *center, *factor;  // (d,)
  double margin[3];               // coefficients of 1, |x - center| and |x - center|^2
};

// A step's scratch and its result; each word is left as it was found.
struct Selection {
  unsigned prefix, remaining;  // of the radix selection: digits found, which key among those
  unsigned arrived;            // blocks that are done
  unsigned cut;                // keys up to here are candidates
  unsigned long long found;    // candidates
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
  Buffer<unsigned char> data;  // empty where the caller's is used in place
  Buffer<uint4> rows;          // empty where the embeddings themselves are scanned
  Buffer<float> norm;
  Buffer<double> vectors;        // mean, inverse scale, center, factor, the query: (d,) each
  Buffer<std::uint32_t> taken;   // a bit a candidate
  Buffer<Neighbor> block_found;  // the nearest, by block
  Buffer<Selection> selection;
  Buffer<unsigned> keys, minima;  // of the ranks, by row and by 32 rows
  Mailbox<Neighbor> found;
  Mailbox<unsigned long long> count;
  PoolView view;

  double* point() const { return vectors.data() + 4 * static_cast<std::size_t>(view.d); }
};

// Calls f with a null pointer of the embeddings' type.
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
constexpr int kRowLanes = 8;  // lanes that share a row, and numbers in a 16-byte load

// Bytes of shared memory that a scan of that dimension takes.
std::size_t scan_shared(int vectors);
// Whether every warp of a grid that fills the device has 32 rows to scan.
bool many_rows(const PoolView& p);
// A grid that fills the device, or less where it has rows for less.
Launch scan_launch(const CudaPoolState& s, int rows_a_warp);

// ---- in kernels
// ----------------------------------------------------------------------------------

namespace scan {

__device__ inline double value(__half h) { return static_cast<double>(__half2float(h)); }
__device__ inline double value(float v) { return static_cast<double>(v); }
__device__ inline double value(double v) { return v; }

// Entry j of a row's standardised coordinates: the CPU's operations, each rounded on its own.
template <class T>
__device__ inline double standardised(const PoolView& p, const T* row, int j) {
  return __dmul_rn(__dsub_rn(value(row[j]), p.mean[j]), p.inverse_scale[j]);
}

template <class T>
__device__ inline const T* row_of(const PoolView& p, std::int64_t i) {
  return static_cast<const T*>(p.data) + i * p.stride;
}

// The squared distance of row i to x (d,), to the bit as the CPU has it: eight sums, one a lane,
// added up in order. Four rows a warp, one for each eight lanes; all lanes take part, and those of
// a row all return its distance.
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
