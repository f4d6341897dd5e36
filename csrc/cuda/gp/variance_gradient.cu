// Gradient of the posterior's variance, dk(x, x)/dx - 2 G^T A^-1 k_x. The first part is twice the
// gradient of k by its first argument at x' = x. The second is the gradient of a function of
// gram(x, X) whose derivative is -2 A^-1 k_x. So W = -2 K(x, X) A^-1 is a matrix product, and the
// rest is cuda/ntk/gram_gradient.cu. No kernels of its own. The CPU twin is gp/posterior.cpp.
#include <algorithm>
#include <utility>

#include "cuda/gp/model.cuh"
#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/gram_gradient.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {

void variance_gradient(GpModel& m, const double* X, std::size_t q, double* out) {
  constexpr std::size_t kWorkspace = std::size_t{1} << 24;  // numbers: 128 MB
  const GpView& v = m.v;
  const auto n = static_cast<std::size_t>(v.n), d = static_cast<std::size_t>(v.net.dim),
             hidden = static_cast<std::size_t>(v.net.hidden);
  const auto even = [](std::size_t size) { return (size + 1) / 2 * 2; };  // 16 bytes
  const auto numbers = [&](std::size_t points) {
    return 2 * even(points * d) + 2 * even(points * hidden) + 2 * even(points * n) +
           gram_gradient_work(v.net, points, n);
  };
  const std::size_t chunk = std::clamp<std::size_t>(kWorkspace / numbers(1), 1, q);
  m.work.need(numbers(chunk), m.stream);
  for (std::size_t from = 0; from < q; from += chunk) {
    const std::size_t size = std::min(chunk, q - from);
    double* next = m.work.data();
    const auto take = [&](std::size_t count) { return std::exchange(next, next + even(count)); };
    double *x = take(size * d), *gradient = take(size * d), *h = take(size * hidden),
           *D = take(size * hidden), *K = take(size * n), *W = take(size * n);
    copy(x, X + from * d, size * d * sizeof(double), m.stream);
    ntk_features(*m.network, x, Precision::Double, size, h, D, Precision::Double, nullptr,
                 m.stream);
    if (n) {
      ntk_gram(*m.network, x, Precision::Double, size, v.x, Precision::Double, n,
               GramPrecision::Float64, K, m.stream);
      gemm({.m = static_cast<int>(size),
            .n = v.n,
            .k = v.n,
            .A = K,
            .lda = v.n,
            .B = v.A,
            .ldb = v.ld,
            .C = W,
            .ldc = v.n},
           m.stream);
      scale(W, -2.0, size * n, m.stream);
    }
    gram_gradient(v.net,
                  {.x = {size, x, h, D},
                   .y = {n, v.x, v.h, v.D},
                   .weight = W,
                   .own = 2.0,
                   .out = gradient,
                   .work = next},
                  m.stream);
    copy(out + from * d, gradient, size * d * sizeof(double), m.stream);
    synchronize(m.stream);  // the next chunk reuses the workspace
  }
}

}  // namespace zopo
