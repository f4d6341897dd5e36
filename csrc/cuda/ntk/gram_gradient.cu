// Gradient of a function of a Gram matrix by its points, out_i = sum_j w_ij dk(x_i, y_j)/dx_i for q
// points x and n points y, as matrix products. The CPU twin is ntk/gram_gradient.cpp.
//
// With r_l = sum_j w_ij (D_l(x_i).D_l(y_j)) h_l(y_j) the sum is sum_l J_l(x_i)^T r_l. The J_l are
// never formed: from the last layer down, r <- (r o 1[h_l > 0]) W_{l-1} + r_{l-1}. Each layer takes
// a (q, n) product of the D_l, one of the weighted (q, n) matrix with h_l, and one of (q, width)
// with W. That is about 2 q n (d + 2 hidden) flops, with q n numbers written and read twice a
// layer. The single version is bound by its 3 (layers + 1) launches for few points, and by the
// products (cuda/linalg/gemm.cu) for many.
#include "cuda/ntk/gram_gradient.cuh"

#include <algorithm>

#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;

// Zero v (rows, width) where the unit is inactive; h_l is at h, a row every `hidden` numbers.
__global__ void __launch_bounds__(kThreads)
    gate_kernel(double* v, const double* h, std::int64_t hidden, int width, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size && !(h[e / width * hidden + e % width] > 0.0)) v[e] = 0.0;
}

__global__ void __launch_bounds__(kThreads)
    weigh_kernel(double* v, const double* weight, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) v[e] *= weight[e];
}

__global__ void __launch_bounds__(kThreads)
    scale_kernel(double* v, double factor, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) v[e] *= factor;
}

// Add own |D(x_i)|^2 h(x_i) to to_i, a block a point. A null D means |D| = 1. Rows of h are ldh
// apart, rows of D ldd.
__global__ void __launch_bounds__(kThreads)
    add_own_kernel(double* to, const double* h, std::int64_t ldh, int width, const double* D,
                   std::int64_t ldd, int width_of_D, double own) {
  double* scratch = shared_memory<double>();
  const std::int64_t i = blockIdx.x;
  double sum = 0.0;
  if (D)
    for (int u = static_cast<int>(threadIdx.x); u < width_of_D; u += kThreads)
      sum = fma(D[i * ldd + u], D[i * ldd + u], sum);
  sum = block_sum(sum, scratch);
  const double factor = D ? own * sum : own;
  for (int u = static_cast<int>(threadIdx.x); u < width; u += kThreads)
    to[i * width + u] = fma(factor, h[i * ldh + u], to[i * width + u]);
}

template <class... P, class... A>
void launch_each(const char* name, void (*kernel)(P...), std::int64_t size, cudaStream_t stream,
                 A... arguments) {
  launch(name, kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up<std::int64_t>(size, kThreads))),
          .block = dim3(kThreads),
          .stream = stream},
         arguments...);
}

int widest(const NetworkView& net) {
  return *std::max_element(net.width + 1, net.width + net.layers + 1);
}

}  // namespace

void scale(double* v, double factor, std::size_t size, cudaStream_t stream) {
  launch_each("scale", scale_kernel, static_cast<std::int64_t>(size), stream, v, factor,
              static_cast<std::int64_t>(size));
}

std::size_t gram_gradient_work(const NetworkView& net, std::size_t q, std::size_t n) {
  return q * (n + 2 * static_cast<std::size_t>(widest(net)));
}

void gram_gradient(const NetworkView& net, const GramGradient& a, cudaStream_t stream) {
  const int L = net.layers, q = static_cast<int>(a.x.n), n = static_cast<int>(a.y.n);
  if (q == 0) return;
  const std::int64_t pairs = std::int64_t{q} * n, rows = std::int64_t{q} * widest(net);
  double *gamma = a.work, *r = gamma + pairs, *next = r + rows;
  const auto own = [&](double* to, int l) {  // the term of x_i with itself in layer l
    if (a.own == 0.0) return;
    launch("own part", add_own_kernel,
           {.grid = dim3(static_cast<unsigned>(q)),
            .block = dim3(kThreads),
            .shared = 40 * sizeof(double),
            .stream = stream},
           to, l == 0 ? a.x.x : a.x.h + net.offset[l], l == 0 ? net.dim : net.hidden, net.width[l],
           l == L ? nullptr : a.x.D + net.offset[l + 1], net.hidden, l == L ? 0 : net.width[l + 1],
           a.own);
  };
  // Compute to (q, width_l) = weights (q, n) h_l(Y), or add it.
  const auto combine = [&](double* to, const double* weights, int l, bool add) {
    if (n > 0)
      gemm({.m = q,
            .n = net.width[l],
            .k = n,
            .A = weights,
            .lda = n,
            .B = l == 0 ? a.y.x : a.y.h + net.offset[l],
            .ldb = l == 0 ? net.dim : net.hidden,
            .C = to,
            .ldc = net.width[l],
            .add = add},
           stream);
    else if (!add)
      check(cudaMemsetAsync(to, 0,
                            sizeof(double) * static_cast<std::size_t>(q) *
                                static_cast<std::size_t>(net.width[l]),
                            stream),
            "cudaMemsetAsync");
  };
  combine(r, a.weight, L, false);
  own(r, L);
  for (int l = L; l >= 1; --l) {
    const int width = net.width[l], below = net.width[l - 1];
    const std::int64_t size = std::int64_t{q} * width;
    launch_each("gate", gate_kernel, size, stream, r, a.x.h + net.offset[l], net.hidden, width,
                size);
    if (n > 0) {
      gemm({.m = q,
            .n = n,
            .k = width,
            .A = a.x.D + net.offset[l],
            .lda = net.hidden,
            .B = a.y.D + net.offset[l],
            .ldb = net.hidden,
            .C = gamma,
            .ldc = n,
            .transpose_b = true},
           stream);
      launch_each("weigh", weigh_kernel, pairs, stream, gamma, a.weight, pairs);
    }
    double* to = l == 1 ? a.out : next;
    gemm({.m = q,
          .n = below,
          .k = width,
          .A = r,
          .lda = width,
          .B = net.weight[l - 1],
          .ldb = below,
          .C = to,
          .ldc = below},
         stream);
    combine(to, gamma, l - 1, true);
    own(to, l - 1);
    std::swap(r, next);
  }
}

}  // namespace zopo
