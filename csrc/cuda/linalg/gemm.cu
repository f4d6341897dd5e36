// Matrix product in float64 on the tensor cores (cuda/linalg/gemm.cuh).
//
// One kernel, for throughput. A block of four warps computes a tile of 64 x 64 of C; a warp holds
// 32 x 32 of it in registers, as 8 fragments of 16 x 8. Slices of 16 of k pass through a ring of
// three stages that cp.async fills ahead. Tiles lie in shared memory as they are stored, transposed
// or not. Rows are padded so that the eight rows (or columns) of a fragment are in different banks
// either way.
//
// For each slice a block does 64 * 64 * 16 multiply-adds, 512 clocks at the 128 a clock of an sm_90
// multiprocessor. It copies 16 KiB to shared memory and reads 32 KiB of it, 384 clocks at 128
// bytes. The tensor cores bound it, with two or three blocks on a multiprocessor (60 KiB each).
#include "cuda/linalg/gemm.cuh"
#include "cuda/linalg/tile.cuh"

namespace zopo {
namespace {

constexpr int kTile = 64, kDepth = 16, kStages = 3, kThreads = 128;
// Row strides in shared memory, in numbers. Being 4 modulo 16, they send the 4 x 4 numbers that
// half a warp reads at once to different banks.
constexpr int kAlong = kDepth + 4;  // tiles (64, 16) with rows along k
constexpr int kAcross = kTile + 4;  // tiles (16, 64) with rows across k
constexpr int kOperand = kTile * kAlong;
static_assert(kDepth * kAcross <= kOperand);
constexpr std::size_t kShared = std::size_t{kStages} * 2 * kOperand * sizeof(double);

struct GemmShape {
  int m, n, k, column_tiles;
  std::int64_t ldc, stride_a, stride_b, stride_c;
  double* C;
  bool add, lower_c, pairs;  // pairs: C takes 16-byte stores
};

template <bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(kThreads)
    gemm_kernel(TileSource<double> A, TileSource<double> B, GemmShape s) {
  auto* ring = shared_memory<double>();
  const int tile = static_cast<int>(blockIdx.x);
  int row = tile / s.column_tiles;
  // With a lower triangle the last rows take longest, so start them first.
  if (A.lower && !kTransposeA) row = static_cast<int>(gridDim.x) / s.column_tiles - 1 - row;
  const int row0 = row * kTile, column0 = tile % s.column_tiles * kTile;
  if (s.lower_c && column0 > row0) return;
  A.data += blockIdx.z * s.stride_a;
  B.data += blockIdx.z * s.stride_b;
  double* C = s.C + blockIdx.z * s.stride_c;

  const int k_begin = A.lower && kTransposeA ? row0 : 0;  // a multiple of kDepth
  const int k_end = A.lower && !kTransposeA ? min(s.k, row0 + kTile) : s.k;
  const int steps = k_end > k_begin ? divide_up(k_end - k_begin, kDepth) : 0;
  const auto fetch = [&](int step) {
    if (step < steps) {
      const int k = k_begin + step * kDepth;
      double *a = ring + step % kStages * 2 * kOperand, *b = a + kOperand;
      if constexpr (kTransposeA)
        copy_tile<kDepth, kTile, kAcross, kThreads>(a, A, k, row0);
      else
        copy_tile<kTile, kDepth, kAlong, kThreads>(a, A, row0, k);
      if constexpr (kTransposeB)
        copy_tile<kTile, kDepth, kAlong, kThreads>(b, B, column0, k);
      else
        copy_tile<kDepth, kTile, kAcross, kThreads>(b, B, k, column0);
    }
    copy_async_commit();  // also when empty, because groups are counted
  };

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int i0 = warp / 2 * 32, j0 = warp % 2 * 32;  // origin of the warp's part of the tile
  double c[2][4][4] = {};
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();  // all threads have this stage, and the stage before is free
    fetch(step + kStages - 1);
    const double *a = ring + step % kStages * 2 * kOperand, *b = a + kOperand;
#pragma unroll
    for (int k = 0; k < kDepth; k += 8) {
      const auto at_a = [&](int i, int l) {
        return kTransposeA ? a[(k + l) * kAcross + i0 + i] : a[(i0 + i) * kAlong + k + l];
      };
      const auto at_b = [&](int l, int j) {
        return kTransposeB ? b[(j0 + j) * kAlong + k + l] : b[(k + l) * kAcross + j0 + j];
      };
      double fa[2][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) fa[i][e] = at_a(16 * i + g + e % 2 * 8, t + e / 2 * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) fb[j][e] = at_b(t + 4 * e, 8 * j + g);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_f64(c[i][j], fa[i], fb[j]);
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row0 + i0 + 16 * i + 8 * half + g;
      if (r >= s.m) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = column0 + j0 + 8 * j + 2 * t;
        double* p = C + r * s.ldc + column;
        double2 v = make_double2(c[i][j][2 * half], c[i][j][2 * half + 1]);
        if (s.pairs && column + 1 < s.n) {
          auto* pair = reinterpret_cast<double2*>(p);
          if (s.add) {
            const double2 before = *pair;
            v.x += before.x;
            v.y += before.y;
          }
          *pair = v;
        } else {
          if (column < s.n) p[0] = s.add ? p[0] + v.x : v.x;
          if (column + 1 < s.n) p[1] = s.add ? p[1] + v.y : v.y;
        }
      }
    }
}

constexpr int kMaxBatch = 65535;  // products of one launch: the limit of gridDim.z

}  // namespace

void gemm(const GemmArguments& a, cudaStream_t stream) {
  if (a.m == 0 || a.n == 0 || a.batch == 0) return;
  const auto even = [&](std::int64_t stride) { return a.batch == 1 || stride % 2 == 0; };
  TileSource<double> A{a.A,
                       a.lda,
                       a.transpose_a ? a.k : a.m,
                       a.transpose_a ? a.m : a.k,
                       a.lower_a,
                       rows_aligned(a.A, a.lda) && even(a.stride_a)};
  TileSource<double> B{a.B,
                       a.ldb,
                       a.transpose_b ? a.n : a.k,
                       a.transpose_b ? a.k : a.n,
                       false,
                       rows_aligned(a.B, a.ldb) && even(a.stride_b)};
  const int row_tiles = divide_up(a.m, kTile), column_tiles = divide_up(a.n, kTile);
  GemmShape shape{a.m,        a.n,        a.k, column_tiles, a.ldc,     a.stride_a,
                  a.stride_b, a.stride_c, a.C, a.add,        a.lower_c, false};
  shape.pairs = rows_aligned(a.C, a.ldc) && even(a.stride_c);
  const auto kernel = a.transpose_a
                          ? (a.transpose_b ? gemm_kernel<true, true> : gemm_kernel<true, false>)
                          : (a.transpose_b ? gemm_kernel<false, true> : gemm_kernel<false, false>);
  const auto tiles = static_cast<unsigned>(row_tiles) * static_cast<unsigned>(column_tiles);
  for (int done = 0; done < a.batch; done += kMaxBatch) {
    const int count = min(kMaxBatch, a.batch - done);
    launch("gemm", kernel,
           {.grid = dim3(tiles, 1, static_cast<unsigned>(count)),
            .block = dim3(kThreads),
            .shared = kShared,
            .stream = stream},
           A, B, shape);
    A.data += count * a.stride_a;
    B.data += count * a.stride_b;
    shape.C += count * a.stride_c;
  }
}

}  // namespace zopo
