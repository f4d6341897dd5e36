// The scan of a pool on a device: the nearest candidate, and the k nearest, exactly.
//
// What is read: a row is d half-precision numbers, the embeddings themselves where they are that
// (e = (z - mean) * inverse_scale is then folded into the query), else a copy centered and rounded
// to half precision: half of float32's bytes, a quarter of float64's, for a pass that memory
// bounds, and one kernel for all three. With them go 4 bytes of |e_i|^2 and a bit of what is taken:
// 2 d + 4.125 bytes a row. 4,000,000 x 384: 3.09 GB, 0.64 ms at the 4.8 TB/s of an H200. A half
// takes a conversion and a multiplication-addition: 3.1 G of each, a fifth of what the
// multiprocessors could issue in that time.
//
// How: eight lanes share a row and load 16 bytes each at a time, conflict-free against the query in
// shared memory; four sets of eight lanes make a warp. Warps go over the pool in a grid that stays.
//   scan<8>, for throughput: eight rows in flight for each lane, 32 for the warp, so that lane l
//     ends up with the sum of the l-th of 32 rows in a row (seven shuffles), whose norms are one
//     load and whose bits are one word. 24 warps a multiprocessor keep 98 KB of loads in flight; 27
//     KB cover a latency of 750 ns at 36 B/ns.
//   scan<1>, for latency: four rows a warp, for pools too small to give every warp 32.
//
// Ranks, and what they can be off by. The kernels compute, in float32, rank_i = n_i - 2 s_i, with
// n_i = |e_i - c|^2 and s_i = sum_j w_j r_ij. For a copy, r_ij = scale (e_ij - c_j) rounded to half
// precision, w_j = (x_j - c_j) / scale; for the embeddings, r_i = z_i, c = 0, w_j = x_j *
// inverse_scale_j: |e_i|^2 - 2 e_i.x but for 2 sum_j w_j mean_j, the same for all rows. Everything
// is multiplied by a power of two, the unit, that brings the largest |e_i - c|^2 near 1: nothing
// overflows unless x is absurdly far (such a rank settles nothing, and the row is rescored). Write
// v = |x - c|, L = max |e_i - c|, u = 2^-24.
//   n_i is rounded once:                                               u L^2
//   s_i: w_j rounded once, products and additions rounded in a lane's chain of 8 ceil(d / 64),
//   three
//     additions across lanes: at most t u sum_j |w_j r_ij|, t = 8 ceil(d / 64) + 8, and by
//     Cauchy-Schwarz the sum is <= v (L + o), where o = |mean o inverse_scale| for the embeddings
//     themselves and 0 for a copy; twice, as 2 s_i is subtracted:      2 t u v (L + o)
//   the subtraction is rounded:                                        u (L^2 + 2 v (L + o)),
//     the second term within the slack of t
//   a copy is off by 2^-11 of an entry, or by 2^-25 / scale:           2 v (2^-11 L + 2^-25 sqrt(d)
//                                                                      / scale)
//   what underflows, by 2^-150 an operation or 2^-134 a rounded w_j:   d 2^-132
//   float64 distances, whose order counts, are rounded themselves:
//     (d / 8 + 12) 2^-53 of at most 2 (L^2 + v^2).
// The sum of these, E, is doubled, which covers the bound's own rounding; it is a quadratic in v,
// whose coefficients the host keeps. Two rows whose computed ranks differ by more than 2 E are
// ordered as their float64 distances: the margin.
//
// Nearest, one launch: a block shares the least rank so far. A row whose rank is within the margin
// of it is rescored in float64 there and then, by its eight lanes, while it lies in the cache; the
// nearest of what was rescored is the answer, whichever blocks came first. That is about ln(rows of
// a block) rows a block. If all rows are within the margin (copies of one another), all are
// rescored: slower, as exact. The last block to end takes the least over the blocks.
// k nearest, three to five launches: the scan writes 4 bytes of rank a row, and the least of every
// 32 rows. The k-th smallest of the latter, found by radix selection, is an upper bound of the k-th
// smallest rank, reached by rows in k sets of 32 only. What lies up to there and the margin is
// rescored and written to the host, which sorts it; what does not fit in the room for it is asked
// for once more, when its number is known.
#include <algorithm>
#include <cmath>

#include "cuda_pool.cuh"

