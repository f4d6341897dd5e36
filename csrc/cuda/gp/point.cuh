// Building blocks of kernels for one point against the observations: its features are in shared
// memory; warps compute rows of the kernel and of its derivative.
#pragma once

#include "cuda/gp/model.cuh"

namespace zopo {

// Shared memory of a block, laid out as point_shared() counts it.
struct PointShared {
  double* h;        // (hidden)
  double* D;        // (hidden)
  double* scratch;  // 40, for block_sum()
  double* row;      // (2 widest) of the warp
  double* gamma;    // (kMaxLayers + 2) of the warp
  double* lanes;    // (32 warps), of the block
};

__device__ inline PointShared point_memory(int hidden, int widest) {
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  PointShared s;
  s.h = shared_memory<double>();
  s.D = s.h + hidden;
  s.scratch = s.D + hidden;
  s.lanes = s.scratch + 40;
  double* mine = s.lanes + 32 * warps + warp * (2 * widest + kMaxLayers + 2);
  s.row = mine;
  s.gamma = mine + 2 * widest;
  return s;
}

// Compute a.b over n numbers, by a warp.
__device__ inline double warp_dot(const double* a, const double* b, int n, int lane) {
  double s = 0.0;
#pragma unroll 8
  for (int k = lane; k < n; k += 32) s = fma(a[k], b[k], s);
  return warp_sum(s);
}

// Compute entry 32 group + lane of L^T b, L (n, n) lower triangular. Warps split the rows; the
// first warp gets the sum. `lanes` holds 32 numbers for each warp; all threads of the block take
// part.
__device__ inline double transposed_times(const double* L, std::int64_t ld, int n, const double* b,
                                          int group, double* lanes) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warps = static_cast<int>(blockDim.x) / 32, j = group * 32 + lane;
  double sum = 0.0;
#pragma unroll 4
  for (int i = group * 32 + warp; i < n; i += warps)
    if (j <= i) sum = fma(b[i], L[i * ld + j], sum);
  lanes[thread] = sum;
  __syncthreads();
  double total = 0.0;
  if (warp == 0)
    for (int p = 0; p < warps; ++p) total += lanes[p * 32 + lane];
  __syncthreads();
  return total;
}

// Compute h and D of a point from W_0 x (width[1],), by the whole block.
__device__ inline void point_features(const NetworkView& net, const double* first, double* h,
                                      double* D) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % 32, warp = thread / 32, warps = threads / 32;
  for (int u = thread; u < net.width[1]; u += threads)
    h[net.offset[1] + u] = fmax(first[u] + net.bias[0][u], 0.0);
  __syncthreads();
  for (int l = 2; l <= net.layers; ++l) {
    for (int u = warp; u < net.width[l]; u += warps) {
      const std::int64_t row = static_cast<std::int64_t>(u) * net.width[l - 1];
      const double a =
          warp_dot(net.weight[l - 1] + row, h + net.offset[l - 1], net.width[l - 1], lane);
      if (lane == 0) h[net.offset[l] + u] = fmax(a + net.bias[l - 1][u], 0.0);
    }
    __syncthreads();
  }
  for (int l = net.layers; l >= 1; --l) {
    const int width = net.width[l];
    for (int u = thread; u < width; u += threads) {
      double g = 0.0;
      if (h[net.offset[l] + u] > 0.0) {
        if (l == net.layers) {
          g = net.weight[l][u];
        } else {
          const double* above = D + net.offset[l + 1];
          const double* W = net.weight[l] + u;
#pragma unroll 4
          for (int j = 0; j < net.width[l + 1]; ++j)
            g = fma(above[j], W[static_cast<std::int64_t>(j) * width], g);
        }
      }
      D[net.offset[l] + u] = g;
    }
    __syncthreads();
  }
}

// Compute k(x, x') by a warp, from both points' features and x.x'.
__device__ inline double kernel_value(const NetworkView& net, const double* h, const double* D,
                                      const double* other_h, const double* other_D, double inner,
                                      int lane) {
  double total = 0.0;
  for (int l = 1; l <= net.layers; ++l) {
    const int at = net.offset[l];
    total = fma(inner + 1.0, warp_dot(D + at, other_D + at, net.width[l], lane), total);
    inner = warp_dot(h + at, other_h + at, net.width[l], lane);
  }
  return total + inner + 1.0;
}

