// The posterior at many points, for throughput: products of matrices, in chunks of points whose
// workspace is bounded; and the covariance of the gradient at one.
//
//   K (n, q) from X X_q^T and the features, a warp an entry; mean K^T alpha; variance from C^-1 K
//   gradient: D_l(X_q) D_l(X)^T, times alpha, times h_l(X), then back through the layers by
//   products uncertainty: P and Q of gp_point.cuh for each point, A^-1 P by one product for a group
//   of points, n^2 w multiply-adds a point, and c^T (A^-1 o X X^T) c by another
#include "cuda_gemm.cuh"
#include "gp_point.cuh"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kWorkspace = std::int64_t{256} << 17;  // numbers: 256 MB
constexpr int kMostPoints = 8192;                             // of a chunk

struct Queries {
  double* x;  // (q, d)
  double* h;  // (q, hidden)
  double* D;  // (q, hidden)
  int q;
};

// What relates observation i to query j; a block has a query and a warp an observation at a time.
struct RelateArguments {
  GpView v;
  Queries queries;
  int from;             // the first query of the blocks
  const double* inner;  // (n, ldq) X X_q^T
  std::int64_t ldq;
  double* K;         // (n, ldq), or null
  double* c;         // (n, ldq), or null
  double *P, *Q;     // (n, queries of the grid, width[1]), or null
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
    const std::int64_t of = i * net.hidden, at = i * a.ldq + query;
    const double k =
        kernel_value(net, s.h, s.D, a.v.h + of, a.v.D + of, a.inner[at], s.gamma, lane);
    __syncwarp();
    if (lane == 0 && a.K) a.K[at] = k;
    if (lane == 0 && a.c) a.c[at] = s.gamma[0];
    if (a.P) {
      const std::int64_t to = i * a.ldp + std::int64_t{group} * w;
      remainder_rows(net, s.h, a.v.h + of, a.v.S + i * w, s.gamma, s.row, a.widest, a.P + to,
                     a.Q ? a.Q + to : nullptr, lane);
    }
    __syncwarp();
  }
}

// k(x, x), and tr d^2k with `trace`; a block a query.
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
    const double k =
        kernel_value(net, s.h, s.D, s.h, s.D, warp_dot(x, x, net.dim, lane), nullptr, lane);
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

// Rows of sqrt(|D_l|^2) J_l = R W_0 over the hidden units, R (hidden, width[1]); a block a unit.
// And |D_0|^2 in slope[0].
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

// Sums over the rows of (n, q) matrices, by blocks of 32 columns: dot_j = sum_i K_ij weight_i, and
// out_j = max(0, prior_j - sum_i A_ij B_ij [- extra_j]).
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

__global__ void __launch_bounds__(kThreads, 1)
    mean_kernel(const double* K, std::int64_t ld, int n, int q, const double* alpha, double* out) {
  const double s = column_sum(K, alpha, ld, n, q, true, shared_memory<double>());
  const std::int64_t j = std::int64_t{blockIdx.x} * 32 + threadIdx.x;
  if (threadIdx.x < 32 && j < q) out[j] = s;
}

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

// H = A^-1 o X X^T as a lower triangle: c^T H c counts what lies off its diagonal twice.
__global__ void __launch_bounds__(kThreads, 1)
    hadamard_kernel(const double* A, const double* M, std::int64_t ld, int n, double* H) {
  const std::int64_t i = blockIdx.x;
  for (int j = static_cast<int>(threadIdx.x); j <= i; j += kThreads)
    H[i * n + j] = A[i * ld + j] * M[i * ld + j] * (j < i ? 2.0 : 1.0);
}

// v (q, width) <- `with` (width,) for each row, or v itself, where the units of the queries are on.
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

// R = K - R.
__global__ void __launch_bounds__(kThreads, 1)
    subtract_kernel(double* R, const double* K, std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) R[e] = K[e] - R[e];
}

// G_ij += c_i X_ij.
__global__ void __launch_bounds__(kThreads, 1)
    add_scaled_rows_kernel(double* G, const double* X, const double* c, int columns,
                           std::int64_t size) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e < size) G[e] = fma(c[e / columns], X[e], G[e]);
}

// out = U - V + slope[0] I, (d, d).
__global__ void __launch_bounds__(kThreads, 1)
    covariance_kernel(const double* U, const double* V, const double* slope, int d, double* out) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= std::int64_t{d} * d) return;
  out[e] = U[e] - (V ? V[e] : 0.0) + (e / d == e % d ? slope[0] : 0.0);
}

dim3 grid_of(std::int64_t entries, int each = kThreads) {
  return dim3(static_cast<unsigned>(divide_up<std::int64_t>(entries, each)));
}

// Numbers of the workspace, given out one after another, each from a multiple of 16 bytes on.
class Carver {
 public:
  explicit Carver(double* base) : base_(base) {}
  double* take(std::int64_t size) {
    double* p = base_ ? base_ + used_ : nullptr;
    used_ += (size + 1) / 2 * 2;
    return p;
  }
  std::int64_t used() const { return used_; }

 private:
  double* base_;
  std::int64_t used_ = 0;
};

struct Workspace {
  Queries queries;
  double *first, *inner, *K, *V, *R, *c, *prior, *trace, *extra, *mean, *variance, *uncertainty;
  double *gradient, *gamma, *r, *next;  // of the gradient
  double *P, *Q, *T;                    // of a group of queries
};

