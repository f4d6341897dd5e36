// The posterior at one point, for latency: one cooperative launch with four barriers of the grid;
// results go to page-locked host memory. The CPU twin is gp/posterior.cpp.
//
//   stage  work
//   0      Read the point from page-locked host memory once, with no copy to wait for.
//   1      W_0 x and x.X_i: warps over units and observations, d (n + w) numbers read.
//   2      Each block computes the point's features. Warps over observations compute k_i,
//          c_i = D_0(x).D_0(X_i), and the rows P_i and Q_i of cuda/gp/point.cuh, 2 w^2 multiply-
//          adds for each hidden layer. The same warps take the rows of J_l = B_l W_0 for the
//          prior's trace, sum_l |D_l|^2 tr(B_l W_0 W_0^T B_l^T).
//   3      c = C^-1 k, n^2 / 2 numbers. The gradient by columns: sum_i c_i alpha_i X_i +
//          W_0^T sum_i alpha_i P_i, d (n + w) numbers.
//   4      r = k - C c and u = C^-T c. A product with a computed inverse is not backward stable; to
//          first order |c|^2 + 2 u.r is what a refined c would give. tr(G^T A^-1 G) by tiles of
//          4 x 32 entries of A^-1, n^2 w multiply-adds; P and Q of a tile come from L2.
//   5      The last block to finish adds the sums of all blocks in order: the same bits every time.
//
// At n = 256, d = 768, w = 32 that is 5 MB, all from L2, and 7 million multiply-adds.
#include "cuda/gp/point.cuh"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4;  // rows of a tile of A^-1
constexpr int kSums = 3;  // sums of a block: |C^-1 k|^2, tr(G^T A^-1 G), the prior's trace

struct PointArguments {
  GpView v;
  const double* from;  // (d) the point
  double* x;           // (d) the copy on the device
  double* first;       // (width[1]) W_0 x
  double* inner;       // (n + 1) x.X_i, and x.x
  double* k;           // (n)
  double* c;           // (n)
  double* solved;      // (n) C^-1 k
  double* r;           // (n) k - C C^-1 k, as computed
  double* u;           // (n) C^-T C^-1 k
  double* P;           // (n, width[1])
  double* Q;           // (n, width[1])
  double* left;        // (blocks, kSums)
  unsigned* words;
  double* results;
  int widest;
  bool gradient, uncertainty;
};

// Compute rows P_i and Q_i, or return a hidden unit's part of the prior's trace.
__device__ inline double derivative_row(const PointArguments& a, const PointShared& s, int item,
                                        int lane) {
  const NetworkView& net = a.v.net;
  const int w = net.width[1];
  if (item < a.v.n) {
    const std::int64_t i = item;
    remainder_rows(net, s.h, a.v.h + i * net.hidden, a.v.S + i * w, s.gamma, s.row, a.widest,
                   a.P + i * w, a.uncertainty ? a.Q + i * w : nullptr, lane);
    return 0.0;
  }
  int unit = item - a.v.n, layer = 1;
  while (unit >= net.width[layer]) unit -= net.width[layer++];
  const double* r = unit_row(net, s.h, layer, unit, s.row, a.widest, lane);
  double trace = 0.0;
  for (int u = lane; u < w; u += 32) trace = fma(r[u], times_first_gram(net, r, u), trace);
  return warp_sum(trace) * derivative_weight(net, s.D, layer, lane);
}

// Return a lane's part of tr(G^T A^-1 G) from the tile of A^-1 at row I and column J.
__device__ inline double explained_tile(const PointArguments& a, int I, int J, int lane) {
  const GpView& v = a.v;
  const int n = v.n, w = v.net.width[1], j = J + lane;
  const std::int64_t ld = v.ld;
  double sum = 0.0, entry[kRows];
#pragma unroll
  for (int p = 0; p < kRows; ++p) {
    const int i = I + p;
    entry[p] = i < n && j < n ? v.A[i * ld + j] : 0.0;
    if (i < n && j <= i)
      sum = fma(entry[p] * v.M[i * ld + j] * (j < i ? 2.0 : 1.0), a.c[i] * a.c[j], sum);
  }
  const int columns = min(32, n - J);
  for (int group = 0; group < w; group += 32) {
    const int u = group + lane;
    double t[kRows] = {};
#pragma unroll 8
    for (int q = 0; q < columns; ++q) {
      const double other = u < w ? a.P[(J + q) * std::int64_t{w} + u] : 0.0;
#pragma unroll
      for (int p = 0; p < kRows; ++p) t[p] = fma(__shfl_sync(kFullWarp, entry[p], q), other, t[p]);
    }
#pragma unroll
    for (int p = 0; p < kRows; ++p)
      if (u < w && I + p < n) sum = fma(t[p], a.Q[(I + p) * std::int64_t{w} + u], sum);
  }
  return sum;
}

