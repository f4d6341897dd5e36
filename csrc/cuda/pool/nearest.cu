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
// Which rows are scanned how, and the bound on ranks: cuda/pool/scan.cuh.
//
// Nearest, one launch: a block shares the least rank so far. A row whose rank is within the margin
// of it is rescored in float64 there and then, by its eight lanes, while it lies in the cache; the
// nearest of what was rescored is the answer, whichever blocks came first. That is about ln(rows of
// a block) rows a block. If all rows are within the margin (copies of one another), all are
// rescored: slower, as exact. The last block to end takes the least over the blocks.
// k nearest: cuda/pool/k_nearest.cu.
#include <algorithm>

#include "cuda/pool/scan.cuh"

namespace zopo {
namespace {

using namespace scan;

// ---- kernels
// -----------------------------------------------------------------------------------

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
  scan_ranks<R>(p, taken, w,
                [&](std::int64_t row, float rank, bool owned, bool free, std::int64_t) {
                  // Read as the others write it, by an atomic operation.
                  unsigned least = lane == 0 ? atomicMin(&shared.best, kUnknown) : 0u;
                  least = __shfl_sync(kFullWarp, least, 0);
                  const bool counts = owned && free, known = is_finite(rank);
                  if (!__any_sync(kFullWarp, counts && !(known && rank > cut_at(least, margin))))
                    return;
                  // Of several the least first: fewer are left within its margin.
                  least = warp_least(min(least, counts && known ? order_of(rank) : kUnknown));
                  if (lane == 0) atomicMin(&shared.best, least);
                  const unsigned mask =
                      __ballot_sync(kFullWarp, counts && !(known && rank > cut_at(least, margin)));
                  rescore<T>(p, mask, row, x, [&](std::int64_t at, double distance, int) {
                    best = nearer(best, {distance, at});
                  });
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

}  // namespace

// ---- launchers
// -----------------------------------------------------------------------------------

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
