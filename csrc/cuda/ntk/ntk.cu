// Kernel of one point with many, its diagonal, its gradient and the trace of its second derivative,
// from points with their features. The CPU twin is ntk/ntk.cpp.
//
//   row_kernel  A warp for each of the many points makes all its inner products. It reads
//               8 (d + 2 hidden) bytes a point and does 2 flop a number, so memory bounds it: 165
//               points of d = 384, width 32, depth 2 are 0.68 MB, less than a microsecond beside
//               the launch.
//   gradient    G = diag(gamma_0) X + P W_0, where P (n, width[1]) comes layer by layer from
//               V_l = 1[h_l(x) > 0] o (V_{l+1} W_l + gamma_l h_l(X)): a gemm and an elementwise
//               kernel each, 2 n d width[1] flop in the last product.
//   trace       J_l = B_l W_0, so |J_l|^2 = sum(B_l o (B_l W_0 W_0^T)): a gemm of (width, width)
//               matrices, and a block that sums.
#include <algorithm>

#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/network.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;

__host__ __device__ inline std::int64_t as_index(std::size_t i) {
  return static_cast<std::int64_t>(i);
}
// Return the number of blocks for `size` numbers; threads take several numbers when there are many.
unsigned blocks_for(std::int64_t size) {
  return static_cast<unsigned>(
      std::min<std::int64_t>(divide_up<std::int64_t>(size, kThreads), 65536));
}

// Compute a.b over a warp; all lanes get it.
__device__ inline double warp_dot(const double* a, const double* b, int size) {
  double sum = 0.0;
#pragma unroll 4
  for (int k = static_cast<int>(threadIdx.x) % 32; k < size; k += 32) sum += a[k] * b[k];
  return warp_sum(sum);
}

// Pair each of the n points X with row i * step of `point`: step 0 for one point with all, 1 for
// each point with itself.
__global__ void __launch_bounds__(kThreads)
    row_kernel(const __grid_constant__ NetworkView net, PointsView point, std::int64_t step,
               PointsView X, double* k, double* gamma, const double* inner) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const std::int64_t n = as_index(X.n), j = i * step;
  if (i >= n) return;  // the whole warp
  const bool first = threadIdx.x % 32 == 0;
  double product = 0.0, total = 0.0;
  if (k) product = inner ? inner[i] : warp_dot(point.x + j * net.dim, X.x + i * net.dim, net.dim);
  for (int l = 1; l <= net.layers; ++l) {
    const int at = net.offset[l], width = net.width[l];
    const std::int64_t mine = j * net.hidden + at, other = i * net.hidden + at;
    const double g = warp_dot(point.D + mine, X.D + other, width);
    if (gamma && first) gamma[(l - 1) * n + i] = g;
    if (!k) continue;
    total += (product + 1.0) * g;
    product = warp_dot(point.h + mine, X.h + other, width);
  }
  if (gamma && first) gamma[net.layers * n + i] = 1.0;
  if (k && first) k[i] = total + (product + 1.0);
}

void row(const Network& net, PointsView point, std::int64_t step, PointsView X, double* k,
         double* gamma, const double* inner, cudaStream_t stream) {
  const auto on_device = cuda_network(net);
  launch("kernel row", row_kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up<std::size_t>(X.n, kThreads / 32))),
          .block = dim3(kThreads),
          .stream = stream},
         on_device->view, point, step, X, k, gamma, inner);
}

// V (n, width) <- 1[active] o (V + gamma h), h with leading dimension ldh. Without `add`, V is not
// read.
__global__ void __launch_bounds__(kThreads)
    back_kernel(double* V, std::int64_t n, int width, bool add, const double* gamma,
                const double* h, std::int64_t ldh, const double* active) {
  for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       at < n * width; at += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t i = at / width, j = at % width;
    const double v = gamma[i] * h[i * ldh + j];
    V[at] = active && !(active[j] > 0.0) ? 0.0 : add ? V[at] + v : v;
  }
}

// B (rows, columns) <- `from` without the inactive rows and columns; `from` may be B.
__global__ void __launch_bounds__(kThreads)
    active_kernel(double* B, const double* from, int rows, int columns, const double* row_active,
                  const double* column_active) {
  for (int at = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); at < rows * columns;
       at += static_cast<int>(gridDim.x) * kThreads) {
    const bool on =
        row_active[at / columns] > 0.0 && (!column_active || column_active[at % columns] > 0.0);
    B[at] = on ? from[at] : 0.0;
  }
}

// out <- |D_0|^2 d + |D_1|^2 times the sum of (W_0 W_0^T)_jj over the active units j. D_0 has
// width[1] numbers, D_1 has `next`, or none when it is D_L = 1. One block.
__global__ void __launch_bounds__(kThreads)
    first_trace_kernel(double* out, int dim, int width, const double* D0, const double* D1,
                       int next, const double* gram, const double* active) {
  auto* scratch = shared_memory<double>();
  double zero = 0.0, one = 0.0, norm = 0.0;
  for (int j = static_cast<int>(threadIdx.x); j < width; j += kThreads) {
    zero += D0[j] * D0[j];
    if (active[j] > 0.0) norm += gram[static_cast<std::int64_t>(j) * width + j];
  }
  for (int j = static_cast<int>(threadIdx.x); j < next; j += kThreads) one += D1[j] * D1[j];
  zero = block_sum(zero, scratch);
  one = D1 ? block_sum(one, scratch) : 1.0;
  norm = block_sum(norm, scratch);
  if (threadIdx.x == 0) *out = zero * dim + one * norm;
}

