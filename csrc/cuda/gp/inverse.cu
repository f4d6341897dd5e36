// Quantities derived from the factor, brought up to date when they are needed: z = C^-1 y,
// alpha = C^-T z, A^-1 = C^-T C^-1, and sums over them. The CPU twin is gp/cpu_engine.cpp.
//
// alpha and A^-1 are sums over the rows of C^-1 in order, one product at a time, here as in the
// append (cuda/gp/cholesky.cu). An object whose points came and went therefore gives the same bits
// as one that never held them. A^-1 costs n^3 / 3 multiply-adds: tiles of 64 x 64, 16 entries a
// thread, 32 kB of shared memory, 8 multiply-adds for each number read from it.
#include "cuda/gp/point.cuh"
#include "cuda/runtime/index.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;   // a block computes kTile x kTile entries of A^-1
constexpr int kDepth = 32;  // rows of C^-1 at a time

// out_i = base_i + sign sum_{j <= i} L_ij b_j, a warp a row; a null base counts as 0.
__global__ void __launch_bounds__(kThreads, 1)
    lower_times_kernel(const double* L, std::int64_t ld, int n, const double* b, const double* base,
                       double sign, double* out) {
  const int i = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (i >= n) return;
  const double s = warp_dot(L + i * ld, b, i + 1, lane);
  if (lane == 0) out[i] = fma(sign, s, base ? base[i] : 0.0);
}

// alpha_j = sum_i z_i C^-1_ij, a thread a column.
__global__ void __launch_bounds__(kThreads, 1)
    alpha_kernel(const double* Cinv, std::int64_t ld, int n, const double* z, double* alpha) {
  const int j = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (j >= n) return;
  double s = 0.0;
#pragma unroll 8
  for (int i = j; i < n; ++i) s = fma(z[i], Cinv[i * ld + j], s);
  alpha[j] = s;
}

// Add the terms of rows [from, n) of C^-1 to A^-1, which holds those before; a block a tile of the
// lower triangle.
__global__ void __launch_bounds__(kThreads, 1)
    inverse_kernel(const double* Cinv, std::int64_t ld, int n, int from, double* A) {
  const TilePosition tile = lower_tile(blockIdx.x);
  double* left = shared_memory<double>();  // (kDepth, kTile): columns of the tile's rows
  double* right = left + kDepth * kTile;   // and those of its columns
  const int thread = static_cast<int>(threadIdx.x), tx = thread % 16, ty = thread / 16;
  const int I = tile.row * kTile, J = tile.column * kTile;
  double sum[4][4];
#pragma unroll
  for (int p = 0; p < 4; ++p)
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int i = I + ty + 16 * p, j = J + tx + 16 * q;
      sum[p][q] = i < from && j <= i ? A[i * ld + j] : 0.0;
    }
  for (int begin = max(I, from / kDepth * kDepth); begin < n; begin += kDepth) {
    __syncthreads();
    for (int e = thread; e < kDepth * kTile; e += kThreads) {
      const int r = begin + e / kTile, c = e % kTile;
      const bool row = r >= from && r < n;
      left[e] = row && I + c <= r ? Cinv[r * ld + I + c] : 0.0;
      right[e] = row && J + c <= r ? Cinv[r * ld + J + c] : 0.0;
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < kDepth; ++r) {
      double a[4], b[4];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        a[p] = left[r * kTile + ty + 16 * p];
        b[p] = right[r * kTile + tx + 16 * p];
      }
#pragma unroll
      for (int p = 0; p < 4; ++p)
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[p][q] = fma(a[p], b[q], sum[p][q]);
    }
  }
#pragma unroll
  for (int p = 0; p < 4; ++p)
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int i = I + ty + 16 * p, j = J + tx + 16 * q;
      if (i < n && j <= i) {
        A[i * ld + j] = sum[p][q];
        if (j < i) A[j * ld + i] = sum[p][q];
      }
    }
}

// Compute |z|^2, log det A and, with_diagonal, the sum of k(x_i, x_i), by one block.
__global__ void __launch_bounds__(kThreads, 1)
    sums_kernel(const __grid_constant__ GpView v, bool with_diagonal, double* out) {
  double* scratch = shared_memory<double>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  double square = 0.0, log_det = 0.0, diagonal = 0.0;
  for (int i = thread; i < v.rows; i += kThreads) {
    square = fma(v.z[i], v.z[i], square);
    log_det += log(v.C[i * std::int64_t{v.ld} + i]);
  }
  for (int i = thread / 32; with_diagonal && i < v.n; i += kThreads / 32) {
    const std::int64_t of = std::int64_t{i} * v.net.hidden;
    const double k = kernel_value(v.net, v.h + of, v.D + of, v.h + of, v.D + of,
                                  v.M[i * std::int64_t{v.ld} + i], lane);
    if (lane == 0) diagonal += k;
  }
  square = block_sum(square, scratch);
  log_det = block_sum(log_det, scratch);
  diagonal = block_sum(diagonal, scratch);
  if (thread == 0) {
    out[0] = square;
    out[1] = 2.0 * log_det;
    out[2] = diagonal;
  }
}

void lower_times(GpModel& m, const double* L, const double* b, const double* base, double sign,
                 double* out) {
  launch("triangle times vector", lower_times_kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up(m.v.rows, kThreads / 32))),
          .block = dim3(kThreads),
          .stream = m.stream},
         L, m.v.ld, m.v.rows, b, base, sign, out);
}

}  // namespace

// z is refined once, like the rows of C (cuda/gp/cholesky.cu).
void update_targets(GpModel& m) {
  if (m.z_fresh) return;
  const GpView& v = m.v;
  m.work.need(static_cast<std::size_t>(v.rows), m.stream);
  lower_times(m, v.Cinv, v.y, nullptr, 1.0, v.z);
  lower_times(m, v.C, v.z, v.y, -1.0, m.work.data());
  lower_times(m, v.Cinv, m.work.data(), v.z, 1.0, v.z);
  m.z_fresh = true;
}

void update_alpha(GpModel& m) {
  update_targets(m);
  if (m.alpha_fresh) return;
  launch("alpha", alpha_kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up(m.v.n, 32))),
          .block = dim3(32),
          .stream = m.stream},
         m.v.Cinv, m.v.ld, m.v.n, m.v.z, m.v.alpha);
  m.alpha_fresh = true;
}

void update_inverse(GpModel& m) {
  if (m.summed == m.v.n) return;
  launch("inverse", inverse_kernel,
         {.grid = dim3(static_cast<unsigned>(lower_tiles(divide_up(m.v.n, kTile)))),
          .block = dim3(kThreads),
          .shared = 2 * kDepth * kTile * sizeof(double),
          .stream = m.stream},
         m.v.Cinv, m.v.ld, m.v.n, m.summed, m.v.A);
  m.summed = m.v.n;
}

void sums(GpModel& m, bool diagonal) {
  m.results.need(3);
  launch(
      "sums", sums_kernel,
      {.grid = dim3(1), .block = dim3(kThreads), .shared = 40 * sizeof(double), .stream = m.stream},
      m.v, diagonal, m.results.data());
  synchronize(m.stream);
}

}  // namespace zopo
