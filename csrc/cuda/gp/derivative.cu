// The kernel's derivative at points, against the observations and as a prior, and the covariance of
// the posterior's gradient at a point. The CPU twins are gp/posterior.cpp and gp/cpu_engine.cpp.
//
// A block holds a point's features in shared memory. Its warps take observations, or rows of
// J_l = B_l W_0 at 2 w^2 multiply-adds each for a hidden layer. The covariance is
//   |D_0|^2 I + (R W_0)^T R W_0 - (C^-1 G)^T C^-1 G,  G = diag(c) X + P W_0,
// with R the rows of the B_l scaled by |D_l|: n d (n + d) multiply-adds.
#include "cuda/gp/point.cuh"
#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;

// Arguments that relate observation i to query j; a block has a query, a warp an observation at a
// time.
struct RelateArguments {
  GpView v;
  Queries queries;
  int from;  // the first query of the blocks
  std::int64_t ldq;
  double* c;         // (n, ldq)
  double *P, *Q;     // (n, queries of the grid, width[1]); Q or null
  std::int64_t ldp;  // queries of the grid times width[1]
  int widest;
};

__global__ void __launch_bounds__(kThreads, 1)
    relate_kernel(const __grid_constant__ RelateArguments a) {
  const NetworkView& net = a.v.net;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warps = static_cast<int>(blockDim.x) / 32, w = net.width[1];
  const int group = static_cast<int>(blockIdx.x), query = a.from + group;
  const PointShared s = point_memory(net.hidden, a.widest);
  for (int u = thread; u < net.hidden; u += static_cast<int>(blockDim.x)) {
    s.h[u] = a.queries.h[query * std::int64_t{net.hidden} + u];
    s.D[u] = a.queries.D[query * std::int64_t{net.hidden} + u];
  }
  __syncthreads();
  for (std::int64_t i = std::int64_t{blockIdx.y} * warps + warp; i < a.v.n;
       i += std::int64_t{gridDim.y} * warps) {
    const std::int64_t of = i * net.hidden, to = i * a.ldp + std::int64_t{group} * w;
    derivative_products(net, s.D, a.v.D + of, s.gamma, lane);
    if (lane == 0) a.c[i * a.ldq + query] = s.gamma[0];
    remainder_rows(net, s.h, a.v.h + of, a.v.S + i * w, s.gamma, s.row, a.widest, a.P + to,
                   a.Q ? a.Q + to : nullptr, lane);
  }
}

// Compute k(x, x) and, if `trace` is not null, tr d^2k; a block a query.
__global__ void __launch_bounds__(kThreads, 1)
    prior_kernel(const __grid_constant__ NetworkView net, const __grid_constant__ Queries queries,
                 int widest, double* prior, double* trace) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warps = static_cast<int>(blockDim.x) / 32, w = net.width[1];
  const std::int64_t query = blockIdx.x;
  const PointShared s = point_memory(net.hidden, widest);
  for (int u = thread; u < net.hidden; u += static_cast<int>(blockDim.x)) {
    s.h[u] = queries.h[query * net.hidden + u];
    s.D[u] = queries.D[query * net.hidden + u];
  }
  __syncthreads();
  if (warp == 0) {
    const double* x = queries.x + query * net.dim;
    const double k = kernel_value(net, s.h, s.D, s.h, s.D, warp_dot(x, x, net.dim, lane), lane);
    if (lane == 0) prior[query] = k;
  }
  if (!trace) return;
  double sum = 0.0;
  for (int item = warp; item < net.hidden; item += warps) {
    int unit = item, layer = 1;
    while (unit >= net.width[layer]) unit -= net.width[layer++];
    const double* r = unit_row(net, s.h, layer, unit, s.row, widest, lane);
    double part = 0.0;
    for (int u = lane; u < w; u += 32) part = fma(r[u], times_first_gram(net, r, u), part);
    sum += warp_sum(part) * derivative_weight(net, s.D, layer, lane);
  }
  const double slope = derivative_weight(net, s.D, 0, lane) * net.dim;  // J_0 = I
  sum = block_sum(lane == 0 ? sum : 0.0, s.scratch);
  if (thread == 0) trace[query] = slope + sum;
}

// Compute the rows of sqrt(|D_l|^2) J_l = R W_0 over the hidden units, R (hidden, width[1]), and
// slope[0] = |D_0|^2; a block a unit.
__global__ void __launch_bounds__(32, 1)
    jacobian_kernel(const __grid_constant__ NetworkView net, const double* h, const double* D,
                    int widest, double* R, double* slope) {
  const int lane = static_cast<int>(threadIdx.x), item = static_cast<int>(blockIdx.x);
  int unit = item, layer = 1;
  while (unit >= net.width[layer]) unit -= net.width[layer++];
  const double* r = unit_row(net, h, layer, unit, shared_memory<double>(), widest, lane);
  const double scale = sqrt(derivative_weight(net, D, layer, lane));
  for (int u = lane; u < net.width[1]; u += 32)
    R[item * std::int64_t{net.width[1]} + u] = scale * r[u];
  const double first = derivative_weight(net, D, 0, lane);
  if (item == 0 && lane == 0) slope[0] = first;
}