// A chunk of q points, their uncertainties in groups.
Workspace carve(const GpView& v, int q, int group, const PosteriorOut& out, Carver& c) {
  const std::int64_t n = v.n, d = v.net.dim, w = v.net.width[1], points = q;
  const int widest = *std::max_element(v.net.width + 1, v.net.width + v.net.layers + 1);
  Workspace s{};
  s.queries = {c.take(points * d), c.take(points * v.net.hidden), c.take(points * v.net.hidden), q};
  s.first = c.take(points * w);
  s.inner = c.take(n * points);
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

  void relate(const Workspace& s, int from, int count, double* K, double* c, double* P, double* Q) {
    const RelateArguments a = {
        v_,       s.queries, from, s.inner, s.queries.q,
        K,        c,         P,    Q,       std::int64_t{count} * v_.net.width[1],
        m_.widest};
    if (v_.n == 0) return;
    launch("kernel of many points", relate_kernel,
           {.grid = dim3(static_cast<unsigned>(count),
                         static_cast<unsigned>(std::min(64, divide_up(v_.n, m_.warps)))),
            .block = dim3(static_cast<unsigned>(32 * m_.warps)),
            .shared = shared(),
            .stream = stream_},
           a);
  }

  void inner_products(const Workspace& s) {
    gemm({.m = v_.n,
          .n = s.queries.q,
          .k = v_.net.dim,
          .A = v_.x,
          .lda = v_.net.dim,
          .B = s.queries.x,
          .ldb = v_.net.dim,
          .C = s.inner,
          .ldc = s.queries.q,
          .transpose_b = true},
         stream_);
  }

  // C^-1 K is refined once: a product with a computed inverse is not backward stable.
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

  // The r_l = sum_i alpha_i gamma_li h_l(X_i) of all queries at once, down through the layers.
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
    // sum_i alpha_i h_L(X_i), the same for all of them.
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
      relate(s, from, count, nullptr, s.c, s.P, s.Q);
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

  void priors(const Workspace& s, bool trace) {
    launch("prior", prior_kernel,
           {.grid = dim3(static_cast<unsigned>(s.queries.q)),
            .block = dim3(static_cast<unsigned>(32 * m_.warps)),
            .shared = shared(),
            .stream = stream_},
           v_.net, s.queries, m_.widest, s.prior, trace ? s.trace : nullptr);
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
  std::size_t shared() const { return point_shared(v_.net.hidden, m_.widest, m_.warps); }

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
  // Points a chunk, and of them in a group whose P, Q and A^-1 P are there at once.
  const auto most = [](std::int64_t each, std::int64_t limit) {
    return static_cast<int>(
        std::clamp(kWorkspace / 2 / std::max<std::int64_t>(each, 1), std::int64_t{1}, limit));
  };
  const auto points = static_cast<std::int64_t>(std::min<std::size_t>(q, kMostPoints));
  const int chunk = most(6 * n + 2 * d + 2 * v.net.hidden + 3 * w, points);
  const int group = most(3 * n * w, chunk);
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
    points_features(m, s.queries.x, size, s.first, s.queries.h, s.queries.D);
    many.inner_products(s);
    many.priors(s, out.uncertainty);
    many.relate(s, 0, size, s.K, nullptr, nullptr, nullptr);
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
    synchronize(m.stream);  // the workspace is used again
  }
}

// J_l = B_l W_0: |D_0|^2 I + (R W_0)^T R W_0 - (C^-1 G)^T C^-1 G with G = diag(c) X + P W_0.
void covariance_at(GpModel& m, const double* x, double* out) {
  const GpView& v = m.v;
  const NetworkView& net = v.net;
  const std::int64_t n = v.n, d = net.dim, w = net.width[1], hidden = net.hidden;
  m.work.need(static_cast<std::size_t>(2 * hidden + hidden * (w + d) + 2 * n * (d + 1) + n * w +
                                       3 * d * d + w + 64),
              m.stream);
  Carver c(m.work.data());
  Workspace s{};
  s.queries = {const_cast<double*>(x), c.take(hidden), c.take(hidden), 1};
  s.first = c.take(w);
  s.inner = c.take(n);
  s.c = c.take(n);
  s.P = c.take(n * w);
  double *R = c.take(hidden * w), *RW = c.take(hidden * d), *slope = c.take(2), *G = c.take(n * d),
         *V = c.take(n * d), *U = c.take(d * d), *VV = c.take(d * d), *all = c.take(d * d);
  points_features(m, x, 1, s.first, s.queries.h, s.queries.D);
  launch("jacobian", jacobian_kernel,
         {.grid = dim3(static_cast<unsigned>(hidden)),
          .block = dim3(32),
          .shared = 2 * sizeof(double) * static_cast<std::size_t>(m.widest),
          .stream = m.stream},
         net, s.queries.h, s.queries.D, m.widest, R, slope);
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
    Many many(m);
    many.inner_products(s);
    many.relate(s, 0, 1, nullptr, s.c, s.P, nullptr);
    product(v.n, net.dim, net.width[1], s.P, net.weight[0], G);
    launch("gradient rows", add_scaled_rows_kernel,
           {.grid = grid_of(n * d), .block = dim3(kThreads), .stream = m.stream}, G, v.x, s.c,
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
  copy(out, all, bytes(d * d), m.stream);
}

}  // namespace zopo
