// Building blocks of the kernels in cuda/model/kernels.cuh: the network at a point and the
// matrices of a search, by a block.
#pragma once

#include <cfloat>

#include "cuda/model/rows.cuh"

namespace zopo {

// ---- the network at a point --------------------------------------------------------------------

// Compute row(i) . x over length(i) entries, for i < count, and call `finish(i, sum)` by one lane.
// Four rows a warp at a time keep their loads in flight together.
template <class Row, class Length, class Finish>
__device__ void row_dots(int count, Row row, Length length, const double* x, Finish finish) {
  constexpr int kRows = 4;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int first = kRows * warp; first < count; first += kRows * warps) {
    const double* rows[kRows];
    int lengths[kRows], longest = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int i = first + r < count ? first + r : count - 1;
      rows[r] = row(i);
      lengths[r] = length(i);
      longest = lengths[r] > longest ? lengths[r] : longest;
    }
    double sum[kRows] = {};
    for (int i = lane; i < longest; i += 32) {
      const double value = x[i];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (i < lengths[r]) sum[r] = fma(rows[r][i], value, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const double total = warp_sum(sum[r]);
      if (lane == 0 && first + r < count) finish(first + r, total);
    }
  }
}

// Compute b.h and b.D from b.e; `first` (w,), if not null, gets W_0 e without the bias.
__device__ inline void features(const NetworkView& net, const Shared& b, double* first) {
  for (int l = 1; l <= net.layers; ++l) {
    __syncthreads();
    const double* in = l == 1 ? b.e : b.h + net.offset[l - 1];
    const int inputs = net.width[l - 1];
    row_dots(
        net.width[l],
        [&](int j) { return net.weight[l - 1] + static_cast<std::int64_t>(j) * inputs; },
        [&](int) { return inputs; }, in,
        [&](int j, double sum) {
          if (l == 1 && first) first[j] = sum;
          b.h[net.offset[l] + j] = fmax(sum + net.bias[l - 1][j], 0.0);
        });
  }
  for (int l = net.layers; l >= 1; --l) {
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < net.width[l];
         j += static_cast<int>(blockDim.x)) {
      double D = 0.0;
      if (b.h[net.offset[l] + j] > 0.0) {
        if (l == net.layers) {
          D = net.weight[l][j];
        } else {
          const double* above = b.D + net.offset[l + 1];
          for (int i = 0; i < net.width[l + 1]; ++i)
            D = fma(above[i], net.weight[l][i * net.width[l] + j], D);
        }
      }
      b.D[net.offset[l] + j] = D;
    }
  }
  __syncthreads();
}

// Compute a . b by a whole warp.
__device__ inline double warp_dot(const double* a, const double* b, int n) {
  double sum = 0.0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < n; i += 32) sum = fma(a[i], b[i], sum);
  return warp_sum(sum);
}

// ---- matrices ----------------------------------------------------------------------------------

// Compute out_j = sum_i entry(i, j) over i in [first(j), rows), j < cols, a column a thread. Spare
// threads split the rows, in an order that depends on the sizes alone.
template <class First, class Entry>
__device__ void column_sums(int rows, int cols, const Shared& b, First first, Entry entry,
                            double* out) {
  const int threads = static_cast<int>(blockDim.x), t = static_cast<int>(threadIdx.x);
  const int padded = (cols + 31) / 32 * 32, split = padded ? threads / padded : 0;
  __syncthreads();
  if (split <= 1) {
    for (int j = t; j < cols; j += threads) {
      double sum = 0.0;
#pragma unroll 4
      for (int i = first(j); i < rows; ++i) sum += entry(i, j);
      out[j] = sum;
    }
  } else {
    const int j = t % padded, part = t / padded;
    double sum = 0.0;
    if (part < split && j < cols) {
      const int from = first(j);
#pragma unroll 4
      for (int i = from + part; i < rows; i += split) sum += entry(i, j);
    }
    b.partial[t] = sum;
    __syncthreads();
    if (t < cols) {
      double total = 0.0;
      for (int p = 0; p < split; ++p) total += b.partial[p * padded + t];
      out[t] = total;
    }
  }
  __syncthreads();
}

