// State of a search on the device, and the shared memory of the block that works on it.
//
// Shared memory holds the vectors of length d and of the network's widths. Arrays that grow with
// the observations or the pool are in device memory and read by rows, so that the loads of a warp
// are adjacent.
#pragma once

#include "base/precision.hpp"
#include "cuda/ntk/network.cuh"

namespace zopo {

// Arrays of a search on the device. Triangles are packed by rows: row i starts at i (i + 1) / 2.
struct SearchView {
  NetworkView net;
  const void* Z;  // (m, d)
  Precision precision;
  bool aligned;  // rows start at multiples of 16 bytes
  std::int64_t m;
  int d;
  const double *mean, *inverse_scale;  // (d,)
  unsigned* taken;                     // m bits
  // Observations, at most `capacity` of them.
  std::int64_t* index;
  double *h, *D;                  // (n, hidden)
  double *K, *inverse, *A, *M;    // triangles: without noise; C^-1; A^-1; X X^T
  double* S;                      // X W_0^T (n, w)
  double *y, *noise, *z_y, *z_1;  // scores, variances, C^-1 y, C^-1 1
  // The center, and terms of the observations at it: G = diag(c) X + P W_0, Q = diag(c) S.
  double *cx, *ch, *cD;   // (d,), (hidden,)
  double* B;              // for l = 2..layers, consecutively: (width[l], w)
  double *c, *P, *Q;      // (n,), (n, w), (n, w)
  double *k, *u, *v, *T;  // scratch: (n,), (n,), (n,), (n, 2w)
  double* distance;       // scratch (m,)
};

// Mutable state of a search, written by kernels.
struct SearchState {
  std::int64_t center;  // -1: none
  int n;
  double explained, prior;
};

__host__ __device__ inline std::int64_t row_of_triangle(std::int64_t i) { return i * (i + 1) / 2; }

// ---- the block's shared memory -----------------------------------------------------------------

// Columns are assigned to lanes in groups of V (16 bytes where rows allow it). Vectors of length d
// are stored in that order, so that lanes read adjacent words: column (32 c + lane) V + e is at
// (V c + e) 32 + lane.
__host__ __device__ inline int padded_columns(int d, int V) {
  return (d + 32 * V - 1) / (32 * V) * (32 * V);
}
__host__ __device__ inline int column_position(int column, int V) {
  const int group = column / V, e = column % V;
  return (group / 32 * V + e) * 32 + group % 32;
}

struct Shared {
  double *e, *w, *inverse_scale, *mean;  // (padded d,): e in column order, the others in lane order
  double *h, *D;                         // (hidden,)
  double* q;                             // (2 w,)
  double* partial;                       // (threads,)
  double* scratch;                       // (33,)
  std::int64_t* place;                   // (33,)
};
constexpr int kMaxGroup = 8;

__host__ __device__ inline std::size_t shared_doubles(int d, int hidden, int w, int threads) {
  return 4 * static_cast<std::size_t>(padded_columns(d, kMaxGroup)) +
         2 * static_cast<std::size_t>(hidden) + 2 * static_cast<std::size_t>(w) +
         static_cast<std::size_t>(threads) + 66;
}

__device__ inline Shared carve(const SearchView& s) {
  auto* at = shared_memory<double>();
  const auto take = [&](int count) {
    double* p = at;
    at += count;
    return p;
  };
  const int wide = padded_columns(s.d, kMaxGroup);
  Shared b;
  b.e = take(wide);
  b.w = take(wide);
  b.inverse_scale = take(wide);
  b.mean = take(wide);
  b.h = take(s.net.hidden);
  b.D = take(s.net.hidden);
  b.q = take(2 * s.net.width[1]);
  b.partial = take(static_cast<int>(blockDim.x));
  b.scratch = take(33);
  b.place = reinterpret_cast<std::int64_t*>(take(33));
  return b;
}

}  // namespace zopo
