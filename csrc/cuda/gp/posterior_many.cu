// The posterior at many points, for throughput: products of matrices, in chunks of points whose
// workspace is bounded. The CPU twin is gp/posterior.cpp.
//
//   result       computation
//   K            (n, q), by ntk_gram()
//   mean         K^T alpha
//   variance     from C^-1 K
//   gradient     D_l(X_q) D_l(X)^T, times alpha, times h_l(X), then back through the layers by
//                products
//   uncertainty  P and Q of cuda/gp/point.cuh for each point; A^-1 P by one product for a group of
//                points, n^2 w multiply-adds a point; c^T (A^-1 o X X^T) c by another product
#include "cuda/gp/point.cuh"
#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kWorkspace = std::int64_t{1} << 24;  // numbers: 128 MB
constexpr int kMaxPoints = 8192;                            // of a chunk

// Sum over the rows of (n, q) matrices, by blocks of 32 columns: sum_i A_ij B_ij, or sum_i A_ij B_i
// if B is a vector.
__device__ inline double column_sum(const double* A, const double* B, std::int64_t ld, int n, int q,
                                    bool vector, double* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + lane;
  double s = 0.0;
  if (j < q) {
#pragma unroll 4
    for (int i = warp; i < n; i += warps) s = fma(A[i * ld + j], vector ? B[i] : B[i * ld + j], s);
  }
  scratch[threadIdx.x] = s;
  __syncthreads();
  double total = 0.0;
  for (int p = 0; p < warps; ++p) total += scratch[p * 32 + lane];
  __syncthreads();
  return total;
}

// out_j = sum_i K_ij alpha_i
__global__ void __launch_bounds__(kThreads, 1)
    mean_kernel(const double* K, std::int64_t ld, int n, int q, const double* alpha, double* out) {
  const double s = column_sum(K, alpha, ld, n, q, true, shared_memory<double>());
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + threadIdx.x;
  if (threadIdx.x < 32 && j < q) out[j] = s;
}

// out_j = max(0, prior_j - sum_i A_ij B_ij - extra_j); a null extra counts as 0.
__global__ void __launch_bounds__(kThreads, 1)
    remains_kernel(const double* prior, const double* A, const double* B, std::int64_t ld, int n,
                   int q, const double* extra, double* out) {
  const double s = column_sum(A, B, ld, n, q, false, shared_memory<double>());
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + threadIdx.x;
  if (threadIdx.x < 32 && j < q) out[j] = fmax(prior[j] - s - (extra ? extra[j] : 0.0), 0.0);
}

// extra_g = sum over rows i and units u of T_i,g,u Q_i,g,u; a block a query.
__global__ void __launch_bounds__(kThreads, 1)
    group_sum_kernel(const double* T, const double* Q, int n, int w, std::int64_t ld,
                     double* extra) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const std::int64_t at = std::int64_t{blockIdx.x} * w;
  double s = 0.0;
  for (int i = thread / 32; i < n; i += kThreads / 32)
    for (int u = lane; u < w; u += 32) s = fma(T[i * ld + at + u], Q[i * ld + at + u], s);
  s = block_sum(s, shared_memory<double>());
  if (thread == 0) extra[blockIdx.x] = s;
}

// H = A^-1 o X X^T as a lower triangle with doubled off-diagonal entries, so that c^T H c is
// complete.
__global__ void __launch_bounds__(kThreads, 1)
    hadamard_kernel(const double* A, const double* M, std::int64_t ld, int n, double* H) {
  const std::int64_t i = blockIdx.x;
  for (int j = static_cast<int>(threadIdx.x); j <= i; j += kThreads)
    H[i * n + j] = A[i * ld + j] * M[i * ld + j] * (j < i ? 2.0 : 1.0);
}

// Zero v (q, width) where the queries' units are inactive; elsewhere keep v, or set it to `with`
// (width,) in each row.
__global__ void __launch_bounds__(kThreads, 1)
    mask_kernel(double* v, const double* with, const double* h, int hidden, int width,
                std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= size) return;
  const std::int64_t j = e / width, u = e % width;
  v[e] = h[j * hidden + u] > 0.0 ? (with ? with[u] : v[e]) : 0.0;
}

__global__ void __launch_bounds__(kThreads, 1)
    scale_columns_kernel(double* v, const double* by, int columns, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) v[e] *= by[e % columns];
}

// R = K - R
__global__ void __launch_bounds__(kThreads, 1)
    subtract_kernel(double* R, const double* K, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) R[e] = K[e] - R[e];
}

dim3 grid_of(std::int64_t entries, int each = kThreads) {
  return dim3(static_cast<unsigned>(divide_up<std::int64_t>(entries, each)));
}

struct Workspace {
  Queries queries;
  double *K, *V, *R, *c, *prior, *trace, *extra, *mean, *variance, *uncertainty;
  double *gradient, *gamma, *r, *next;  // of the gradient
  double *P, *Q, *T;                    // of a group of queries
};