// Compute row n of C^-1 as model/local_gradient.cpp does: with v = C^-1 k it is (-C^-T v, 1) /
// pivot^(1/2), pivot = k_nn + noise - |v|^2. Returns false when the pivot is rounding noise.
__device__ inline bool factorise(const SearchView& s, const Shared& b, int n, double noise) {
  const double* k = s.K + row_of_triangle(n);
  row_dots(
      n, [&](int i) { return s.inverse + row_of_triangle(i); }, [](int i) { return i + 1; }, k,
      [&](int i, double v) { s.v[i] = v; });
  __syncthreads();
  double squares = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    squares = fma(s.v[i], s.v[i], squares);
  const double diagonal = k[n] + noise;
  const double pivot = diagonal - block_sum(squares, b.scratch);
  if (!(pivot > 4.0 * (n + 1.0) * DBL_EPSILON * diagonal)) return false;
  const double scale = 1.0 / sqrt(pivot);
  double* l = s.inverse + row_of_triangle(n);
  column_sums(
      n, n, b, [](int j) { return j; },
      [&](int i, int j) { return -scale * s.v[i] * s.inverse[row_of_triangle(i) + j]; }, l);
  if (threadIdx.x == 0) l[n] = scale;
  __syncthreads();
  return true;
}

// Add row n to A^-1 (A^-1 += l l^T), C^-1 y and C^-1 1.
__device__ inline void record(const SearchView& s, const Shared& b, int n, double y, double noise) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32;
  const double* l = s.inverse + row_of_triangle(n);
  for (int i = warp; i <= n; i += warps) {
    double* row = s.A + row_of_triangle(i);
    const double factor = l[i];
    for (int j = lane; j <= i; j += 32) row[j] = i < n ? fma(factor, l[j], row[j]) : factor * l[j];
  }
  if (t == 0) {
    s.y[n] = y;
    s.noise[n] = noise;
  }
  __syncthreads();
  double z = 0.0, one = 0.0;
  for (int j = t; j <= n; j += threads) {
    z = fma(l[j], s.y[j], z);
    one += l[j];
  }
  z = block_sum(z, b.scratch);
  one = block_sum(one, b.scratch);
  if (t == 0) {
    s.z_y[n] = z;
    s.z_1[n] = one;
  }
  __syncthreads();
}

// Compute c, P and Q of observation i at the center, by a whole warp.
__device__ inline void follow(const SearchView& s, int i) {
  const NetworkView& net = s.net;
  const int lane = static_cast<int>(threadIdx.x) % 32, w = net.width[1];
  const double *h = s.h + static_cast<std::int64_t>(i) * net.hidden,
               *D = s.D + static_cast<std::int64_t>(i) * net.hidden;
  const auto gamma = [&](int l) {  // D_l(center) . D_l(X_i)
    return l == net.layers
               ? 1.0
               : warp_dot(s.cD + net.offset[l + 1], D + net.offset[l + 1], net.width[l + 1]);
  };
  const double c = gamma(0), gamma_1 = gamma(1);
  if (lane == 0) s.c[i] = c;
  const std::int64_t row = static_cast<std::int64_t>(i) * w;
  for (int j = lane; j < w; j += 32) {
    s.P[row + j] = s.ch[net.offset[1] + j] > 0.0 ? gamma_1 * h[net.offset[1] + j] : 0.0;
    s.Q[row + j] = c * s.S[row + j];
  }
  const double* B = s.B;
  for (int l = 2; l <= net.layers; ++l) {
    const double g = gamma(l);
    for (int j = lane; j < w; j += 32) {
      double sum = 0.0;
      for (int r = 0; r < net.width[l]; ++r) sum = fma(h[net.offset[l] + r], B[r * w + j], sum);
      s.P[row + j] = fma(g, sum, s.P[row + j]);
    }
    B += static_cast<std::int64_t>(net.width[l]) * w;
  }
}

}  // namespace zopo