// out += |D_l|^2 sum(B o T) over `size` numbers; a null D is D_L = 1. One block.
__global__ void __launch_bounds__(kThreads)
    trace_kernel(double* out, const double* B, const double* T, int size, const double* D,
                 int width) {
  auto* scratch = shared_memory<double>();
  double sum = 0.0, weight = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) sum += B[i] * T[i];
  for (int j = static_cast<int>(threadIdx.x); D && j < width; j += kThreads) weight += D[j] * D[j];
  sum = block_sum(sum, scratch);
  weight = D ? block_sum(weight, scratch) : 1.0;
  if (threadIdx.x == 0) *out += weight * sum;
}

constexpr std::size_t kSumShared = 33 * sizeof(double);  // of block_sum

}  // namespace

void ntk_diag(const Network& net, PointsView a, double* out, void* stream) {
  row(net, a, 1, a, out, nullptr, nullptr, static_cast<cudaStream_t>(stream));
}

void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner, void* stream) {
  row(net, point, 0, X, k, gamma, inner, static_cast<cudaStream_t>(stream));
}

void ntk_gradient_rows(const Network& net, PointsView point, PointsView X, const double* gamma,
                       double* G, void* stream_) {
  if (X.n == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_);
  const auto on_device = cuda_network(net);
  const NetworkView& v = on_device->view;
  const auto n = static_cast<int>(X.n);
  const int widest = *std::max_element(v.width + 1, v.width + v.layers + 1);
  const std::size_t size = X.n * static_cast<std::size_t>(widest);
  Buffer<double> mine(size, stream), other(v.layers > 1 ? size : 0, stream);
  const auto back = [&](double* V, int width, bool add, int l, const double* h, std::int64_t ldh,
                        const double* active) {
    launch("gradient, elementwise", back_kernel,
           {.grid = dim3(blocks_for(std::int64_t{n} * width)),
            .block = dim3(kThreads),
            .stream = stream},
           V, n, width, add, gamma + std::int64_t{l} * n, h, ldh, active);
  };
  for (int l = v.layers; l >= 1; --l) {
    const int width = v.width[l], above = v.width[l + 1];
    if (l < v.layers) {
      gemm({.m = n,
            .n = width,
            .k = above,
            .A = mine.data(),
            .lda = above,
            .B = v.weight[l],
            .ldb = width,
            .C = other.data(),
            .ldc = width},
           stream);
      mine.swap(other);
    }
    back(mine.data(), width, l < v.layers, l, X.h + v.offset[l], v.hidden, point.h + v.offset[l]);
  }
  back(G, v.dim, false, 0, X.x, v.dim, nullptr);
  gemm({.m = n,
        .n = v.dim,
        .k = v.width[1],
        .A = mine.data(),
        .lda = v.width[1],
        .B = v.weight[0],
        .ldb = v.dim,
        .C = G,
        .ldc = v.dim,
        .add = true},
       stream);
}

void ntk_gradient_prior_trace(const Network& net, PointsView point, double* out, void* stream_) {
  auto* stream = static_cast<cudaStream_t>(stream_);
  const auto on_device = cuda_network(net);
  const NetworkView& v = on_device->view;
  const int first = v.width[1];
  const auto h = [&](int l) { return point.h + v.offset[l]; };
  const auto D = [&](int l) { return l < v.layers ? point.D + v.offset[l + 1] : nullptr; };
  const auto of_D = [&](int l) { return l < v.layers ? v.width[l + 1] : 0; };
  launch("trace, first layers", first_trace_kernel,
         {.grid = dim3(1), .block = dim3(kThreads), .shared = kSumShared, .stream = stream}, out,
         v.dim, first, D(0), D(1), of_D(1), v.first_gram, h(1));
  if (v.layers == 1) return;
  const int widest = *std::max_element(v.width + 1, v.width + v.layers + 1);
  const std::size_t size = static_cast<std::size_t>(widest) * static_cast<std::size_t>(first);
  Buffer<double> B(size, stream), other(size, stream);
  for (int l = 2; l <= v.layers; ++l) {
    const int width = v.width[l], inner = v.width[l - 1];
    const double* made = v.weight[1];  // B_2 before the inactive units are zeroed, since B_1 = I
    if (l > 2) {
      gemm({.m = width,
            .n = first,
            .k = inner,
            .A = v.weight[l - 1],
            .lda = inner,
            .B = B.data(),
            .ldb = first,
            .C = other.data(),
            .ldc = first},
           stream);
      B.swap(other);
      made = B.data();
    }
    launch("trace, active units", active_kernel,
           {.grid = dim3(blocks_for(std::int64_t{width} * first)),
            .block = dim3(kThreads),
            .stream = stream},
           B.data(), made, width, first, h(l), l == 2 ? h(1) : nullptr);
    gemm({.m = width,
          .n = first,
          .k = first,
          .A = B.data(),
          .lda = first,
          .B = v.first_gram,
          .ldb = first,
          .C = other.data(),
          .ldc = first},
         stream);
    launch("trace", trace_kernel,
           {.grid = dim3(1), .block = dim3(kThreads), .shared = kSumShared, .stream = stream}, out,
           B.data(), other.data(), width * first, D(l), of_D(l));
  }
}

}  // namespace zopo