namespace zopo {
namespace {

constexpr unsigned kUnknown = 0xffffffffu;   // a rank that is not finite: the rescoring decides
constexpr unsigned kExcluded = 0xfffffffeu;  // taken
constexpr int kBins = 2048, kSelectThreads = 1024;
constexpr std::int64_t kOneBlockKeys = 16384;  // selected among by one block in one launch
constexpr unsigned kBlocksEach = 3;            // blocks a multiprocessor, see __launch_bounds__

// What a block of a scan shares, ahead of the query.
struct alignas(16) Shared {
  double scratch[33];
  double distance[kScanWarps];
  long long index[kScanWarps];
  unsigned best;  // least rank, as order_of
  unsigned last;
};

// ---- kernels
// -------------------------------------------------------------------------------------

// Unsigned integers in the order of the floats.
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
// The rank with that key and the margin, rounded up.
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

__device__ inline bool is_set(const std::uint32_t* bits, std::int64_t i) {
  return bits && (bits[i / 32] >> (i % 32) & 1u);
}

// Puts the weights w of the query into shared memory, zeros behind the d-th. Entries 0 to 3 of
// every eight lie in a first plane, 4 to 7 in a second: eight lanes then read 128 bytes in a row.
// Returns the margin.
__device__ double load_query(const PoolView& p, const double* x, Shared& shared, float* w) {
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
  const double square = block_sum(sum, shared.scratch);  // a barrier: the weights are there
  return p.margin[0] + p.margin[1] * sqrt(square) + p.margin[2] * square;
}

// Numbers 2 i and 2 i + 1 of a 16-byte load.
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

// Sums over the eight lanes of a row: of the lane's number among them for R = 8, of the one row for
// R = 1.
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

// Ranks of all rows. Calls visit(row, rank, owned, set) by whole warps: one row a lane, counted
// where `owned`; `set` numbers the 4 R rows. For R = 8 the pool has 32 rows at least.
template <int R, class Visit>
__device__ inline void scan(const PoolView& p, const float* weights, Visit&& visit) {
  constexpr int kRows = 4 * R;
  const int lane = static_cast<int>(threadIdx.x) % 32, part = lane % kRowLanes,
            group = lane / kRowLanes;
  const int steps = (p.vectors + kRowLanes - 1) / kRowLanes, plane = steps * kRowLanes;
  const auto* w = reinterpret_cast<const float4*>(weights) + part;
  const std::int64_t sets = (p.m + kRows - 1) / kRows;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kScanWarps;
  for (std::int64_t set = blockIdx.x * std::int64_t{kScanWarps} + threadIdx.x / 32; set < sets;
       set += stride) {
    // The last set starts earlier where rows are missing from it; those before are not its own.
    const std::int64_t begin = set * kRows;
    const std::int64_t first =
        R == 1 ? min(begin + group, p.m - 1) : min(begin, p.m - kRows) + group * R;
    const std::int64_t row = R == 1 ? first : first + part;
    const bool owned = R == 1 ? part == 0 && begin + group < p.m : row >= begin;
    const float norm = __ldg(p.norm + row);
    const uint4* z = p.rows + first * p.vectors;
    float sum[R] = {};
#pragma unroll(R == 1 ? 4 : 1)
    for (int s = 0; s < steps; ++s) {
      // Beyond the last vector: that one again, against weights of zero.
      const uint4* at = z + min(part + s * kRowLanes, p.vectors - 1);
      uint4 v[R];
#pragma unroll
      for (int r = 0; r < R; ++r) v[r] = __ldg(at + r * p.vectors);
      const float4 low = w[s * kRowLanes], high = w[plane + s * kRowLanes];
#pragma unroll
      for (int r = 0; r < R; ++r) sum[r] = add_products(sum[r], v[r], low, high);
    }
    visit(row, norm - 2.0f * own_sum(sum, part), owned, set);
  }
}

// Calls found(row, distance, n) for the rows of the lanes in `mask`, on their eight lanes, with n
// the number of set bits below theirs.
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

// The nearest to x (d,) that is not taken; of all where `taken` is null.
template <class T, int R>
__global__ __launch_bounds__(kScanThreads,
                             kBlocksEach) void nearest_kernel(PoolView p,
                                                              const std::uint32_t* taken,
                                                              const double* x, Neighbor* of_block,
                                                              Selection* state, Neighbor* out) {
  Shared& shared = *shared_memory<Shared>();
  auto* w = reinterpret_cast<float*>(&shared + 1);
  const double margin = load_query(p, x, shared, w);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Neighbor best = none();
  scan<R>(p, w, [&](std::int64_t row, float rank, bool owned, std::int64_t) {
    unsigned least = *static_cast<volatile unsigned*>(&shared.best);
    const bool free = owned && !is_set(taken, row), known = is_finite(rank);
    if (!__any_sync(kFullWarp, free && !(known && rank > cut_at(least, margin)))) return;
    // Of several the least first: fewer are left within its margin.
    least = warp_least(min(least, free && known ? order_of(rank) : kUnknown));
    if (lane == 0) atomicMin(&shared.best, least);
    const unsigned mask =
        __ballot_sync(kFullWarp, free && !(known && rank > cut_at(least, margin)));
    rescore<T>(p, mask, row, x,
               [&](std::int64_t at, double distance, int) { best = nearer(best, {distance, at}); });
  });

  // The least of the warp, of the block, and by the last block of all: in any order the same.
  best = nearer(best, from_lane(best, 8));
  best = nearer(best, from_lane(best, 16));
  if (lane == 0) {
    shared.distance[threadIdx.x / 32] = best.distance;
    shared.index[threadIdx.x / 32] = best.index;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kScanWarps; ++i) best = nearer(best, {shared.distance[i], shared.index[i]});
    of_block[blockIdx.x] = best;
    __threadfence();
    shared.last = atomicAdd(&state->arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!shared.last || threadIdx.x >= 32) return;
  __threadfence();
  best = none();
  for (unsigned b = static_cast<unsigned>(lane); b < gridDim.x; b += 32) {
    const volatile Neighbor& other = of_block[b];
    best = nearer(best, {other.distance, other.index});
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) best = nearer(best, from_lane(best, offset));
  if (lane == 0) {
    *out = best;
    state->arrived = 0;
  }
}

// Ranks as keys, (m,), the least of every 32 rows too for R = 8, and the margin.
template <int R>
__global__ __launch_bounds__(kScanThreads,
                             kBlocksEach) void rank_kernel(PoolView p, const std::uint32_t* taken,
                                                           const double* x, unsigned* keys,
                                                           unsigned* minima, Selection* state) {
  Shared& shared = *shared_memory<Shared>();
  auto* w = reinterpret_cast<float*>(&shared + 1);
  const double margin = load_query(p, x, shared, w);
  if (blockIdx.x == 0 && threadIdx.x == 0) state->margin = margin;
  scan<R>(p, w, [&](std::int64_t row, float rank, bool owned, std::int64_t set) {
    unsigned key = kUnknown;
    if (owned) {
      key = is_set(taken, row) ? kExcluded : is_finite(rank) ? order_of(rank) : kUnknown;
      keys[row] = key;
    }
    if constexpr (R == 8) {
      key = warp_least(key);
      if (threadIdx.x % 32 == 0) minima[set] = key;
    }
  });
}

// The k-th smallest of n keys, k >= 1, by its digits of 11, 11 and 10 bits from the top, and the
// cut for candidates. Passes `from` to `to`: all of them by one block, one a launch by several.
__global__ __launch_bounds__(kSelectThreads) void select_kernel(const unsigned* keys,
                                                                std::int64_t n, unsigned k,
                                                                int from, int to,
                                                                Selection* state) {
  auto* bins = shared_memory<unsigned>();
  unsigned* warps = bins + kBins;  // 32 sums, then whether this is the last block
  volatile Selection* known = state;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  for (int pass = from; pass <= to; ++pass) {
    const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, bits = pass == 2 ? 10 : 11;
    const unsigned prefix = pass == 0 ? 0 : known->prefix, mask = (1u << bits) - 1;
    const unsigned wanted = pass == 0 ? k : known->remaining;
    for (int b = thread; b < kBins; b += kSelectThreads) bins[b] = 0;
    __syncthreads();
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kSelectThreads;
    for (std::int64_t i = blockIdx.x * std::int64_t{kSelectThreads} + thread; i < n; i += stride) {
      const unsigned key = keys[i];
      if (pass == 0 || key >> (shift + bits) == prefix) atomicAdd(&bins[key >> shift & mask], 1u);
    }
    __syncthreads();
    if (gridDim.x > 1) {
      for (int b = thread; b < kBins; b += kSelectThreads)
        if (bins[b]) atomicAdd(&state->histogram[b], bins[b]);
      __threadfence();
      __syncthreads();
      if (thread == 0) warps[32] = atomicAdd(&state->arrived, 1u) == gridDim.x - 1;
      __syncthreads();
      if (!warps[32]) return;
      __threadfence();
      for (int b = thread; b < kBins; b += kSelectThreads) {
        bins[b] = known->histogram[b];
        known->histogram[b] = 0;
      }
      if (thread == 0) known->arrived = 0;
      __syncthreads();
    }
    // Two bins a thread; the one where the count from below reaches what is wanted.
    const unsigned low = bins[2 * thread], both = low + bins[2 * thread + 1];
    unsigned upto = both;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned below = __shfl_up_sync(kFullWarp, upto, static_cast<unsigned>(offset));
      if (lane >= offset) upto += below;
    }
    if (lane == 31) warps[thread / 32] = upto;
    __syncthreads();
    for (int i = 0; i < thread / 32; ++i) upto += warps[i];
    const unsigned below = upto - both;
    if (below < wanted && wanted <= upto) {
      const bool upper = wanted > below + low;
      const unsigned found = prefix << bits | static_cast<unsigned>(2 * thread + upper);
      known->prefix = found;
      known->remaining = wanted - below - (upper ? low : 0);
      if (pass == 2) {
        const float cut = cut_at(found, known->margin);  // NaN where too few ranks are finite
        known->cut = order_of(cut < INFINITY ? cut : INFINITY);
        known->found = 0;
      }
    }
    __syncthreads();
  }
}

// Distances of what lies up to the cut, in no particular order; beyond `room` only counted.
template <class T>
__global__ __launch_bounds__(kScanThreads) void gather_kernel(PoolView p, const double* x,
                                                              const unsigned* keys,
                                                              Selection* state, Neighbor* out,
                                                              unsigned long long room) {
  constexpr int kSets = 4;  // loads in flight
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned cut = state->cut;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kScanWarps * kSets * 32;
  for (std::int64_t begin =
           (blockIdx.x * std::int64_t{kScanWarps} + threadIdx.x / 32) * (kSets * 32);
       begin < p.m; begin += stride) {
    unsigned key[kSets];
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
      const std::int64_t row = begin + s * 32 + lane;
      key[s] = row < p.m ? keys[row] : kExcluded;
    }
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
      const unsigned mask = __ballot_sync(kFullWarp, key[s] <= cut || key[s] == kUnknown);
      if (!mask) continue;
      unsigned long long slot = 0;
      if (lane == 0) slot = atomicAdd(&state->found, static_cast<unsigned long long>(__popc(mask)));
      slot = __shfl_sync(kFullWarp, slot, 0);
      rescore<T>(p, mask, begin + s * 32 + lane, x, [&](std::int64_t at, double distance, int n) {
        const unsigned long long place = slot + static_cast<unsigned>(n);
        if (lane % kRowLanes == 0 && place < room) out[place] = {distance, at};
      });
    }
  }
}

