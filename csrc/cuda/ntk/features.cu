// Features h_l and D_l of points, in float64 from points of any precision, all layers in one pass.
// The CPU twin is ntk_features() in ntk/ntk.cpp.
//
//   few_kernel    Latency: a block for each point, a warp for each unit. One point of d = 768 in a
//                 network of width 32 reads 196 KB of W_0, mostly from L2, in about 2 us on one
//                 multiprocessor; starting a second kernel would take as long. Also serves networks
//                 too wide for many_kernel.
//   many_kernel   Throughput: a block takes 32 points, kept in shared memory, through all layers.
//                 The tensor cores make the products, 64 units at a time. d is split into slices of
//                 32; the next slice is copied while one is multiplied.
//
// For n points many_kernel reads the points once for each 64 units of the first layer, and W_0 once
// for each 32 points from L2. n = 8192, d = 768, width 32: 50 MB and 50 MB, 0.4 Gflop, bound by the
// first.
#include <algorithm>

#include "cuda/linalg/tile.cuh"
#include "cuda/ntk/features.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

__device__ inline double as_double(double x) { return x; }
__device__ inline double as_double(float x) { return static_cast<double>(x); }
__device__ inline double as_double(__half x) { return static_cast<double>(__half2float(x)); }

__host__ __device__ constexpr int round_up(int n, int multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// ---- one point a block -------------------------------------------------------------------------

constexpr int kFewThreads = 512;

// Compute a.b over a warp; all lanes get it.
template <class A>
__device__ inline double warp_dot(const A* a, const double* b, int size) {
  double sum = 0.0;
#pragma unroll 4
  for (int k = static_cast<int>(threadIdx.x) % 32; k < size; k += 32) sum += as_double(a[k]) * b[k];
  return warp_sum(sum);
}

template <class In, class Out>
__global__ void __launch_bounds__(kFewThreads)
    few_kernel(const __grid_constant__ NetworkView net, const In* X,
               const __grid_constant__ FeatureRows<Out> rows) {
  auto* h = shared_memory<double>();  // all layers
  double* D = h + net.hidden;         // all layers
  const std::int64_t point = blockIdx.x;
  const In* x = X + point * net.dim;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWarps = kFewThreads / 32;

  if (rows.x)
    for (int k = static_cast<int>(threadIdx.x); k < round_up(net.dim, rows.pad); k += kFewThreads)
      rows.x[point * rows.ld + k] = k < net.dim ? static_cast<Out>(as_double(x[k])) : Out(0);
  for (int l = 1; l <= net.layers; ++l) {
    const int inner = net.width[l - 1];
    for (int j = warp; j < net.width[l]; j += kWarps) {
      const double* W = net.weight[l - 1] + static_cast<std::int64_t>(j) * inner;
      const double sum = l == 1 ? warp_dot(x, W, inner) : warp_dot(h + net.offset[l - 1], W, inner);
      if (lane == 0) {
        if (l == 1 && rows.first) rows.first[point * net.width[1] + j] = sum;
        h[net.offset[l] + j] = fmax(sum + net.bias[l - 1][j], 0.0);
      }
    }
    __syncthreads();
  }
  for (int l = net.layers; l >= 1; --l) {
    const int inner = l < net.layers ? net.width[l + 1] : 1;
    for (int j = warp; j < net.width[l]; j += kWarps) {
      double d = 0.0;
      if (h[net.offset[l] + j] > 0.0)  // the same in all lanes
        d = l == net.layers
                ? net.weight[l][j]
                : warp_dot(D + net.offset[l + 1],
                           net.transposed[l] + static_cast<std::int64_t>(j) * inner, inner);
      if (lane == 0) D[net.offset[l] + j] = d;
    }
    __syncthreads();
  }
  for (int l = 1; l <= net.layers; ++l) {
    const int width = net.width[l];
    for (int j = static_cast<int>(threadIdx.x); j < round_up(width, rows.pad); j += kFewThreads) {
      const bool real = j < width;
      rows.h[point * rows.ld + rows.h_at[l] + j] =
          static_cast<Out>(real ? h[net.offset[l] + j] : 0.0);
      rows.D[point * rows.ld + rows.D_at[l] + j] =
          static_cast<Out>(real ? D[net.offset[l] + j] : 0.0);
    }
  }
}

// ---- 32 points a block -------------------------------------------------------------------------

constexpr int kPoints = 32, kThreads = 256, kDepth = 32, kUnits = 64;
// Row strides in shared memory are 4 modulo 16 numbers, against bank conflicts
// (cuda/linalg/gemm.cu).
constexpr int kPointStride = kDepth + 4, kUnitStride = kUnits + 4;
constexpr int kTiles = kPoints * kPointStride + 2 * kDepth * kUnitStride;

__host__ __device__ inline int value_stride(int widest) { return round_up(widest, 16) + 4; }

std::size_t many_shared(const NetworkView& net, int widest) {
  return (kTiles + 2 * kPoints * static_cast<std::size_t>(value_stride(widest))) * sizeof(double) +
         kPoints * static_cast<std::size_t>(net.hidden);
}

// Compute sum_k in(p, k) W(k, j) for the block's points and all j < round_up(units, 16), and call
// store(p, j, sum) once for each; W (inner, units) counts as zero beyond the units. in(p, k) must
// return zero for k >= `inner`, and must read only values that the calling thread can see.
// seen(p, k, value) is called once for each input. All threads of the block take part.
template <class In, class Seen, class Store>
__device__ inline void dense(const In& in, const double* W, int inner, int units, double* tiles,
                             const Seen& seen, const Store& store) {
  double *points = tiles, *ring = tiles + kPoints * kPointStride;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int g = lane / 4, t = lane % 4;
  const int p0 = warp % 2 * 16;  // a warp's fragments: 16 points by 8 units at j0 and at j0 + 32
  const int j0 = warp / 2 * 8;
  const TileSource<double> from{W, units, inner, units, false, rows_aligned(W, units)};
  constexpr int kOfPoints = kPoints * kDepth / kThreads, kApart = kThreads / kDepth;
  const int point = thread / kDepth, along = thread % kDepth;
  for (int unit = 0; unit < units; unit += kUnits) {
    double next[kOfPoints];
    const auto load = [&](int k) {
#pragma unroll
      for (int e = 0; e < kOfPoints; ++e) {
        next[e] = in(point + e * kApart, k);
        if (unit == 0) seen(point + e * kApart, k, next[e]);
      }
    };
    double c[2][4] = {};
    __syncthreads();  // all threads have read the tiles
    copy_tile<kDepth, kUnits, kUnitStride, kThreads>(ring, from, 0, unit);
    copy_async_commit();
    load(along);
    for (int k0 = 0; k0 < inner; k0 += kDepth) {
      double* weights = ring + k0 / kDepth % 2 * kDepth * kUnitStride;
      double* others = ring + (k0 / kDepth + 1) % 2 * kDepth * kUnitStride;
      __syncthreads();
#pragma unroll
      for (int e = 0; e < kOfPoints; ++e)
        points[(point + e * kApart) * kPointStride + along] = next[e];
      const bool more = k0 + kDepth < inner;
      if (more) copy_tile<kDepth, kUnits, kUnitStride, kThreads>(others, from, k0 + kDepth, unit);
      copy_async_commit();
      copy_async_wait<1>();
      __syncthreads();
      if (more) load(k0 + kDepth + along);
#pragma unroll
      for (int k = 0; k < kDepth; k += 8) {
        double a[4];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          a[e] = points[(p0 + g + e % 2 * 8) * kPointStride + k + t + e / 2 * 4];
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          const double* w = weights + (k + t) * kUnitStride + j0 + 32 * f + g;
          const double b[2] = {w[0], w[4 * kUnitStride]};
          mma_f64(c[f], a, b);
        }
      }
    }
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int j = unit + j0 + 32 * f + 2 * t + e % 2;
        if (j < round_up(units, 16)) store(p0 + g + e / 2 * 8, j, c[f][e]);
      }
  }
  __syncthreads();
}

