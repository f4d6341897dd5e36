// Many factor rows at once, for throughput: panels of 64 rows by matrix products.
//
// With the rows before a panel known, K_21 the panel's kernel with them and K_22 with itself:
//
//   C_21^T = C^-1 K_21^T, refined once like a single row (cuda/gp/cholesky.cu)
//   C_22 C_22^T = K_22 + noise - C_21 C_21^T, by one block in shared memory, with C_22^-1
//   rows of C^-1 in the panel: (-C_22^-1 C_21 C^-1, C_22^-1)
//
// Five products of 64 p^2 multiply-adds with p rows before: 1.7 n^3 in all, half of them skipped in
// the triangles. X X^T is a product too; k follows from it and the features, a warp an entry.
#include "cuda/gp/point.cuh"
#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr int kPanel = 64;
constexpr int kStride = kPanel + 1;  // row stride of a panel in shared memory

// Compute k of the observations [from, from + gridDim.y) with those up to themselves; a warp an
// entry.
__global__ void __launch_bounds__(kThreads, 1)
    kernel_rows_kernel(const __grid_constant__ GpView v, int from, double* K, std::int64_t ldk) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int j = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  const std::int64_t i = from + static_cast<int>(blockIdx.y), width = v.net.hidden;
  if (j > i) return;
  const double k = kernel_value(v.net, v.h + i * width, v.D + i * width, v.h + j * width,
                                v.D + j * width, v.M[i * v.ld + j], lane);
  if (lane == 0) K[blockIdx.y * ldk + j] = k;
}

// R (p, b) = K^T - R with K (b, p).
__global__ void __launch_bounds__(kThreads, 1)
    residual_kernel(double* R, const double* K, std::int64_t ldk, int p, int b) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= std::int64_t{p} * b) return;
  R[e] = K[e % b * ldk + e / b] - R[e];
}

// C_21 (b, p) from V = C_21^T (p, b).
__global__ void __launch_bounds__(kThreads, 1)
    transpose_kernel(const double* V, int p, int b, double* C, std::int64_t ld) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= std::int64_t{p} * b) return;
  C[e / p * ld + e % p] = V[e % p * b + e / p];
}

// Factorise K_22 + noise - G into C_22 and C_22^-1, in the panel's places of C and C^-1; -C_22^-1
// also goes to `negative`.
__global__ void __launch_bounds__(kThreads, 1)
    panel_kernel(const __grid_constant__ GpView v, int from, int b, const double* K,
                 std::int64_t ldk, const double* G, double jitter, double* negative, int* status) {
  double* C = shared_memory<double>();  // (b, b) lower
  double* X = C + kPanel * kStride;     // its inverse
  double* diagonal = X + kPanel * kStride;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int e = thread; e < b * b; e += threads) {
    const int i = e / b, j = e % b;
    if (j > i) continue;
    double value = K[i * ldk + from + j];
    if (i == j) {
      value += v.noise[from + i] + jitter;
      diagonal[i] = value;
    }
    C[i * kStride + j] = G ? value - G[e] : value;
    X[i * kStride + j] = 0.0;
  }
  __syncthreads();
  constexpr double kEpsilon = 2.220446049250313e-16;
  // Finish column k of C and row k of X, then subtract them from the rows below. The sums over k of
  // the substitution for X then have no dependent chain within one thread.
  for (int k = 0; k < b; ++k) {
    const double pivot = C[k * kStride + k];
    if (!(pivot > 4.0 * static_cast<double>(from + k + 1) * kEpsilon * diagonal[k])) {
      if (thread == 0) *status = 1;
      return;  // alike in all threads
    }
    const double root = sqrt(pivot);
    __syncthreads();
    for (int e = thread; e <= b; e += threads) {
      if (e < k)
        X[k * kStride + e] /= root;
      else if (e == k)
        X[k * kStride + k] = 1.0 / root;
      else
        C[(e - 1) * kStride + k] = e - 1 == k ? root : C[(e - 1) * kStride + k] / root;
    }
    __syncthreads();
    for (int e = thread; e < (b - k - 1) * b; e += threads) {
      const int i = k + 1 + e / b, j = e % b;
      if (j > i) continue;
      double& entry = j <= k ? X[i * kStride + j] : C[i * kStride + j];
      entry = fma(-C[i * kStride + k], j <= k ? X[k * kStride + j] : C[j * kStride + k], entry);
    }
    __syncthreads();
  }
  for (int e = thread; e < b * b; e += threads) {
    const int i = e / b, j = e % b;
    if (j > i) continue;
    const std::int64_t at = (from + i) * std::int64_t{v.ld} + from + j;
    v.C[at] = C[i * kStride + j];
    v.Cinv[at] = X[i * kStride + j];
    negative[e] = -X[i * kStride + j];
  }
}

