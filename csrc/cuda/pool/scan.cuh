// Scan of a pool: ranks of its rows in float32, and a bound on their error.
//
// Eight lanes share a row and load 16 bytes each at a time, without bank conflicts against the
// query in shared memory; four sets of eight lanes make a warp. Warps go over the pool in a
// persistent grid.
//
//   R = 8  Throughput: eight rows in flight for each lane, 32 for the warp. Lane l ends up with the
//          sum of the l-th of 32 consecutive rows (seven shuffles), whose norms are one load and
//          whose bits are one word. 24 warps a multiprocessor keep 98 KB of loads in flight; 27 KB
//          cover a latency of 750 ns at 36 B/ns.
//   R = 1  Latency: four rows a warp, for pools too small to give every warp 32.
//
// Error bound. The kernels compute rank_i = n_i - 2 s_i in float32, with n_i = |e_i - c|^2 and
// s_i = sum_j w_j r_ij:
//
//   a copy                r_ij = scale (e_ij - c_j), rounded to half precision
//                         w_j  = (x_j - c_j) / scale
//   the embeddings        r_i  = z_i,  c = 0,  w_j = x_j * inverse_scale_j
//
// The latter is |e_i|^2 - 2 e_i.x but for 2 sum_j w_j mean_j, the same for all rows. Everything is
// multiplied by a power of two, the unit, that brings the largest |e_i - c|^2 near 1, so that
// nothing overflows unless x is absurdly far. A rank that overflows decides nothing; its row is
// rescored. With v = |x - c|, L = max |e_i - c| and u = 2^-24:
//
//   source                                                       error
//   n_i, rounded once                                            u L^2
//   2 s_i: w_j is rounded once, and products and additions in    2 t u v (L + o)
//     a lane's chain of 8 ceil(d / 64) and three additions
//     across lanes; at most t u sum_j |w_j r_ij| with
//     t = 8 ceil(d / 64) + 8, where by Cauchy-Schwarz the sum
//     is <= v (L + o); o = |mean o inverse_scale| for the
//     embeddings themselves, 0 for a copy
//   the subtraction; its second term is within the slack of t    u (L^2 + 2 v (L + o))
//   a copy: 2^-11 of an entry, or 2^-25 / scale                  2 v (2^-11 L +
//                                                                      2^-25 sqrt(d) / scale)
//   underflow: 2^-150 an operation, 2^-134 a rounded w_j         d 2^-132
//   float64 distances, whose order counts                        (d / 8 + 12) 2^-53 2 (L^2 + v^2)
//
// Their sum E is doubled, which covers the rounding of the bound itself. It is a quadratic in v
// whose coefficients the host keeps. Two rows whose computed ranks differ by more than 2 E, the
// margin, are ordered as their float64 distances.
#pragma once

#include <cmath>
#include <cstring>

#include "cuda/pool/state.cuh"

