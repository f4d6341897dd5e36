// What the kernels of cuda/search/kernels.cuh are made of: one block works on one study.
//
// The block's shared memory holds the vectors of length d and of the network's widths; what grows
// with the observations or the pool lies in device memory, read by rows so that a warp's loads lie
// side by side.
#pragma once

#include <cfloat>

#include "cuda/ntk/network.cuh"
#include "cuda/runtime/index.hpp"
#include "pool/pool.hpp"

namespace zopo {

// Where a study lies on the device. Triangles are kept by rows: row i starts at i (i + 1) / 2.
struct StudyView {
  NetworkView net;
  const void* Z;  // (m, d)
  Precision precision;
  bool aligned;  // rows start on 16 bytes
  std::int64_t m;
  int d;
  const double *mean, *inverse_scale;  // (d,)
  unsigned* taken;                     // m bits
  // Observations, `capacity` of them at most.
  std::int64_t* index;
  double *h, *D;                  // (n, hidden)
  double *K, *inverse, *A, *M;    // triangles: without noise; C^-1; A^-1; X X^T
  double* S;                      // X W_0^T (n, w)
  double *y, *noise, *z_y, *z_1;  // scores, variances, C^-1 y, C^-1 1
  // The center, and the observations seen from it: G = diag(c) X + P W_0, Q = diag(c) S.
  double *cx, *ch, *cD;   // (d,), (hidden,)
  double* B;              // for l = 2..layers, one after the other: (width[l], w)
  double *c, *P, *Q;      // (n,), (n, w), (n, w)
  double *k, *u, *v, *T;  // scratch: (n,), (n,), (n,), (n, 2w)
  double* distance;       // scratch (m,)
};

// What kernels change of a study.
struct StudyState {
  std::int64_t center;  // -1: none
  int n;
  double explained, prior;
};

__host__ __device__ inline std::int64_t row_of_triangle(std::int64_t i) { return i * (i + 1) / 2; }

// ---- the block's shared memory -----------------------------------------------------------------

// Columns are handed to lanes in groups of V (16 bytes of them where rows allow it), and vectors of
// length d lie in that order, so that lanes read neighbouring words: column (32 c + lane) V + e is
// found at (V c + e) 32 + lane.
__host__ __device__ inline int padded_columns(int d, int V) {
  return (d + 32 * V - 1) / (32 * V) * (32 * V);
}
__host__ __device__ inline int column_position(int column, int V) {
  const int group = column / V, e = column % V;
  return (group / 32 * V + e) * 32 + group % 32;
}

struct Shared {
  double *e, *w, *inverse_scale, *mean;  // (padded d,): e in order, the others as lanes read them
  double *h, *D;                         // (hidden,)
  double* q;                             // (2 w,)
  double* partial;                       // (threads,)
  double* scratch;                       // (33,)
  std::int64_t* place;                   // (33,)
};
constexpr int kWidestGroup = 8;

__host__ __device__ inline std::size_t shared_doubles(int d, int hidden, int w, int threads) {
  return 4 * static_cast<std::size_t>(padded_columns(d, kWidestGroup)) +
         2 * static_cast<std::size_t>(hidden) + 2 * static_cast<std::size_t>(w) +
         static_cast<std::size_t>(threads) + 66;
}

__device__ inline Shared carve(const StudyView& s) {
  auto* at = shared_memory<double>();
  const auto take = [&](int count) {
    double* p = at;
    at += count;
    return p;
  };
  const int wide = padded_columns(s.d, kWidestGroup);
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

// ---- rows of the pool --------------------------------------------------------------------------

__device__ inline double widened(__half z) { return static_cast<double>(__half2float(z)); }
__device__ inline double widened(float z) { return static_cast<double>(z); }
__device__ inline double widened(double z) { return z; }

// V consecutive numbers, by one load where V of them are 16 bytes.
// The array it goes to is aligned to 16.
template <class T, int V>
__device__ inline void load_group(const T* from, T (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = *from;
  } else {
    static_assert(sizeof(to) == 16);
    *reinterpret_cast<uint4*>(to) = __ldg(reinterpret_cast<const uint4*>(from));
  }
}

// For the rows row(0..count) of the pool, four to a warp at a time: out_r = sum over the columns of
// ((z - mean) w) or, with kDistance, of ((z - mean) inverse_scale - w)^2. w as lanes read it.
template <class T, int V, bool kDistance, class Row>
__device__ void over_rows(const StudyView& s, const Shared& b, std::int64_t count, Row row,
                          double* out) {
  constexpr int kRows = 4;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int groups = s.d / V;  // V divides d
  const T* Z = static_cast<const T*>(s.Z);
  for (std::int64_t first = kRows * warp; first < count; first += kRows * warps) {
    const T* z[kRows];
    double sum[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) z[r] = Z + row(first + r < count ? first + r : count - 1) * s.d;
    for (int g = lane; g < groups; g += 32) {
      alignas(16) T group[kRows][V];
#pragma unroll
      for (int r = 0; r < kRows; ++r) load_group<T, V>(z[r] + g * V, group[r]);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const int at = (g / 32 * V + e) * 32 + lane;
        const double mean = b.mean[at], w = b.w[at];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const double centered = widened(group[r][e]) - mean;
          if constexpr (kDistance) {
            const double difference = fma(centered, b.inverse_scale[at], -w);
            sum[r] = fma(difference, difference, sum[r]);
          } else {
            sum[r] = fma(centered, w, sum[r]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const double total = warp_sum(sum[r]);
      if (lane == 0 && first + r < count) out[first + r] = total;
    }
  }
}

// b.e_j = sum_i a_i (z_ij - mean_j) over the rows row(0..count), in order: a warp takes every
// `warps`-th row, and their sums are added up one warp after the other.
template <class T, int V, class Row>
__device__ void combine_rows(const StudyView& s, const Shared& b, int count, Row row,
                             const double* a) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int groups = s.d / V;
  const T* Z = static_cast<const T*>(s.Z);
  for (int first = 0; first < groups; first += 32) {
    const int g = first + lane;
    double sum[V] = {};
    if (g < groups) {
      double mean[V];
#pragma unroll
      for (int e = 0; e < V; ++e) mean[e] = s.mean[g * V + e];
#pragma unroll 4
      for (int i = warp; i < count; i += warps) {
        alignas(16) T group[V];
        load_group<T, V>(Z + row(i) * s.d + g * V, group);
        const double factor = a[i];
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] = fma(factor, widened(group[e]) - mean[e], sum[e]);
      }
    }
    for (int turn = 0; turn < warps; ++turn) {
      if (warp == turn && g < groups) {
#pragma unroll
        for (int e = 0; e < V; ++e) {
          const int at = g * V + e;
          b.e[at] = turn == 0 ? sum[e] : b.e[at] + sum[e];
        }
      }
      __syncthreads();
    }
  }
}

// The width of a column group: 16 bytes where rows start on them and d is a multiple.
__device__ inline int group_width(const StudyView& s) {
  const int wide = s.precision == Precision::Half ? 8 : s.precision == Precision::Single ? 4 : 2;
  return s.aligned && s.d % wide == 0 ? wide : 1;
}

// Calls f with the pool's element type and the width of its column groups.
template <class F>
__device__ void by_precision(const StudyView& s, F f) {
  const bool wide = group_width(s) > 1;
  if (s.precision == Precision::Half) {
    if (wide)
      f.template operator()<__half, 8>();
    else
      f.template operator()<__half, 1>();
  } else if (s.precision == Precision::Single) {
    if (wide)
      f.template operator()<float, 4>();
    else
      f.template operator()<float, 1>();
  } else {
    if (wide)
      f.template operator()<double, 2>();
    else
      f.template operator()<double, 1>();
  }
}

__device__ inline double entry(const StudyView& s, std::int64_t row, int j) {
  const std::int64_t at = row * s.d + j;
  if (s.precision == Precision::Half) return widened(static_cast<const __half*>(s.Z)[at]);
  if (s.precision == Precision::Single) return widened(static_cast<const float*>(s.Z)[at]);
  return static_cast<const double*>(s.Z)[at];
}

// b.mean and b.inverse_scale, as lanes read them.
__device__ inline void load_scales(const StudyView& s, const Shared& b) {
  const int V = group_width(s);
  for (int j = static_cast<int>(threadIdx.x); j < s.d; j += static_cast<int>(blockDim.x)) {
    const int at = column_position(j, V);
    b.mean[at] = s.mean[j];
    b.inverse_scale[at] = s.inverse_scale[j];
  }
}

// b.e <- the standardised coordinates of a candidate.
__device__ inline void load_candidate(const StudyView& s, const Shared& b, std::int64_t candidate) {
  for (int j = static_cast<int>(threadIdx.x); j < s.d; j += static_cast<int>(blockDim.x))
    b.e[j] = (entry(s, candidate, j) - s.mean[j]) * s.inverse_scale[j];
}

// ---- the network at a point --------------------------------------------------------------------

// out_i = row(i) . x over length(i) entries, for i < count: four rows to a warp at a time, so that
// their loads are under way together. `finish(i, sum)` is called by one lane.
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

// b.h, b.D from b.e; `first` (w,) also gets W_0 e, without the bias.
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

// By a whole warp: a . b.
__device__ inline double warp_dot(const double* a, const double* b, int n) {
  double sum = 0.0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < n; i += 32) sum = fma(a[i], b[i], sum);
  return warp_sum(sum);
}

// ---- matrices ----------------------------------------------------------------------------------

// out_j = sum_i entry(i, j), i in [first(j), rows), j < cols: a column a thread, rows split over
// the threads that are left, in an order that depends on the sizes alone.
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

// Row n of C^-1 and what hangs on it, as in search/local_gradient.cpp: v = C^-1 k, l = (-C^-T v, 1) /
// pivot^(1/2), pivot = k_nn + noise - |v|^2. False when the pivot is rounding noise.
__device__ inline bool factorise(const StudyView& s, const Shared& b, int n, double noise) {
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

// A^-1 += l l^T, C^-1 y and C^-1 1 for row n.
__device__ inline void record(const StudyView& s, const Shared& b, int n, double y, double noise) {
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

// c, P and Q of observation i at the center, by a whole warp.
__device__ inline void follow(const StudyView& s, int i) {
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

// The candidate nearest by s.distance after (distance, index) = (least, after), skipping taken ones
// if so asked; the same in all threads; index -1 when there is none.
__device__ inline Neighbor next_nearest(const StudyView& s, const Shared& b, double least,
                                        std::int64_t after, bool available_only) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  Neighbor best{DBL_MAX, -1};
  const auto take = [&](double distance, std::int64_t index) {
    if (index >= 0 && (best.index < 0 || distance < best.distance ||
                       (distance == best.distance && index < best.index)))
      best = {distance, index};
  };
  for (std::int64_t i = t; i < s.m; i += blockDim.x) {
    const double distance = s.distance[i];
    if (distance < least || (distance == least && i <= after)) continue;
    if (available_only && (s.taken[i / 32] >> (i % 32) & 1u)) continue;
    take(distance, i);
  }
  const auto fold = [&] {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const double distance = __shfl_xor_sync(kFullWarp, best.distance, offset);
      const long long index =
          __shfl_xor_sync(kFullWarp, static_cast<long long>(best.index), offset);
      take(distance, index);
    }
  };
  fold();
  __syncthreads();
  if (lane == 0) {
    b.scratch[warp] = best.distance;
    b.place[warp] = best.index;
  }
  __syncthreads();
  if (warp == 0) {
    const bool mine = lane < static_cast<int>(blockDim.x) / 32;
    best = {mine ? b.scratch[lane] : DBL_MAX, mine ? b.place[lane] : -1};
    fold();
    if (lane == 0) {
      b.scratch[32] = best.distance;
      b.place[32] = best.index;
    }
  }
  __syncthreads();
  return {b.scratch[32], b.place[32]};
}

// s.distance_i = squared distance from b.e to candidate i, for all of them.
__device__ inline void all_distances(const StudyView& s, const Shared& b) {
  const int V = group_width(s);
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < s.d; j += static_cast<int>(blockDim.x))
    b.w[column_position(j, V)] = b.e[j];
  load_scales(s, b);
  __syncthreads();
  by_precision(s, [&]<class T, int V>() {
    over_rows<T, V, true>(s, b, s.m, [](std::int64_t i) { return i; }, s.distance);
  });
  __syncthreads();
}

}  // namespace zopo
