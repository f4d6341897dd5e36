// Copies of tiles of row-major matrices to shared memory, for the matrix products.
#pragma once

#include "cuda/linalg/mma.cuh"

namespace zopo {

__device__ inline void copy_async_one(double* to, const double* from, bool valid) {
  copy_async8(to, from, valid);
}
__device__ inline void copy_async_one(float* to, const float* from, bool valid) {
  copy_async4(to, from, valid);
}

// Return whether 16-byte loads reach every row of a matrix: its start and its leading dimension are
// multiples of 16 bytes.
template <class T>
__host__ __device__ inline bool rows_aligned(const T* p, std::int64_t ld) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 &&
         static_cast<std::size_t>(ld) * sizeof(T) % 16 == 0;
}

// A matrix in device memory. With `lower`, entries right of its diagonal count as zero and are not
// read. `aligned` is rows_aligned().
template <class T>
struct TileSource {
  const T* data;
  std::int64_t ld;
  int rows, columns;
  bool lower, aligned;
};

// Start copying the entries (row + i, column + j), i < kRows, j < kColumns, to to[i * kStride + j],
// with zeros beyond the matrix. `column` is a multiple of 16 bytes. All threads of the block take
// part.
template <int kRows, int kColumns, int kStride, int kThreads, class T>
__device__ inline void copy_tile(T* to, const TileSource<T>& from, int row, int column) {
  constexpr int kVector = static_cast<int>(16 / sizeof(T));
  constexpr int kChunks = kColumns / kVector;  // of a row
  static_assert(kColumns % kVector == 0 && kStride % kVector == 0, "16-byte copies");
  static_assert(kRows * kChunks % kThreads == 0, "every thread makes as many copies");
#pragma unroll
  for (int step = 0; step < kRows * kChunks / kThreads; ++step) {
    const int chunk = static_cast<int>(threadIdx.x) + step * kThreads;
    const int i = chunk / kChunks, j = chunk % kChunks * kVector;
    const int r = row + i, c = column + j;
    const int end = r >= from.rows ? 0 : from.lower ? min(from.columns, r + 1) : from.columns;
    const T* p = from.data + r * from.ld + c;
    T* q = to + i * kStride + j;
    if (from.aligned && (c + kVector <= end || c >= end)) {
      const bool valid = c < end;
      copy_async16(q, valid ? p : from.data, valid);
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const bool valid = c + e < end;
        copy_async_one(q + e, valid ? p + e : from.data, valid);
      }
    }
  }
}

}  // namespace zopo
