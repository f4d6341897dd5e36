// Gram matrix K = sum_l (h_l(x).h_l(y) + 1) (D_l(x).D_l(y)) of two sets of points, in one pass over
// K. The CPU twin is ntk_gram_points() in ntk/ntk.cpp.
//
// Features are computed first, once a point (cuda/ntk/features.cu), as rows [x | D_0 | h_1 | D_1 |
// ... | h_L] with every part padded by zeros to a multiple of 16 numbers. One kernel follows, in
// which a block computes a tile of K. It goes along the rows in slices of 16 numbers, from a ring
// in shared memory that cp.async fills ahead, and accumulates one inner product after another in
// registers. h_l.h_l' waits there for D_l.D_l'; their product is added to the tile, which is in
// shared memory. K is written once. A symmetric K takes the tiles on and below the diagonal; these
// leave through shared memory, so that both halves are written in whole lines.
//
//            big tile, threads    small tile    a warp's part    multiply-adds
//   Float64  128 x 64, 256        64 x 32, 64   32 x 32          mma m16n8k8 f64
//   Float32  128 x 128, 256       64 x 64, 64   32 x 64          8 x 8 a thread, FFMA
//   Tf32x3   128 x 128, 256       64 x 64, 64   64 x 32          mma m16n8k8 tf32, three times
//
// Big tiles are for throughput, one block on a multiprocessor. Small ones are for latency, where
// big ones would leave multiprocessors idle.
//
// Counts for a big tile and one slice on sm_90. A multiprocessor does 128 multiply-adds a clock in
// float64 and in float32, and moves 128 bytes to or from shared memory; L2 supplies some 38.
//
//   Float64  131072 multiply-adds, 1024 clocks. 24 KiB come in and 64 KiB are read from shared
//            memory, 704 clocks; L2 must supply 24 bytes a clock. Bound by the tensor cores.
//   Float32  262144 multiply-adds, 2048 clocks. 16 KiB come in; 8 warps read 64 float4 each, 512
//            clocks when a broadcast is one access and 2048 when it is four. L2 8 bytes a clock.
//   Tf32x3   3 * 262144 tf32 multiply-adds, 768 clocks at 1024 a clock. Splitting costs 72
//            instructions for 48 mma, at most 576 clocks of issue on each of four schedulers.
//
// n = 8192, d = 768, two layers of 32: rows of 896 numbers, 1.20e11 flop in full of which half is
// done, 0.54 GB written and 59 MB of rows read. That is 0.90 ms of arithmetic at 67 Tflop/s in
// float64 and 0.13 ms of memory at 4.8 TB/s. These are counts, not measurements.
//
// Largest error of an entry against float64, relative to the largest entry of K and to sqrt(k(x, x)
// k(y, y)), over 200 standard normal points, d from 384 to 768, two layers of 32 to 256, with
// float32 sums in the order of k:
//
//   Float32  4.6e-7 and 1.4e-6
//   Tf32x3   7.8e-7 and 2.9e-6
//
// The float32 sums of the tensor cores truncate instead of rounding, so Tf32x3 can be off by a few
// times that on a device.
#include <algorithm>

#include "cuda/linalg/mma.cuh"
#include "cuda/ntk/features.cuh"
#include "cuda/ntk/ntk.hpp"
#include "cuda/runtime/index.hpp"

namespace zopo {
namespace {

constexpr int kDepth = 16, kStages = 3;
// The row stride in shared memory is 4 modulo 16 numbers: eight rows of a fragment (or eight
// float4) are in different banks.
constexpr int kStride = kDepth + 4;

// Ways to multiply: a warp's part of a tile is kI x kJ pieces with kE numbers of a thread each.

// Warps of 32 x 32, arranged as kWarpRows x kWarpColumns.
template <int kWarpRows, int kWarpColumns>
struct Float64Product {
  using Number = double;
  static constexpr int kRows = 32 * kWarpRows, kColumns = 32 * kWarpColumns;
  static constexpr int kThreads = 32 * kWarpRows * kWarpColumns;
  static constexpr int kI = 2, kJ = 4, kE = 4;
  int i0, j0, g, t;

  __device__ Float64Product(int warp, int lane)
      : i0(warp / kWarpColumns * 32), j0(warp % kWarpColumns * 32), g(lane / 4), t(lane % 4) {}
  __device__ int row(int i, int e) const { return i0 + 16 * i + e / 2 * 8 + g; }
  __device__ int column(int j, int e) const { return j0 + 8 * j + 2 * t + e % 2; }

