// Scan of a pool on a device: the nearest candidate, exactly. The CPU twin is pool/scan.cpp.
//
// A row in the scan is d half-precision numbers. They are the embeddings themselves where these
// have half precision; e = (z - mean) * inverse_scale is then folded into the query. Otherwise they
// are a copy, centered and rounded to half precision: half of float32's bytes and a quarter of
// float64's for a pass that memory bounds, and one kernel for all three. With 4 bytes of |e_i|^2
// and a bit that marks taken rows, a row is 2 d + 4.125 bytes. 4,000,000 x 384 is 3.09 GB, 0.64 ms
// at the 4.8 TB/s of an H200. A half costs a conversion and a multiply-add; 3.1 G of each are a
// fifth of what the multiprocessors can issue in that time. cuda/pool/scan.cuh has the order of the
// scan and the bound on ranks.
//
// The search for the nearest takes one launch. The warps of a block share the smallest rank so far.
// A row whose rank is within the margin of it is rescored in float64 at once, by its eight lanes,
// while it is in the cache. The nearest rescored row is the answer, in whatever order blocks run.
// About ln(rows of a block) rows a block are rescored. If all rows are within the margin
// (duplicates), all are rescored: slower, but exact. The last block to finish reduces over the
// blocks. The k nearest are in cuda/pool/k_nearest.cu.
#include <algorithm>

#include "cuda/pool/scan.cuh"

namespace zopo {
namespace {

using namespace scan;

// ---- kernels -----------------------------------------------------------------------------------

// Find the candidate nearest to x (d,) that is not taken; of all candidates if `taken` is null.
template <class T, int R>
__global__ __launch_bounds__(kScanThreads,
                             kBlocksPerSm) void nearest_kernel(PoolView p,
                                                               const std::uint32_t* taken,
                                                               const double* x, Neighbor* of_block,
                                                               Selection* state, Neighbor* out) {
  Shared& shared = *shared_memory<Shared>();
  auto* w = reinterpret_cast<float*>(&shared + 1);
  const double margin = load_query(p, x, shared, w);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Neighbor best = none();
  scan_ranks<R>(p, taken, w,
                [&](std::int64_t row, float rank, bool owned, bool free, std::int64_t) {
                  // Read by an atomic operation, as other warps write it.
                  unsigned least = lane == 0 ? atomicMin(&shared.best, kUnknown) : 0u;
                  least = __shfl_sync(kFullWarp, least, 0);
                  const bool counts = owned && free, known = is_finite(rank);
                  if (!__any_sync(kFullWarp, counts && !(known && rank > cut_at(least, margin))))
                    return;
                  // Take the minimum of the warp first: fewer rows are left within its margin.
                  least = warp_least(min(least, counts && known ? order_of(rank) : kUnknown));
                  if (lane == 0) atomicMin(&shared.best, least);
                  const unsigned mask =
                      __ballot_sync(kFullWarp, counts && !(known && rank > cut_at(least, margin)));
                  rescore<T>(p, mask, row, x, [&](std::int64_t at, double distance, int) {
                    best = nearer(best, {distance, at});
                  });
                });

  // Reduce over the warp, the block and, in the last block, the grid. The order does not matter.
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

}  // namespace

// ---- launchers ---------------------------------------------------------------------------------

bool many_rows(const PoolView& p) {
  return p.m >= std::int64_t{32} * kScanWarps * kBlocksPerSm * device_limits().multiprocessors;
}

Launch scan_launch(const CudaPoolState& s, int rows_a_warp) {
  const auto max_blocks = kBlocksPerSm * static_cast<unsigned>(device_limits().multiprocessors);
  const std::int64_t blocks = divide_up<std::int64_t>(s.view.m, rows_a_warp * kScanWarps);
  return {.grid = dim3(static_cast<unsigned>(std::min<std::int64_t>(blocks, max_blocks))),
          .block = dim3(kScanThreads),
          .shared = scan_shared(s.view.vectors),
          .stream = s.stream.handle};
}

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