dim3 grid_of(std::int64_t entries) {
  return dim3(static_cast<unsigned>(divide_up<std::int64_t>(entries, kThreads)));
}

}  // namespace

void append_rows(GpModel& m, GpView v, double jitter) {
  const NetworkView& net = v.net;
  const int from = v.rows, count = v.n - from;
  const std::int64_t ld = v.ld, n = v.n;
  m.work.need(static_cast<std::size_t>(3 * n * kPanel + 2 * kPanel * kPanel), m.stream);
  double* K = m.work.data();   // (b, n)
  double* V = K + n * kPanel;  // (p, b)
  double* R = V + n * kPanel;  // (p, b)
  double* G = R + n * kPanel;  // (b, b)
  double* negative = G + kPanel * kPanel;

  const std::int64_t at = std::int64_t{from} * net.hidden;
  ntk_features(*m.network, v.x + std::int64_t{from} * net.dim, Precision::Double,
               static_cast<std::size_t>(count), v.h + at, v.D + at, Precision::Double,
               v.S + std::int64_t{from} * net.width[1], m.stream);
  gemm({.m = count,
        .n = v.n,
        .k = net.dim,
        .A = v.x + std::int64_t{from} * net.dim,
        .lda = net.dim,
        .B = v.x,
        .ldb = net.dim,
        .C = v.M + from * ld,
        .ldc = ld,
        .transpose_b = true},
       m.stream);
  for (int p = from; p < v.n; p += kPanel) {
    const int b = std::min(kPanel, v.n - p);
    launch("kernel rows", kernel_rows_kernel,
           {.grid = dim3(static_cast<unsigned>(divide_up(p + b, kThreads / 32)),
                         static_cast<unsigned>(b)),
            .block = dim3(kThreads),
            .stream = m.stream},
           v, p, K, n);
    if (p > 0) {
      const GemmArguments lower = {.m = p,
                                   .n = b,
                                   .k = p,
                                   .A = v.Cinv,
                                   .lda = ld,
                                   .B = K,
                                   .ldb = n,
                                   .C = V,
                                   .ldc = b,
                                   .transpose_b = true,
                                   .lower_a = true};
      gemm(lower, m.stream);
      GemmArguments again = lower;
      again.A = v.C;
      again.B = V;
      again.ldb = b;
      again.C = R;
      again.transpose_b = false;
      gemm(again, m.stream);
      launch("residual", residual_kernel,
             {.grid = grid_of(std::int64_t{p} * b), .block = dim3(kThreads), .stream = m.stream}, R,
             K, n, p, b);
      again.A = v.Cinv;
      again.B = R;
      again.C = V;
      again.add = true;
      gemm(again, m.stream);
      launch("transpose", transpose_kernel,
             {.grid = grid_of(std::int64_t{p} * b), .block = dim3(kThreads), .stream = m.stream}, V,
             p, b, v.C + p * ld, ld);
      gemm({.m = b,
            .n = b,
            .k = p,
            .A = V,
            .lda = b,
            .B = V,
            .ldb = b,
            .C = G,
            .ldc = b,
            .transpose_a = true,
            .lower_c = true},
           m.stream);
    }
    launch("panel", panel_kernel,
           {.grid = dim3(1),
            .block = dim3(kThreads),
            .shared = sizeof(double) * (2 * kPanel * kStride + kPanel),
            .stream = m.stream},
           v, p, b, K, n, p > 0 ? G : nullptr, jitter, negative, m.status.data());
    if (p == 0) continue;
    GemmArguments rest = {.m = p,
                          .n = b,
                          .k = p,
                          .A = v.Cinv,
                          .lda = ld,
                          .B = V,
                          .ldb = b,
                          .C = R,
                          .ldc = b,
                          .transpose_a = true,
                          .lower_a = true};
    gemm(rest, m.stream);
    gemm({.m = b,
          .n = p,
          .k = b,
          .A = negative,
          .lda = b,
          .B = R,
          .ldb = b,
          .C = v.Cinv + p * ld,
          .ldc = ld,
          .transpose_b = true,
          .lower_a = true},
         m.stream);
  }
}

}  // namespace zopo
