// Rows of the pool: products with them, distances and the nearest candidates, by a block.
#pragma once

#include <cfloat>

#include "cuda/model/view.cuh"
#include "pool/pool.hpp"

namespace zopo {

__device__ inline double widened(__half z) { return static_cast<double>(__half2float(z)); }
__device__ inline double widened(float z) { return static_cast<double>(z); }
__device__ inline double widened(double z) { return z; }

// Load V consecutive numbers into an array aligned to 16, by one load where they are 16 bytes.
template <class T, int V>
__device__ inline void load_group(const T* from, T (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = *from;
  } else {
    static_assert(sizeof(to) == 16);
    *reinterpret_cast<uint4*>(to) = __ldg(reinterpret_cast<const uint4*>(from));
  }
}

// Reduce the pool rows row(0..count), four a warp at a time: out_r is the sum over the columns of
// (z - mean) w or, with kDistance, of ((z - mean) inverse_scale - w)^2. w is in lane order.
template <class T, int V, bool kDistance, class Row>
__device__ void over_rows(const SearchView& s, const Shared& b, std::int64_t count, Row row,
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

// Compute b.e_j = sum_i a_i (z_ij - mean_j) over the rows row(0..count). A warp takes every
// `warps`-th row; the sums of the warps are added in order.
template <class T, int V, class Row>
__device__ void combine_rows(const SearchView& s, const Shared& b, int count, Row row,
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

// Return the width of a column group: 16 bytes if rows are aligned to them and d is a multiple.
__device__ inline int group_width(const SearchView& s) {
  const int wide = s.precision == Precision::Half ? 8 : s.precision == Precision::Single ? 4 : 2;
  return s.aligned && s.d % wide == 0 ? wide : 1;
}

// Call f with the pool's element type and the width of its column groups.
template <class F>
__device__ void by_precision(const SearchView& s, F f) {
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

__device__ inline double entry(const SearchView& s, std::int64_t row, int j) {
  const std::int64_t at = row * s.d + j;
  if (s.precision == Precision::Half) return widened(static_cast<const __half*>(s.Z)[at]);
  if (s.precision == Precision::Single) return widened(static_cast<const float*>(s.Z)[at]);
  return static_cast<const double*>(s.Z)[at];
}

// Load b.mean and b.inverse_scale in lane order.
__device__ inline void load_scales(const SearchView& s, const Shared& b) {
  const int V = group_width(s);
  for (int j = static_cast<int>(threadIdx.x); j < s.d; j += static_cast<int>(blockDim.x)) {
    const int at = column_position(j, V);
    b.mean[at] = s.mean[j];
    b.inverse_scale[at] = s.inverse_scale[j];
  }
}

// Write the standardised coordinates of a candidate to b.e.
__device__ inline void load_candidate(const SearchView& s, const Shared& b,
                                      std::int64_t candidate) {
  for (int j = static_cast<int>(threadIdx.x); j < s.d; j += static_cast<int>(blockDim.x))
    b.e[j] = candidate < 0 ? 0.0 : (entry(s, candidate, j) - s.mean[j]) * s.inverse_scale[j];
}

// Return the candidate that follows (least, after) in the order of (s.distance, index), skipping
// taken ones with `available_only`; index -1 when there is none. All threads get it.
__device__ inline Neighbor next_nearest(const SearchView& s, const Shared& b, double least,
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

// Set s.distance_i to the squared distance from b.e to candidate i, for all candidates.
__device__ inline void all_distances(const SearchView& s, const Shared& b) {
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