// ---- launchers
// -----------------------------------------------------------------------------------

// Whether every warp of a grid that fills the device has 32 rows to scan.
bool many_rows(const PoolView& p) {
  return p.m >= std::int64_t{32} * kScanWarps * kBlocksEach * device_limits().multiprocessors;
}

Launch scan_launch(const CudaPoolState& s, int rows_a_warp) {
  const auto most = kBlocksEach * static_cast<unsigned>(device_limits().multiprocessors);
  const std::int64_t blocks = divide_up<std::int64_t>(s.view.m, rows_a_warp * kScanWarps);
  return {.grid = dim3(static_cast<unsigned>(std::min<std::int64_t>(blocks, most))),
          .block = dim3(kScanThreads),
          .shared = scan_shared(s.view.vectors),
          .stream = s.stream.handle};
}

void launch_ranks(const CudaPoolState& s, bool many, const std::uint32_t* taken) {
  if (many)
    launch("rank_kernel", rank_kernel<8>, scan_launch(s, 32), s.view, taken, s.point(),
           s.keys.data(), s.minima.data(), s.selection.data());
  else
    launch("rank_kernel", rank_kernel<1>, scan_launch(s, 4), s.view, taken, s.point(),
           s.keys.data(), s.minima.data(), s.selection.data());
}

