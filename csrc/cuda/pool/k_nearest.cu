// The k nearest candidates of a pool on a device, exactly; see cuda/pool/nearest.cu. The CPU twin
// is pool/scan.cpp.
//
// Three to five launches and one synchronisation:
//   1. The scan writes the rank of every row, 4 bytes, and the smallest rank of every 32 rows.
//   2. Radix selection finds the k-th smallest of these minima. It bounds the k-th smallest rank
//      from above, and the rows up to it are in k sets of 32 only.
//   3. Rows with a rank up to that bound and the margin are rescored and written to the host, which
//      sorts them. If they exceed the room for them, a second pass follows with their number known.
//
// Besides the scan's reads this writes 4.125 bytes a row, read again by the last kernel. For
// 4,000,000 rows that is 33 MB, 1 % of the pool at d = 384.
#include <algorithm>

#include "cuda/pool/scan.cuh"

namespace zopo {
namespace {

using namespace scan;

constexpr int kBins = 2048, kSelectThreads = 1024;
constexpr std::int64_t kOneBlockKeys = 16384;  // up to this number one block selects in one launch
constexpr std::size_t kMaxRoom = std::size_t{1} << 18;  // neighbours in page-locked memory

// ---- kernels -----------------------------------------------------------------------------------

// Write ranks as keys, (m,), the margin and, for R = 8, the smallest key of every 32 rows.
template <int R>
__global__ __launch_bounds__(kScanThreads,
                             kBlocksPerSm) void rank_kernel(PoolView p, const std::uint32_t* taken,
                                                            const double* x, unsigned* keys,
                                                            unsigned* minima, Selection* state) {
  Shared& shared = *shared_memory<Shared>();
  auto* w = reinterpret_cast<float*>(&shared + 1);
  const double margin = load_query(p, x, shared, w);
  if (blockIdx.x == 0 && threadIdx.x == 0) state->margin = margin;
  scan_ranks<R>(p, taken, w,
                [&](std::int64_t row, float rank, bool owned, bool free, std::int64_t set) {
                  unsigned key = kUnknown;
                  if (owned) {
                    key = !free ? kExcluded : is_finite(rank) ? order_of(rank) : kUnknown;
                    keys[row] = key;
                  }
                  if constexpr (R == 8) {
                    key = warp_least(key);
                    if (threadIdx.x % 32 == 0) minima[set] = key;
                  }
                });
}

// Select the k-th smallest of n keys, k >= 1, by its digits of 11, 11 and 10 bits from the top, and
// derive the cut for candidates. Runs the passes `from` to `to`: all of them when one block is
// launched, one a launch for several blocks.
__global__ __launch_bounds__(kSelectThreads) void select_kernel(const unsigned* keys,
                                                                std::int64_t n, unsigned k,
                                                                int from, int to,
                                                                Selection* state) {
  auto* bins = shared_memory<unsigned>();
  unsigned* warps = bins + kBins;  // 32 sums, then a flag: this is the last block
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
    // Each thread has two bins; find the one where the count from below reaches `wanted`.
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
        const float cut = cut_at(found, known->margin);  // NaN when too few ranks are finite
        known->cut = order_of(cut < INFINITY ? cut : INFINITY);
        known->found = 0;
      }
    }
    __syncthreads();
  }
}

// Compute the distances of rows up to the cut, in no particular order; beyond `room` only count.
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

// ---- launchers ---------------------------------------------------------------------------------

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

std::vector<Neighbor> Pool<Cuda>::nearest_many(std::size_t k, bool available_only) const {
  CudaPoolState& s = *state_;
  const cudaStream_t stream = s.stream.handle;
  const auto sets = static_cast<std::size_t>(divide_up<std::int64_t>(s.view.m, 32));
  const bool many = many_rows(s.view);
  s.keys.need(m_, stream);
  if (many) s.minima.need(sets, stream);
  // Allow several times k: ties and the margin rarely add more.
  const std::size_t room = std::min(m_, std::clamp<std::size_t>(4 * k, 4096, kMaxRoom));
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

}  // namespace zopo