  // Add the product of a stage to c: a (kRows, kDepth), b (kColumns, kDepth).
  __device__ void multiply(double (&c)[kI][kJ][kE], const double* a, const double* b) const {
    const double *at_a = a + (i0 + g) * kStride + t, *at_b = b + (j0 + g) * kStride + t;
#pragma unroll
    for (int k = 0; k < kDepth; k += 8) {
      double fa[kI][4], fb[kJ][2];
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) fa[i][e] = at_a[(16 * i + e % 2 * 8) * kStride + k + e / 2 * 4];
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) fb[j][e] = at_b[8 * j * kStride + k + 4 * e];
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int j = 0; j < kJ; ++j) mma_f64(c[i][j], fa[i], fb[j]);
    }
  }
};

// Warps of 32 x 64; a thread holds every fourth row and every eighth column.
template <int kWarpRows, int kWarpColumns>
struct Float32Product {
  using Number = float;
  static constexpr int kRows = 32 * kWarpRows, kColumns = 64 * kWarpColumns;
  static constexpr int kThreads = 32 * kWarpRows * kWarpColumns;
  static constexpr int kI = 8, kJ = 8, kE = 1;
  int i0, j0;

  __device__ Float32Product(int warp, int lane)
      : i0(warp / kWarpColumns * 32 + lane / 8), j0(warp % kWarpColumns * 64 + lane % 8) {}
  __device__ int row(int i, int) const { return i0 + 4 * i; }
  __device__ int column(int j, int) const { return j0 + 8 * j; }

  __device__ void multiply(float (&c)[kI][kJ][kE], const float* a, const float* b) const {
#pragma unroll
    for (int k = 0; k < kDepth; k += 4) {
      float4 fa[kI];
#pragma unroll
      for (int i = 0; i < kI; ++i)
        fa[i] = *reinterpret_cast<const float4*>(a + (i0 + 4 * i) * kStride + k);
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        const auto fb = *reinterpret_cast<const float4*>(b + (j0 + 8 * j) * kStride + k);
#pragma unroll
        for (int i = 0; i < kI; ++i) {
          float& sum = c[i][j][0];
          sum = __fmaf_rn(fa[i].x, fb.x, sum);
          sum = __fmaf_rn(fa[i].y, fb.y, sum);
          sum = __fmaf_rn(fa[i].z, fb.z, sum);
          sum = __fmaf_rn(fa[i].w, fb.w, sum);
        }
      }
    }
  }
};

// Warps of 64 x 32. A number is split as x = hi + lo, both tf32, to about 2^-22 |x|. The product
// lo lo, at most 2^-22 of the whole, is left out.
template <int kWarpRows, int kWarpColumns>
struct Tf32x3Product {
  using Number = float;
  static constexpr int kRows = 64 * kWarpRows, kColumns = 32 * kWarpColumns;
  static constexpr int kThreads = 32 * kWarpRows * kWarpColumns;
  static constexpr int kI = 4, kJ = 4, kE = 4;
  int i0, j0, g, t;

  __device__ Tf32x3Product(int warp, int lane)
      : i0(warp / kWarpColumns * 64), j0(warp % kWarpColumns * 32), g(lane / 4), t(lane % 4) {}
  __device__ int row(int i, int e) const { return i0 + 16 * i + e / 2 * 8 + g; }
  __device__ int column(int j, int e) const { return j0 + 8 * j + 2 * t + e % 2; }