namespace zopo::scan {

constexpr unsigned kUnknown = 0xffffffffu;   // the rank is not finite: rescore the row
constexpr unsigned kExcluded = 0xfffffffeu;  // the row is taken
constexpr unsigned kBlocksPerSm = 3;         // blocks a multiprocessor, see __launch_bounds__

// Shared memory of a scanning block, ahead of the query.
struct alignas(16) Shared {
  double scratch[33];
  double distance[kScanWarps];
  long long index[kScanWarps];
  unsigned best;  // smallest rank so far, as order_of()
  unsigned last;
};

// Map a float to an unsigned integer of the same order.
__device__ inline unsigned order_of(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float of_order(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ inline bool is_finite(float x) {
  return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}
// Return the rank with this key plus the margin, rounded up.
__device__ inline float cut_at(unsigned key, double margin) {
  return nextafterf(static_cast<float>(static_cast<double>(of_order(key)) + margin), INFINITY);
}

__device__ inline unsigned warp_least(unsigned x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = min(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}
__device__ inline Neighbor nearer(Neighbor a, Neighbor b) { return b < a ? b : a; }
__device__ inline Neighbor from_lane(Neighbor a, int bits) {
  return {__shfl_xor_sync(kFullWarp, a.distance, bits),
          __shfl_xor_sync(kFullWarp, static_cast<long long>(a.index), bits)};
}
__device__ inline Neighbor none() { return {INFINITY, INT64_MAX}; }

// Write the weights w of the query to shared memory, with zeros beyond d. Entries 0 to 3 of every
// eight lie in a first plane, entries 4 to 7 in a second, so that eight lanes read 128 consecutive
// bytes. Returns the margin.
__device__ inline double load_query(const PoolView& p, const double* x, Shared& shared, float* w) {
  const int places = (p.vectors + 7) / 8 * 64, plane = places / 2;
  double sum = 0.0;
  for (int j = static_cast<int>(threadIdx.x); j < places; j += static_cast<int>(blockDim.x)) {
    double weight = 0.0;
    if (j < p.d) {
      const double v = x[j] - p.center[j];
      weight = v * p.factor[j];
      sum += v * v;
    }
    w[j % 8 / 4 * plane + j / 8 * 4 + j % 4] = static_cast<float>(weight);
  }
  if (threadIdx.x == 0) shared.best = order_of(INFINITY);
  const double square = block_sum(sum, shared.scratch);  // its barriers also publish the weights
  return p.margin[0] + p.margin[1] * sqrt(square) + p.margin[2] * square;
}

// Convert two halves, numbers 2 i and 2 i + 1 of a 16-byte load.
__device__ inline float2 two_of(unsigned bits) {
  __half2 pair;
  memcpy(&pair, &bits, sizeof(pair));
  return __half22float2(pair);
}
__device__ inline float add_products(float sum, uint4 z, float4 low, float4 high) {
  const float2 a = two_of(z.x), b = two_of(z.y), c = two_of(z.z), d = two_of(z.w);
  sum += a.x * low.x;
  sum += a.y * low.y;
  sum += b.x * low.z;
  sum += b.y * low.w;
  sum += c.x * high.x;
  sum += c.y * high.y;
  sum += d.x * high.z;
  sum += d.y * high.w;
  return sum;
}

// Sum over the eight lanes of a row. For R = 8 a lane gets the sum of the row of its number, for
// R = 1 all lanes that of the one row.
template <int R>
__device__ inline float own_sum(float (&sum)[R], int part) {
#pragma unroll
  for (int half = kRowLanes / 2; half > 0; half /= 2) {
    if constexpr (R == 1) {
      sum[0] += __shfl_xor_sync(kFullWarp, sum[0], half);
    } else {
      const bool upper = part & half;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const float keep = upper ? sum[i + half] : sum[i], give = upper ? sum[i] : sum[i + half];
        sum[i] = keep + __shfl_xor_sync(kFullWarp, give, half);
      }
    }
  }
  return sum[0];
}

// Compute the ranks of all rows and call visit(row, rank, owned, free, set) by whole warps, with a
// row for each lane. The row counts where `owned`. `free` is false where it is taken (never if
// `taken` is null). `set` numbers the sets of 4 R rows. R = 8 needs a pool of at least 32 rows.
template <int R, class Visit>
__device__ inline void scan_ranks(const PoolView& p, const std::uint32_t* taken,
                                  const float* weights, Visit&& visit) {
  constexpr int kRows = 4 * R;
  const int lane = static_cast<int>(threadIdx.x) % 32, part = lane % kRowLanes,
            group = lane / kRowLanes;
  const int steps = (p.vectors + kRowLanes - 1) / kRowLanes, plane = steps * kRowLanes;
  const auto* w = reinterpret_cast<const float4*>(weights) + part;
  const std::int64_t sets = (p.m + kRows - 1) / kRows;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kScanWarps;
  for (std::int64_t set = blockIdx.x * std::int64_t{kScanWarps} + threadIdx.x / 32; set < sets;
       set += stride) {
    // An incomplete last set starts earlier; it does not own the rows of the set before.
    const std::int64_t begin = set * kRows;
    const std::int64_t first =
        R == 1 ? min(begin + group, p.m - 1) : min(begin, p.m - kRows) + group * R;
    const std::int64_t row = R == 1 ? first : first + part;
    const bool owned = R == 1 ? part == 0 && begin + group < p.m : row >= begin;
    const float norm = __ldg(p.norm + row);
    const std::uint32_t word = taken ? __ldg(taken + row / 32) : 0;
    const uint4* z = p.rows + first * p.vectors;
    float sum[R] = {};
#pragma unroll(R == 1 ? 4 : 1)
    for (int s = 0; s < steps; ++s) {
      // Beyond the last vector read that one again, against weights of zero.
      const uint4* at = z + min(part + s * kRowLanes, p.vectors - 1);
      uint4 v[R];
#pragma unroll
      for (int r = 0; r < R; ++r) v[r] = __ldg(at + r * p.vectors);
      const float4 low = w[s * kRowLanes], high = w[plane + s * kRowLanes];
#pragma unroll
      for (int r = 0; r < R; ++r) sum[r] = add_products(sum[r], v[r], low, high);
    }
    const float rank = norm - 2.0f * own_sum(sum, part);
    visit(row, rank, owned, !(word >> (row % 32) & 1u), set);
  }
}

// Rescore the rows of the lanes in `mask`, each on its eight lanes, and call found(row, distance,
// n) with n the number of set bits below the row's.
template <class T, class Found>
__device__ inline void rescore(const PoolView& p, unsigned mask, std::int64_t row, const double* x,
                               Found&& found) {
  const int group = static_cast<int>(threadIdx.x) % 32 / kRowLanes;
  for (int done = 0; mask; done += 4) {  // four rows at a time
    unsigned own = mask;
#pragma unroll
    for (int i = 0; i < 3; ++i)
      if (i < group) own &= own - 1;
    const int from = own ? __ffs(static_cast<int>(own)) - 1 : 0;
    const std::int64_t at = __shfl_sync(kFullWarp, static_cast<long long>(row), from);
    const double distance = squared_distance<T>(p, at, x);
    if (own) found(at, distance, done + group);
#pragma unroll
    for (int i = 0; i < 4; ++i) mask &= mask - 1;
  }
}

}  // namespace zopo::scan