// Lay out the workspace of q points whose uncertainties are computed in groups.
Workspace carve(const GpView& v, int q, int group, const PosteriorOut& out, Carver& c) {
  const std::int64_t n = v.n, d = v.net.dim, w = v.net.width[1], points = q;
  const int widest = *std::max_element(v.net.width + 1, v.net.width + v.net.layers + 1);
  Workspace s{};
  s.queries = {c.take(points * d), c.take(points * v.net.hidden), c.take(points * v.net.hidden), q};
  s.K = c.take(n * points);
  s.V = c.take(n * points);
  s.R = c.take(n * points);
  for (double** p : {&s.prior, &s.trace, &s.extra, &s.mean, &s.variance, &s.uncertainty})
    *p = c.take(points);
  if (out.gradient) {
    s.gradient = c.take(points * d);
    s.gamma = c.take(n * points);
    s.r = c.take(points * widest);
    s.next = c.take(points * widest);
  }
  if (out.uncertainty) {
    s.c = c.take(n * points);
    for (double** p : {&s.P, &s.Q, &s.T}) *p = c.take(n * group * w);
  }
  return s;
}

class Many {
 public:
  explicit Many(GpModel& m) : m_(m), v_(m.v), stream_(m.stream) {}

  void features(const Workspace& s) {
    ntk_features(*m_.network, s.queries.x, Precision::Double, static_cast<std::size_t>(s.queries.q),
                 s.queries.h, s.queries.D, Precision::Double, nullptr, stream_);
  }

  void kernel(const Workspace& s) {
    ntk_gram(*m_.network, v_.x, Precision::Double, static_cast<std::size_t>(v_.n), s.queries.x,
             Precision::Double, static_cast<std::size_t>(s.queries.q), GramPrecision::Float64, s.K,
             stream_);
  }

  // C^-1 K is refined once, because a product with a computed inverse is not backward stable.
  void moments(const Workspace& s) {
    const int n = v_.n, q = s.queries.q;
    GemmArguments product = {.m = n,
                             .n = q,
                             .k = n,
                             .A = v_.Cinv,
                             .lda = v_.ld,
                             .B = s.K,
                             .ldb = q,
                             .C = s.V,
                             .ldc = q,
                             .lower_a = true};
    gemm(product, stream_);
    product.A = v_.C;
    product.B = s.V;
    product.C = s.R;
    gemm(product, stream_);
    launch("residual", subtract_kernel,
           {.grid = grid_of(std::int64_t{n} * q), .block = dim3(kThreads), .stream = stream_}, s.R,
           s.K, std::int64_t{n} * q);
    product.A = v_.Cinv;
    product.B = s.R;
    product.C = s.V;
    product.add = true;
    gemm(product, stream_);
    columns("mean", mean_kernel, q, s.K, std::int64_t{q}, n, q, v_.alpha, s.mean);
    columns("variance", remains_kernel, q, s.prior, s.V, s.V, std::int64_t{q}, n, q,
            static_cast<const double*>(nullptr), s.variance);
  }

  // Compute r_l = sum_i alpha_i gamma_li h_l(X_i) of all queries at once, down through the layers.
  void gradients(const Workspace& s) {
    const NetworkView& net = v_.net;
    const int n = v_.n, q = s.queries.q, L = net.layers;
    double *r = s.r, *next = s.next;
    if (n == 0) {
      check(cudaMemsetAsync(
                s.gradient, 0,
                sizeof(double) * static_cast<std::size_t>(q) * static_cast<std::size_t>(net.dim),
                stream_),
            "cudaMemsetAsync");
      return;
    }
    // sum_i alpha_i h_L(X_i), shared by all queries
    gemm({.m = 1,
          .n = net.width[L],
          .k = n,
          .A = v_.alpha,
          .lda = n,
          .B = v_.h + net.offset[L],
          .ldb = net.hidden,
          .C = next,
          .ldc = net.width[L]},
         stream_);
    const double* with = next;
    for (int l = L; l >= 1; --l) {
      const int width = net.width[l], below = net.width[l - 1];
      const std::int64_t size = std::int64_t{q} * width;
      launch("mask", mask_kernel,
             {.grid = grid_of(size), .block = dim3(kThreads), .stream = stream_}, r, with,
             s.queries.h + net.offset[l], net.hidden, width, size);
      with = nullptr;
      gemm({.m = q,
            .n = n,
            .k = width,
            .A = s.queries.D + net.offset[l],
            .lda = net.hidden,
            .B = v_.D + net.offset[l],
            .ldb = net.hidden,
            .C = s.gamma,
            .ldc = n,
            .transpose_b = true},
           stream_);
      launch("times alpha", scale_columns_kernel,
             {.grid = grid_of(std::int64_t{q} * n), .block = dim3(kThreads), .stream = stream_},
             s.gamma, v_.alpha, n, std::int64_t{q} * n);
      double* to = l == 1 ? s.gradient : next;
      gemm({.m = q,
            .n = below,
            .k = width,
            .A = r,
            .lda = width,
            .B = net.weight[l - 1],
            .ldb = below,
            .C = to,
            .ldc = below},
           stream_);
      gemm({.m = q,
            .n = below,
            .k = n,
            .A = s.gamma,
            .lda = n,
            .B = l == 1 ? v_.x : v_.h + net.offset[l - 1],
            .ldb = l == 1 ? net.dim : net.hidden,
            .C = to,
            .ldc = below,
            .add = true},
           stream_);
      std::swap(r, next);
    }
  }