template <class In, class Out>
__global__ void __launch_bounds__(kThreads, 2)
    many_kernel(const __grid_constant__ NetworkView net, const In* X, std::int64_t n, int stride,
                const __grid_constant__ FeatureRows<Out> rows) {
  auto* tiles = shared_memory<double>();
  double* values = tiles + kTiles;            // of the last finished layer, (kPoints, stride)
  double* fresh = values + kPoints * stride;  // of the layer in progress
  auto* active = reinterpret_cast<unsigned char*>(fresh + kPoints * stride);  // (kPoints, hidden)
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPoints;
  const int count = static_cast<int>(min(n - first, static_cast<std::int64_t>(kPoints)));
  const auto ignore = [](int, int, double) {};

  const auto forward = [&](int l, int p, int j, double sum) {
    const int width = net.width[l];
    const bool real = j < width;
    const double a = real ? sum + net.bias[l - 1][j] : 0.0, h = a > 0.0 ? a : 0.0;
    fresh[p * stride + j] = h;
    if (real) active[p * net.hidden + net.offset[l] + j] = a > 0.0;
    if (p >= count) return;
    if (l == 1 && rows.first && real) rows.first[(first + p) * width + j] = sum;
    if (j < round_up(width, rows.pad))
      rows.h[(first + p) * rows.ld + rows.h_at[l] + j] = static_cast<Out>(h);
  };
  const auto swap_values = [&] {
    double* made = fresh;
    fresh = values;
    values = made;
  };
  dense(
      [&](int p, int k) {
        return p < count && k < net.dim ? as_double(X[(first + p) * net.dim + k]) : 0.0;
      },
      net.transposed[0], net.dim, net.width[1], tiles,
      [&](int p, int k, double x) {
        if (rows.x && p < count && k < round_up(net.dim, rows.pad))
          rows.x[(first + p) * rows.ld + k] = static_cast<Out>(x);
      },
      [&](int p, int j, double sum) { forward(1, p, j, sum); });
  swap_values();
  for (int l = 2; l <= net.layers; ++l) {
    const int inner = net.width[l - 1];
    dense([&](int p, int k) { return k < inner ? values[p * stride + k] : 0.0; },
          net.transposed[l - 1], inner, net.width[l], tiles, ignore,
          [&](int p, int j, double sum) { forward(l, p, j, sum); });
    swap_values();
  }

  const auto backward = [&](int l, int p, int j, double d) {
    const int width = net.width[l];
    const bool on = j < width && active[p * net.hidden + net.offset[l] + j];
    d = on ? d : 0.0;
    fresh[p * stride + j] = d;
    if (p < count && j < round_up(width, rows.pad))
      rows.D[(first + p) * rows.ld + rows.D_at[l] + j] = static_cast<Out>(d);
  };
  const int last = net.width[net.layers], across = round_up(last, 16);
  for (int at = static_cast<int>(threadIdx.x); at < kPoints * across; at += kThreads) {
    const int j = at % across;
    backward(net.layers, at / across, j, j < last ? net.weight[net.layers][j] : 0.0);
  }
  __syncthreads();
  swap_values();
  for (int l = net.layers - 1; l >= 1; --l) {
    const int inner = net.width[l + 1];
    dense([&](int p, int k) { return k < inner ? values[p * stride + k] : 0.0; }, net.weight[l],
          inner, net.width[l], tiles, ignore,
          [&](int p, int j, double d) { backward(l, p, j, d); });
    swap_values();
  }
}