  __device__ static void split(float x, float& hi, float& lo) {
    hi = round_to_tf32(x);
    lo = round_to_tf32(x - hi);
  }
  __device__ void multiply(float (&c)[kI][kJ][kE], const float* a, const float* b) const {
    const float *at_a = a + (i0 + g) * kStride + t, *at_b = b + (j0 + g) * kStride + t;
#pragma unroll 1  // unrolling would need too many registers
    for (int k = 0; k < kDepth; k += 8) {
      float b_hi[kJ][2], b_lo[kJ][2];
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          split(at_b[8 * j * kStride + k + 4 * e], b_hi[j][e], b_lo[j][e]);
#pragma unroll
      for (int i = 0; i < kI; ++i) {
        float a_hi[4], a_lo[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          split(at_a[(16 * i + e % 2 * 8) * kStride + k + e / 2 * 4], a_hi[e], a_lo[e]);
        // Add the small products first; consecutive instructions go to different sums.
#pragma unroll
        for (int j = 0; j < kJ; ++j) mma_tf32(c[i][j], a_lo, b_hi[j]);
#pragma unroll
        for (int j = 0; j < kJ; ++j) mma_tf32(c[i][j], a_hi, b_lo[j]);
#pragma unroll
        for (int j = 0; j < kJ; ++j) mma_tf32(c[i][j], a_hi, b_hi[j]);
      }
    }
  }
};

struct GramShape {
  int n, m, row_tiles, column_tiles;
  std::int64_t ld;                // of the rows of features
  int parts;                      // 2 layers + 1: x, D_0, h_1, D_1, ..., h_L
  int steps[2 * kMaxLayers + 1];  // slices of kDepth in each part
  int all_steps;
  bool symmetric;
};

// Bytes of a ring of stages and the tile. At the end the tile alone takes the ring's place.
template <class Product>
constexpr std::size_t kShared = (kStages * (Product::kRows + Product::kColumns) * kStride +
                                 Product::kRows * Product::kColumns) *
                                sizeof(typename Product::Number);

template <class Product>
__global__ void __launch_bounds__(Product::kThreads, 1)
    gram_kernel(const typename Product::Number* X, const typename Product::Number* Y,
                typename Product::Number* K, const __grid_constant__ GramShape s) {
  using Number = typename Product::Number;
  constexpr int kRows = Product::kRows, kColumns = Product::kColumns;
  constexpr int kThreads = Product::kThreads;
  constexpr int kI = Product::kI, kJ = Product::kJ, kE = Product::kE;
  constexpr int kVector = static_cast<int>(16 / sizeof(Number)), kChunks = kDepth / kVector;
  constexpr int kStage = (kRows + kColumns) * kStride;
  constexpr int kApart = kThreads / kChunks;  // rows between two copies of one thread
  static_assert(kRows % kApart == 0 && kColumns % kApart == 0);
  auto* ring = shared_memory<Number>();
  const int thread = static_cast<int>(threadIdx.x);

  constexpr int kRatio = kRows / kColumns;
  const TilePosition at = s.symmetric ? lower_tile_wide(blockIdx.x, kRatio)
                                      : banded_tile(blockIdx.x, s.row_tiles, s.column_tiles, 8);
  const int row0 = at.row * kRows, column0 = at.column * kColumns;
  const int copied = thread / kChunks, offset = thread % kChunks * kVector;
  const Number* from_x = X + (row0 + copied) * s.ld + offset;
  const Number* from_y = Y + (column0 + copied) * s.ld + offset;
  Number* const to = ring + copied * kStride + offset;
  const auto fetch = [&](int step) {
    if (step < s.all_steps) {
      Number* stage = to + step % kStages * kStage;
#pragma unroll
      for (int i = 0; i < kRows; i += kApart) {
        const bool valid = row0 + copied + i < s.n;
        copy_async16(stage + i * kStride, valid ? from_x + i * s.ld + step * kDepth : X, valid);
      }
#pragma unroll
      for (int j = 0; j < kColumns; j += kApart) {
        const bool valid = column0 + copied + j < s.m;
        copy_async16(stage + (kRows + j) * kStride, valid ? from_y + j * s.ld + step * kDepth : Y,
                     valid);
      }
    }
    copy_async_commit();  // also when empty, because groups are counted
  };

  const Product product(thread / 32, thread % 32);
  // The tile so far is in shared memory, because two sums fill the registers; each thread reads and
  // writes its own numbers only.
  Number* total = ring + kStages * kStage + thread;
  Number inner[kI][kJ][kE];
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  int step = 0;
  for (int part = 0; part < s.parts; ++part) {
    Number c[kI][kJ][kE] = {};
    for (const int end = step + s.steps[part]; step < end; ++step) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // all threads have this stage, and the stage before is free
      fetch(step + kStages - 1);
      const Number* stage = ring + step % kStages * kStage;
      product.multiply(c, stage, stage + kRows * kStride);
    }
    const bool last = part + 1 == s.parts;  // D_L = 1
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < kE; ++e) {
          Number& sum = total[((i * kJ + j) * kE + e) * kThreads];
          if (part == 1)
            sum = inner[i][j][e] * c[i][j][e];
          else if (part % 2)
            sum += inner[i][j][e] * c[i][j][e];
          else
            inner[i][j][e] = c[i][j][e] + Number(1) + (last ? sum : Number(0));
        }
  }

  copy_async_wait<0>();
  __syncthreads();  // all threads have read the ring, whose place the tile now takes
  constexpr int kOut = kColumns + 1;
#pragma unroll
  for (int i = 0; i < kI; ++i)
#pragma unroll
    for (int j = 0; j < kJ; ++j)
#pragma unroll
      for (int e = 0; e < kE; ++e)
        ring[product.row(i, e) * kOut + product.column(j, e)] = inner[i][j][e];
  __syncthreads();