void launch_select(const CudaPoolState& s, const unsigned* keys, std::int64_t n, unsigned k) {
  Launch how{.grid = dim3(1),
             .block = dim3(kSelectThreads),
             .shared = (kBins + 33) * sizeof(unsigned),
             .stream = s.stream.handle};
  if (n <= kOneBlockKeys)
    return launch("select_kernel", select_kernel, how, keys, n, k, 0, 2, s.selection.data());
  how.grid = dim3(static_cast<unsigned>(std::min<std::int64_t>(
      divide_up<std::int64_t>(n, 4 * kSelectThreads), 2 * device_limits().multiprocessors)));
  for (int pass = 0; pass < 3; ++pass)
    launch("select_kernel", select_kernel, how, keys, n, k, pass, pass, s.selection.data());
}

void launch_gather(const CudaPoolState& s, Neighbor* out, std::size_t room) {
  with_type(s.precision, [&]<class T>(const T*) {
    launch("gather_kernel", gather_kernel<T>, scan_launch(s, 128), s.view, s.point(), s.keys.data(),
           s.selection.data(), out, static_cast<unsigned long long>(room));
  });
}

}  // namespace

std::size_t scan_shared(int vectors) {
  return sizeof(Shared) + static_cast<std::size_t>((vectors + 7) / 8) * 64 * sizeof(float);
}