// Compute entries [32 group, 32 group + 32) of the gradient, by the block.
__device__ inline void gradient_group(const PointArguments& a, const PointShared& s, int group,
                                      int thread) {
  const GpView& v = a.v;
  const NetworkView& net = v.net;
  const int lane = thread % 32, warp = thread / 32, warps = static_cast<int>(blockDim.x) / 32;
  const int n = v.n, d = net.dim, w = net.width[1], t = group * 32 + lane;
  double sum = 0.0;
  if (t < d) {
#pragma unroll 8
    for (int i = warp; i < n; i += warps)
      sum = fma(a.c[i] * v.alpha[i], v.x[i * std::int64_t{d} + t], sum);
  }
  for (int from = 0; from < w; from += 32) {  // q = sum_i alpha_i P_i, 32 units of it
    double q = 0.0;
    if (from + lane < w) {
#pragma unroll 8
      for (int i = warp; i < n; i += warps)
        q = fma(v.alpha[i], a.P[i * std::int64_t{w} + from + lane], q);
    }
    s.lanes[thread] = q;
    __syncthreads();
    if (warp == 0)
      for (int p = 1; p < warps; ++p) s.lanes[lane] += s.lanes[p * 32 + lane];
    __syncthreads();
    if (t < d)
      for (int u = warp; u < 32 && from + u < w; u += warps)
        sum = fma(s.lanes[u], net.weight[0][(from + u) * std::int64_t{d} + t], sum);
    __syncthreads();
  }
  s.lanes[thread] = sum;
  __syncthreads();
  if (warp == 0 && t < d) {
    double total = 0.0;
    for (int p = 0; p < warps; ++p) total += s.lanes[p * 32 + lane];
    a.results[4 + t] = total;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads, 1)
    posterior_one_kernel(const __grid_constant__ PointArguments a) {
  const GpView& v = a.v;
  const NetworkView& net = v.net;
  const int n = v.n, d = net.dim, w = net.width[1];
  const std::int64_t ld = v.ld;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warps = static_cast<int>(blockDim.x) / 32, blocks = static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x) * warps + warp, all = blocks * warps;
  const PointShared s = point_memory(net.hidden, a.widest);

  for (int e = static_cast<int>(blockIdx.x * blockDim.x) + thread; e < d;
       e += static_cast<int>(gridDim.x * blockDim.x))
    a.x[e] = a.from[e];
  grid_barrier(a.words);

  for (int item = first; item < w + n + 1; item += all) {
    const int i = item - w;
    const double* other = i < 0    ? net.weight[0] + static_cast<std::int64_t>(item) * d
                          : i == n ? a.x
                                   : v.x + std::int64_t{i} * d;
    const double inner = warp_dot(other, a.x, d, lane);
    if (lane == 0) (i < 0 ? a.first[item] : a.inner[i]) = inner;
  }
  grid_barrier(a.words);

  point_features(net, a.first, s.h, s.D);
  double trace = 0.0;
  const int items = n + (a.uncertainty ? net.hidden : 0);
  for (int item = first; item < items; item += all) {
    if (item < n) {
      const std::int64_t of = std::int64_t{item} * net.hidden;
      const double k = kernel_value(net, s.h, s.D, v.h + of, v.D + of, a.inner[item], lane);
      derivative_products(net, s.D, v.D + of, s.gamma, lane);
      if (lane == 0) {
        a.k[item] = k;
        a.c[item] = s.gamma[0];
      }
    }
    if (a.gradient || a.uncertainty) trace += derivative_row(a, s, item, lane);
  }
  grid_barrier(a.words);

  double square = 0.0, explained = 0.0;
  for (int i = first; i < n; i += all) {
    const double c = warp_dot(v.Cinv + i * ld, a.k, i + 1, lane);
    square = fma(c, c, square);
    if (lane == 0) a.solved[i] = c;
  }
  if (a.gradient)
    for (int group = static_cast<int>(blockIdx.x); group * 32 < d; group += blocks)
      gradient_group(a, s, group, thread);
  grid_barrier(a.words);

  for (int i = first; i < n; i += all) {
    const double product = warp_dot(v.C + i * ld, a.solved, i + 1, lane);
    if (lane == 0) a.r[i] = a.k[i] - product;
  }
  for (int group = static_cast<int>(blockIdx.x); group * 32 < n; group += blocks) {
    const double sum = transposed_times(v.Cinv, ld, n, a.solved, group, s.lanes);
    if (warp == 0 && group * 32 + lane < n) a.u[group * 32 + lane] = sum;
  }
  if (a.uncertainty) {
    const int across = divide_up(n, 32), tiles = divide_up(n, kRows) * across;
    for (int tile = first; tile < tiles; tile += all)
      explained += explained_tile(a, tile / across * kRows, tile % across * 32, lane);
  }
  // Sums over warps are equal in all lanes; the third differs by lane.
  square = block_sum(lane == 0 ? square : 0.0, s.scratch);
  trace = block_sum(lane == 0 ? trace : 0.0, s.scratch);
  explained = block_sum(explained, s.scratch);
  if (thread == 0) {
    double* mine = a.left + std::int64_t{blockIdx.x} * kSums;
    mine[0] = square;
    mine[1] = explained;
    mine[2] = trace;
    __threadfence();
    s.scratch[34] = atomicAdd(a.words + 2, 1u) == gridDim.x - 1 ? 1.0 : 0.0;
    __threadfence();
  }
  __syncthreads();
  if (s.scratch[34] == 0.0) return;

  double sum[kSums] = {}, mean = 0.0, correction = 0.0;
  for (int b = thread; b < blocks; b += static_cast<int>(blockDim.x))
#pragma unroll
    for (int p = 0; p < kSums; ++p) sum[p] += a.left[std::int64_t{b} * kSums + p];
  for (int i = thread; i < n; i += static_cast<int>(blockDim.x)) {
    mean = fma(a.k[i], v.alpha[i], mean);
    correction = fma(a.u[i], a.r[i], correction);
  }
#pragma unroll
  for (int p = 0; p < kSums; ++p) sum[p] = block_sum(sum[p], s.scratch);
  mean = block_sum(mean, s.scratch);
  correction = block_sum(correction, s.scratch);
  if (warp == 0) {
    const double prior = kernel_value(net, s.h, s.D, s.h, s.D, a.inner[n], lane);
    const double slope = derivative_weight(net, s.D, 0, lane) * d;  // J_0 = I
    if (lane == 0) {
      a.results[0] = mean;
      a.results[1] = fmax(prior - sum[0] - 2.0 * correction, 0.0);
      a.results[2] = fmax(slope + sum[2] - sum[1], 0.0);
      a.words[2] = 0;
    }
  }
}

}  // namespace