// G_ij += c_i X_ij
__global__ void __launch_bounds__(kThreads, 1)
    add_scaled_rows_kernel(double* G, const double* X, const double* c, int columns,
                           std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) G[e] = fma(c[e / columns], X[e], G[e]);
}

// out = U - V + slope[0] I, (d, d)
__global__ void __launch_bounds__(kThreads, 1)
    covariance_kernel(const double* U, const double* V, const double* slope, int d, double* out) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= std::int64_t{d} * d) return;
  out[e] = U[e] - (V ? V[e] : 0.0) + (e / d == e % d ? slope[0] : 0.0);
}

dim3 grid_of(std::int64_t entries) {
  return dim3(static_cast<unsigned>(divide_up<std::int64_t>(entries, kThreads)));
}

}  // namespace

void relate(GpModel& m, const Queries& queries, int from, int count, double* c, double* P,
            double* Q) {
  const RelateArguments a = {
      m.v, queries, from, queries.q, c, P, Q, std::int64_t{count} * m.v.net.width[1], m.widest};
  if (m.v.n == 0) return;
  launch("derivatives of many points", relate_kernel,
         {.grid = dim3(static_cast<unsigned>(count),
                       static_cast<unsigned>(std::min(64, divide_up(m.v.n, m.warps)))),
          .block = dim3(static_cast<unsigned>(32 * m.warps)),
          .shared = point_shared(m.v.net.hidden, m.widest, m.warps),
          .stream = m.stream},
         a);
}

void priors(GpModel& m, const Queries& queries, double* prior, double* trace) {
  launch("prior", prior_kernel,
         {.grid = dim3(static_cast<unsigned>(queries.q)),
          .block = dim3(static_cast<unsigned>(32 * m.warps)),
          .shared = point_shared(m.v.net.hidden, m.widest, m.warps),
          .stream = m.stream},
         m.v.net, queries, m.widest, prior, trace);
}

void covariance_at(GpModel& m, const double* x, double* out) {
  const GpView& v = m.v;
  const NetworkView& net = v.net;
  const std::int64_t n = v.n, d = net.dim, w = net.width[1], hidden = net.hidden;
  m.work.need(static_cast<std::size_t>(2 * hidden + hidden * (w + d) + 2 * n * (d + 1) + n * w +
                                       3 * d * d + w + 64),
              m.stream);
  Carver c(m.work.data());
  const Queries queries = {const_cast<double*>(x), c.take(hidden), c.take(hidden), 1};
  double *scale = c.take(n), *P = c.take(n * w);
  double *R = c.take(hidden * w), *RW = c.take(hidden * d), *slope = c.take(2), *G = c.take(n * d),
         *V = c.take(n * d), *U = c.take(d * d), *VV = c.take(d * d), *all = c.take(d * d);
  ntk_features(*m.network, x, Precision::Double, 1, queries.h, queries.D, Precision::Double,
               nullptr, m.stream);
  launch("jacobian", jacobian_kernel,
         {.grid = dim3(static_cast<unsigned>(hidden)),
          .block = dim3(32),
          .shared = 2 * sizeof(double) * static_cast<std::size_t>(m.widest),
          .stream = m.stream},
         net, queries.h, queries.D, m.widest, R, slope);
  const auto product = [&](int rows, int columns, int depth, const double* A, const double* B,
                           double* C) {
    gemm({.m = rows,
          .n = columns,
          .k = depth,
          .A = A,
          .lda = depth,
          .B = B,
          .ldb = columns,
          .C = C,
          .ldc = columns},
         m.stream);
  };
  const auto square = [&](int rows, const double* A, double* C) {  // A^T A
    gemm({.m = net.dim,
          .n = net.dim,
          .k = rows,
          .A = A,
          .lda = d,
          .B = A,
          .ldb = d,
          .C = C,
          .ldc = d,
          .transpose_a = true},
         m.stream);
  };
  product(net.hidden, net.dim, net.width[1], R, net.weight[0], RW);
  square(net.hidden, RW, U);
  if (n) {
    relate(m, queries, 0, 1, scale, P, nullptr);
    product(v.n, net.dim, net.width[1], P, net.weight[0], G);
    launch("gradient rows", add_scaled_rows_kernel,
           {.grid = grid_of(n * d), .block = dim3(kThreads), .stream = m.stream}, G, v.x, scale,
           net.dim, n * d);
    gemm({.m = v.n,
          .n = net.dim,
          .k = v.n,
          .A = v.Cinv,
          .lda = v.ld,
          .B = G,
          .ldb = d,
          .C = V,
          .ldc = d,
          .lower_a = true},
         m.stream);
    square(v.n, V, VV);
  }
  launch("covariance", covariance_kernel,
         {.grid = grid_of(d * d), .block = dim3(kThreads), .stream = m.stream}, U, n ? VV : nullptr,
         slope, net.dim, all);
  copy(out, all, static_cast<std::size_t>(d * d) * sizeof(double), m.stream);
}

}  // namespace zopo