// Compute gamma[l] = D_l(x).D_l(x'), l <= layers, into shared memory of the warp.
__device__ inline void derivative_products(const NetworkView& net, const double* D,
                                           const double* other_D, double* gamma, int lane) {
  __syncwarp();
  for (int l = 0; l < net.layers; ++l) {
    const int at = net.offset[l + 1];
    const double g = warp_dot(D + at, other_D + at, net.width[l + 1], lane);
    if (lane == 0) gamma[l] = g;
  }
  if (lane == 0) gamma[net.layers] = 1.0;
  __syncwarp();
}

// Compute r (width[from],) J_from(x) as a row over the first layer's units, zero where a unit is
// inactive at x. Since J_l = diag(1[h_l > 0]) W_{l-1} J_{l-1} = B_l W_0, r passes down through the
// layers. With other_h, gamma_l h_l(x') is added at each layer on the way, which gives the row of P
// of x' (ntk_remainder() in ntk/ntk.hpp). `row`, 2 widest numbers of the warp, holds r at first;
// the result's position in it is returned.
__device__ inline double* row_to_first_layer(const NetworkView& net, const double* h, int from,
                                             const double* other_h, const double* gamma,
                                             double* row, int widest, int lane) {
  double *r = row, *next = row + widest;
  for (int u = lane; u < net.width[from]; u += 32)
    if (!(h[net.offset[from] + u] > 0.0)) r[u] = 0.0;
  __syncwarp();
  for (int l = from; l >= 2; --l) {
    const int below = net.width[l - 1], at = net.offset[l - 1];
    const double* W = net.weight[l - 1];
    for (int u = lane; u < below; u += 32) {
      double s = other_h ? gamma[l - 1] * other_h[at + u] : 0.0;
#pragma unroll 8
      for (int j = 0; j < net.width[l]; ++j)
        s = fma(r[j], W[static_cast<std::int64_t>(j) * below + u], s);
      next[u] = h[at + u] > 0.0 ? s : 0.0;
    }
    __syncwarp();
    double* t = r;
    r = next;
    next = t;
  }
  return r;
}

// Return entry u of r W_0 W_0^T, with r over the first layer's units.
__device__ inline double times_first_gram(const NetworkView& net, const double* r, int u) {
  const int w = net.width[1];
  double s = 0.0;
#pragma unroll 8
  for (int j = 0; j < w; ++j)
    s = fma(r[j], net.first_gram[static_cast<std::int64_t>(j) * w + u], s);
  return s;
}

// Compute P and Q (width[1],) of observation i, where tr(G^T A^-1 G) = sum_ij A^-1_ij (P_j.Q_i +
// M_ij c_i c_j) and Q_i = 2 c_i S_i + P_i W_0 W_0^T. gamma is as derivative_products() fills it. By
// a warp.
__device__ inline void remainder_rows(const NetworkView& net, const double* h,
                                      const double* other_h, const double* S, const double* gamma,
                                      double* row, int widest, double* P, double* Q, int lane) {
  const int top = net.offset[net.layers];
  __syncwarp();
  for (int u = lane; u < net.width[net.layers]; u += 32) row[u] = other_h[top + u];
  __syncwarp();
  const double* r = row_to_first_layer(net, h, net.layers, other_h, gamma, row, widest, lane);
  for (int u = lane; u < net.width[1]; u += 32) {
    P[u] = r[u];
    if (Q) Q[u] = fma(2.0 * gamma[0], S[u], times_first_gram(net, r, u));
  }
  __syncwarp();
}

// Compute the row of J_l for unit `unit` of layer `layer`, over the first layer's units; return its
// position in `row`. By a warp.
__device__ inline double* unit_row(const NetworkView& net, const double* h, int layer, int unit,
                                   double* row, int widest, int lane) {
  __syncwarp();
  for (int u = lane; u < net.width[layer]; u += 32) row[u] = u == unit ? 1.0 : 0.0;
  __syncwarp();
  return row_to_first_layer(net, h, layer, nullptr, nullptr, row, widest, lane);
}

// Compute |D_l(x)|^2 by a warp; D_layers = 1.
__device__ inline double derivative_weight(const NetworkView& net, const double* D, int l,
                                           int lane) {
  if (l == net.layers) return 1.0;
  const double* of = D + net.offset[l + 1];
  return warp_dot(of, of, net.width[l + 1], lane);
}

}  // namespace zopo