void posterior_one(GpModel& m, const double* x, bool gradient, bool uncertainty) {
  const GpView& v = m.v;
  const int n = v.n, w = v.net.width[1];
  const int across = divide_up(n, 32);
  const int useful = std::max({1, divide_up(n + w, m.warps),
                               uncertainty ? divide_up(divide_up(n, kRows) * across, m.warps) : 0,
                               gradient ? divide_up(v.net.dim, 32) : 0});
  const int blocks = std::min(useful, device_limits().multiprocessors);
  const auto rows = static_cast<std::size_t>(n), width = static_cast<std::size_t>(w);
  m.query.need(static_cast<std::size_t>(v.net.dim), m.stream);
  m.work.need(width * (2 * rows + 1) + 6 * rows + 1 + static_cast<std::size_t>(blocks) * kSums,
              m.stream);
  PointArguments a{};
  a.v = v;
  a.from = x;
  a.x = m.query.data();
  a.P = m.work.data();
  a.Q = a.P + rows * width;
  a.first = a.Q + rows * width;
  a.inner = a.first + width;
  a.k = a.inner + rows + 1;
  a.c = a.k + rows;
  a.solved = a.c + rows;
  a.r = a.solved + rows;
  a.u = a.r + rows;
  a.left = a.u + rows;
  a.words = m.words.data();
  m.results.need(4 + static_cast<std::size_t>(v.net.dim));
  a.results = m.results.data();
  a.widest = m.widest;
  a.gradient = gradient;
  a.uncertainty = uncertainty;
  launch("posterior", posterior_one_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>(32 * m.warps)),
          .shared = point_shared(v.net.hidden, m.widest, m.warps),
          .stream = m.stream,
          .cooperative = true},
         a);
}

}  // namespace zopo