Neighbor Pool<Cuda>::nearest_one(bool available_only) const {
  const CudaPoolState& s = *state_;
  const std::uint32_t* taken = available_only ? s.taken.data() : nullptr;
  with_type(s.precision, [&]<class T>(const T*) {
    const bool many = many_rows(s.view);
    launch("nearest_kernel", many ? nearest_kernel<T, 8> : nearest_kernel<T, 1>,
           scan_launch(s, many ? 32 : 4), s.view, taken, s.point(), s.block_found.data(),
           s.selection.data(), s.found.data());
  });
  synchronize(s.stream.handle);
  return s.found[0];
}

std::vector<Neighbor> Pool<Cuda>::nearest_many(std::size_t k, bool available_only) const {
  CudaPoolState& s = *state_;
  const cudaStream_t stream = s.stream.handle;
  const auto sets = static_cast<std::size_t>(divide_up<std::int64_t>(s.view.m, 32));
  const bool many = many_rows(s.view);
  s.keys.need(m_, stream);
  if (many) s.minima.need(sets, stream);
  // Several times what is asked for: ties and the margin rarely add more.
  const std::size_t room = std::min(m_, std::max<std::size_t>(4 * k, 4096));
  s.found.need(room);
  launch_ranks(s, many, available_only ? s.taken.data() : nullptr);
  if (many && k <= sets)
    launch_select(s, s.minima.data(), static_cast<std::int64_t>(sets), static_cast<unsigned>(k));
  else
    launch_select(s, s.keys.data(), s.view.m, static_cast<unsigned>(k));
  launch_gather(s, s.found.data(), room);
  copy(s.count.data(), &s.selection.data()->found, sizeof(s.count[0]), stream);
  synchronize(stream);
  const auto count = static_cast<std::size_t>(s.count[0]);
  std::vector<Neighbor> all;
  if (count <= room) {
    all.assign(s.found.data(), s.found.data() + count);
  } else {
    const Buffer<Neighbor> more(count, stream);
    check(cudaMemsetAsync(&s.selection.data()->found, 0, sizeof(s.count[0]), stream),
          "cudaMemsetAsync");
    launch_gather(s, more.data(), count);
    all.resize(count);
    copy(all.data(), more.data(), count * sizeof(Neighbor), stream);
    synchronize(stream);
  }
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k), all.end());
  all.resize(k);
  return all;
}

std::int64_t Pool<Cuda>::nearest(const double* x) const {
  const std::lock_guard lock(mutex_);
  if (available_ == 0) return -1;
  const DeviceGuard device(state_->ordinal);
  copy(state_->point(), x, d_ * sizeof(double), state_->stream.handle);
  return nearest_one(true).index;
}

std::vector<Neighbor> Pool<Cuda>::k_nearest(const double* x, std::size_t k,
                                            bool available_only) const {
  const std::lock_guard lock(mutex_);
  k = std::min(k, available_only ? available_ : m_);
  if (k == 0) return {};
  const DeviceGuard device(state_->ordinal);
  copy(state_->point(), x, d_ * sizeof(double), state_->stream.handle);
  if (k == 1) return {nearest_one(available_only)};
  return nearest_many(k, available_only);
}

}  // namespace zopo