#pragma unroll 4
  for (int entry = thread; entry < kRows * kColumns; entry += kThreads) {
    const int i = row0 + entry / kColumns, j = column0 + entry % kColumns;
    if (i < s.n && j < s.m && !(s.symmetric && j > i))
      K[static_cast<std::int64_t>(i) * s.m + j] = ring[entry / kColumns * kOut + entry % kColumns];
  }
  if (!s.symmetric) return;
#pragma unroll 4
  for (int entry = thread; entry < kRows * kColumns; entry += kThreads) {
    const int i = row0 + entry % kRows, j = column0 + entry / kRows;
    if (i < s.n && j < i)
      K[static_cast<std::int64_t>(j) * s.m + i] = ring[entry % kRows * kOut + entry / kRows];
  }
}

// Rows of features in the layout of the kernel.
template <class Number>
struct Prepared {
  Buffer<Number> data;
  Prepared(const NetworkView& net, FeatureRows<Number> rows, const void* X, Precision precision,
           std::size_t n, cudaStream_t stream)
      : data(n * static_cast<std::size_t>(rows.ld), stream) {
    rows.x = rows.h = rows.D = data.data();
    features(net, X, precision, n, rows, stream);
  }
};

template <class Product>
void run(const typename Product::Number* X, const typename Product::Number* Y,
         typename Product::Number* K, GramShape s, cudaStream_t stream) {
  constexpr int kRatio = Product::kRows / Product::kColumns;
  s.row_tiles = divide_up(s.n, Product::kRows);
  s.column_tiles = divide_up(s.m, Product::kColumns);
  const std::int64_t tiles =
      s.symmetric ? lower_tiles(s.row_tiles) * kRatio : std::int64_t{s.row_tiles} * s.column_tiles;
  launch("gram", gram_kernel<Product>,
         {.grid = dim3(static_cast<unsigned>(tiles)),
          .block = dim3(Product::kThreads),
          .shared = kShared<Product>,
          .stream = stream},
         X, Y, K, s);
}

template <class Big, class Small>
void gram(const NetworkView& net, const void* X, Precision precision_x, std::size_t n,
          const void* Y, Precision precision_y, std::size_t m, void* K, cudaStream_t stream) {
  using Number = typename Big::Number;
  FeatureRows<Number> rows{};
  GramShape s{};
  rows.pad = kDepth;
  int end = 0;
  const auto part = [&](int width) {
    const int start = end * kDepth;
    end += s.steps[s.parts++] = divide_up(width, kDepth);
    return start;
  };
  part(net.dim);
  for (int l = 1; l <= net.layers; ++l) {
    rows.D_at[l] = part(net.width[l]);
    rows.h_at[l] = part(net.width[l]);
  }
  s.all_steps = end;
  s.ld = rows.ld = end * kDepth;
  s.symmetric = Y == nullptr;
  s.n = static_cast<int>(n);
  s.m = static_cast<int>(m);
  if (n == 0 || m == 0) return;

  const Prepared<Number> left(net, rows, X, precision_x, n, stream);
  const Prepared<Number> right(net, rows, Y, precision_y, s.symmetric ? 0 : m, stream);
  const Number* other = s.symmetric ? left.data.data() : right.data.data();
  auto* out = static_cast<Number*>(K);
  const double big = static_cast<double>(n) * static_cast<double>(m) /
                     (Big::kRows * Big::kColumns) / (s.symmetric ? 2 : 1);
  const DeviceLimits& limits = device_limits();
  if (big >= 2.0 * limits.multiprocessors &&
      kShared<Big> <= static_cast<std::size_t>(limits.shared_per_block))
    run<Big>(left.data.data(), other, out, s, stream);
  else
    run<Small>(left.data.data(), other, out, s, stream);
}

}  // namespace

void ntk_gram(const Network& net, const void* X, Precision precision_x, std::size_t n,
              const void* Y, Precision precision_y, std::size_t m, GramPrecision precision, void* K,
              void* stream) {
  const auto on_device = cuda_network(net);
  const auto call = [&](auto function) {
    function(on_device->view, X, precision_x, n, Y, precision_y, m, K,
             static_cast<cudaStream_t>(stream));
  };
  switch (precision) {
    case GramPrecision::Float64:
      return call(gram<Float64Product<4, 2>, Float64Product<2, 1>>);
    case GramPrecision::Float32:
      return call(gram<Float32Product<4, 2>, Float32Product<2, 1>>);
    case GramPrecision::Tf32x3:
      return call(gram<Tf32x3Product<2, 4>, Tf32x3Product<1, 2>>);
  }
}

}  // namespace zopo