  void uncertainties(const Workspace& s, int group, const double* H) {
    const int n = v_.n, q = s.queries.q, w = v_.net.width[1];
    for (int from = 0; from < q; from += group) {
      const int count = std::min(group, q - from);
      relate(m_, s.queries, from, count, s.c, s.P, s.Q);
      gemm({.m = n,
            .n = count * w,
            .k = n,
            .A = v_.A,
            .lda = v_.ld,
            .B = s.P,
            .ldb = count * w,
            .C = s.T,
            .ldc = count * w},
           stream_);
      launch("explained", group_sum_kernel,
             {.grid = dim3(static_cast<unsigned>(count)),
              .block = dim3(kThreads),
              .shared = 40 * sizeof(double),
              .stream = stream_},
             s.T, s.Q, n, w, std::int64_t{count} * w, s.extra + from);
    }
    gemm({.m = n,
          .n = q,
          .k = n,
          .A = H,
          .lda = n,
          .B = s.c,
          .ldb = q,
          .C = s.V,
          .ldc = q,
          .lower_a = true},
         stream_);
    columns("uncertainty", remains_kernel, q, s.trace, s.c, s.V, std::int64_t{q}, n, q, s.extra,
            s.uncertainty);
  }

  template <class... P, class... A>
  void columns(const char* name, void (*kernel)(P...), int q, A... arguments) {
    launch(name, kernel,
           {.grid = grid_of(q, 32),
            .block = dim3(kThreads),
            .shared = kThreads * sizeof(double),
            .stream = stream_},
           arguments...);
  }

 private:
  GpModel& m_;
  const GpView& v_;
  cudaStream_t stream_;
};

std::size_t bytes(std::int64_t numbers) {
  return static_cast<std::size_t>(numbers) * sizeof(double);
}

}  // namespace

void posterior_many(GpModel& m, const double* X, std::size_t q, const PosteriorOut& out) {
  const GpView& v = m.v;
  const std::int64_t n = v.n, d = v.net.dim, w = v.net.width[1];
  // Points of a chunk, and of a group whose P, Q and A^-1 P are in memory at once.
  const auto at_most = [](std::int64_t each, std::int64_t limit) {
    return static_cast<int>(
        std::clamp(kWorkspace / 2 / std::max<std::int64_t>(each, 1), std::int64_t{1}, limit));
  };
  const auto points = static_cast<std::int64_t>(std::min<std::size_t>(q, kMaxPoints));
  const int chunk = at_most(6 * n + 2 * d + 2 * v.net.hidden + 3 * w, points);
  const int group = at_most(3 * n * w, chunk);
  Carver count(nullptr);
  (void)carve(v, chunk, group, out, count);
  const std::int64_t square = out.uncertainty ? n * n : 0;
  m.work.need(static_cast<std::size_t>(count.used() + square), m.stream);
  Many many(m);
  double* H = m.work.data() + count.used();
  if (out.uncertainty && n)
    launch("hadamard", hadamard_kernel,
           {.grid = dim3(static_cast<unsigned>(n)), .block = dim3(kThreads), .stream = m.stream},
           v.A, v.M, std::int64_t{v.ld}, v.n, H);
  for (std::size_t from = 0; from < q; from += static_cast<std::size_t>(chunk)) {
    const int size = static_cast<int>(std::min(q - from, static_cast<std::size_t>(chunk)));
    Carver carver(m.work.data());
    const Workspace s = carve(v, size, std::min(group, size), out, carver);
    copy(s.queries.x, X + from * static_cast<std::size_t>(d), bytes(size * d), m.stream);
    many.features(s);
    priors(m, s.queries, s.prior, out.uncertainty ? s.trace : nullptr);
    many.kernel(s);
    many.moments(s);
    if (out.gradient) many.gradients(s);
    if (out.uncertainty) many.uncertainties(s, std::min(group, size), H);
    const auto give = [&](double* to, const double* result, std::int64_t each) {
      if (to)
        copy(to + from * static_cast<std::size_t>(each), result, bytes(size * each), m.stream);
    };
    give(out.mean, s.mean, 1);
    give(out.variance, s.variance, 1);
    give(out.gradient, s.gradient, d);
    give(out.uncertainty, s.uncertainty, 1);
    synchronize(m.stream);  // the next chunk reuses the workspace
  }
}

}  // namespace zopo