template <class In, class Out>
void run(const NetworkView& net, const In* X, std::size_t n, const FeatureRows<Out>& rows,
         cudaStream_t stream) {
  const int widest = *std::max_element(net.width + 1, net.width + net.layers + 1);
  const DeviceLimits& limits = device_limits();
  const auto room = static_cast<std::size_t>(limits.shared_per_block);
  const std::size_t many = many_shared(net, widest);
  if (n > 2 * static_cast<std::size_t>(limits.multiprocessors) && many <= room) {
    const auto blocks = static_cast<unsigned>(divide_up<std::size_t>(n, kPoints));
    launch("features", many_kernel<In, Out>,
           {.grid = dim3(blocks), .block = dim3(kThreads), .shared = many, .stream = stream}, net,
           X, n, value_stride(widest), rows);
    return;
  }
  const std::size_t few = 2 * static_cast<std::size_t>(net.hidden) * sizeof(double);
  if (few > room)
    throw ConfigError("network: has " + std::to_string(net.hidden) +
                      " hidden units, the CUDA engine takes at most " +
                      std::to_string(room / (2 * sizeof(double))) +
                      " on this device; use device='cpu'");
  launch("features", few_kernel<In, Out>,
         {.grid = dim3(static_cast<unsigned>(n)),
          .block = dim3(kFewThreads),
          .shared = few,
          .stream = stream},
         net, X, rows);
}

}  // namespace

template <class Out>
void features(const NetworkView& net, const void* X, Precision precision, std::size_t n,
              const FeatureRows<Out>& rows, cudaStream_t stream) {
  if (n == 0) return;
  switch (precision) {
    case Precision::Half:
      return run(net, static_cast<const __half*>(X), n, rows, stream);
    case Precision::Single:
      return run(net, static_cast<const float*>(X), n, rows, stream);
    case Precision::Double:
      return run(net, static_cast<const double*>(X), n, rows, stream);
  }
}
template void features<double>(const NetworkView&, const void*, Precision, std::size_t,
                               const FeatureRows<double>&, cudaStream_t);
template void features<float>(const NetworkView&, const void*, Precision, std::size_t,
                              const FeatureRows<float>&, cudaStream_t);

void ntk_features(const Network& net, const void* X, Precision precision, std::size_t n, void* h,
                  void* D, Precision out, double* first, void* stream) {
  const auto on_device = cuda_network(net);
  const NetworkView& view = on_device->view;
  const auto make = [&]<class Out>(Out*) {
    FeatureRows<Out> rows{};
    rows.h = static_cast<Out*>(h);
    rows.D = static_cast<Out*>(D);
    rows.ld = view.hidden;
    std::copy_n(view.offset, kMaxLayers + 2, rows.h_at);
    std::copy_n(view.offset, kMaxLayers + 2, rows.D_at);
    rows.pad = 1;
    rows.first = first;
    features(view, X, precision, n, rows, static_cast<cudaStream_t>(stream));
  };
  if (out == Precision::Double)
    make(static_cast<double*>(nullptr));
  else if (out == Precision::Single)
    make(static_cast<float*>(nullptr));
  else
    throw ConfigError("features: expected float32 or float64 as the result");
}

}  // namespace zopo
