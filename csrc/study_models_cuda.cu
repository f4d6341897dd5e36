// The models of many independent searches on the device: every operation of all studies is one
// launch, a block a study (study_models.hpp says what the operations do, local_gradient.hpp how).
//
//   study_append      one observation more: features, row of K, row of C^-1, A^-1 += l l^T, and
//   what
//                     the row explains of the derivative's variance at the center
//   study_center      the network linearised at a new center, all observations seen from it
//   study_step        gradient at the center, and the nearest free candidate along it
//   study_nearest     k nearest candidates of a candidate
//   study_refit       C^-1 for other noises, from K
//   study_likelihood  Cholesky factor of K + noise I, a block for each noise
//
// One version of each. Traffic of a step with n = 128, d = 384, w = 32, depth 2 and 500 float16
// candidates: append reads C^-1 twice, A^-1, X X^T once (66 KB each) and writes A^-1 (66), 128 rows
// of the pool (98), W_0 (98), features and P, Q (200); the step reads C^-1 (66), P (33), 128 rows
// (98), W_0 (98) and the pool (384): about 1.4 MB a study, of which the weights and repeated rows
// often come from the second-level cache. At 4.8 TB/s that is 3.4 million studies a second. The
// scan is in float64 from the start (three operations an entry), so that it is exact in one pass;
// its distances differ from the CPU engine's by rounding alone, and are equal for equal rows.
#include <algorithm>
#include <map>
#include <vector>

#include "cuda_device.hpp"
#include "error.hpp"
#include "study_models.hpp"
#include "study_models_cuda.cuh"

namespace zopo {
namespace {

constexpr int kThreads = 256, kCenterThreads = 512;

struct AppendItem {
  std::int64_t study, candidate;
  double y, noise;
  double explained;
  bool done;
};
struct CenterItem {
  std::int64_t study, candidate;
  double explained, prior;
};
struct StepItem {
  std::int64_t study;
  double length;
  std::int64_t index;
};
struct NearestItem {
  std::int64_t study, candidate, k, at;  // at: of the first result
  bool available_only;
  std::int64_t found;
};
struct LikelihoodItem {
  std::int64_t study, y, work;  // positions of the scores and of the scratch
  double noise, value;
};
struct RefitItem {
  std::int64_t study, at;  // at: of scores and noises
  std::int64_t left;
};

// |l^T G|^2 of row n: u^T X X^T u + 2 q^T S^T u + q^T W_0 W_0^T q, u = c o l, q = P^T l.
__device__ double explained_by(const StudyView& s, const Shared& b, int n) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, w = s.net.width[1];
  const double* l = s.inverse + row_of_triangle(n);
  for (int j = t; j <= n; j += threads) s.u[j] = l[j] * s.c[j];
  __syncthreads();
  double sum = 0.0;
  for (int i = warp; i <= n; i += warps) {
    const double* M = s.M + row_of_triangle(i);
    const double inner = warp_dot(M, s.u, i);
    if (lane == 0) sum += s.u[i] * (2.0 * inner + M[i] * s.u[i]);
  }
  column_sums(
      n + 1, 2 * w, b, [](int) { return 0; },
      [&](int i, int j) {
        const std::int64_t row = static_cast<std::int64_t>(i) * w;
        return l[i] * (j < w ? s.P[row + j] : s.Q[row + j - w]);
      },
      b.q);
  for (int j = warp; j < w; j += warps) {
    const double Wq = warp_dot(s.net.first_gram + static_cast<std::int64_t>(j) * w, b.q, w);
    if (lane == 0) sum += b.q[j] * (Wq + 2.0 * b.q[w + j]);
  }
  return block_sum(sum, b.scratch);
}

__global__ void __launch_bounds__(kThreads, 2)
    study_append(const StudyView* views, StudyState* states, AppendItem* items) {
  AppendItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  StudyState& state = states[item.study];
  const NetworkView& net = s.net;
  const Shared b = carve(s);
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32;
  const int n = state.n, V = group_width(s);
  const std::int64_t center = state.center;
  const std::int64_t candidate = item.candidate;
  const double y = item.y, noise = item.noise;

  load_candidate(s, b, candidate);
  load_scales(s, b);
  features(net, b, s.S + static_cast<std::int64_t>(n) * net.width[1]);
  const std::int64_t mine = static_cast<std::int64_t>(n) * net.hidden;
  for (int j = t; j < net.hidden; j += threads) {
    s.h[mine + j] = b.h[j];
    s.D[mine + j] = b.D[j];
  }
  for (int j = t; j < s.d; j += threads) b.w[column_position(j, V)] = b.e[j] * s.inverse_scale[j];
  if (t == 0) s.index[n] = candidate;
  __syncthreads();

  // Row n of X X^T and of K, itself included.
  double* inner = s.M + row_of_triangle(n);
  over_rows<false>(s, b, n + 1, [&](std::int64_t i) { return s.index[i]; }, inner);
  __syncthreads();
  double* k = s.K + row_of_triangle(n);
  for (int i = warp; i <= n; i += warps) {
    const double *h = s.h + static_cast<std::int64_t>(i) * net.hidden,
                 *D = s.D + static_cast<std::int64_t>(i) * net.hidden;
    double total = 0.0, product = inner[i];
    for (int l = 1; l <= net.layers; ++l) {
      const int at = net.offset[l];
      total = fma(product + 1.0, warp_dot(b.D + at, D + at, net.width[l]), total);
      product = warp_dot(b.h + at, h + at, net.width[l]);
    }
    if (lane == 0) k[i] = total + product + 1.0;
  }
  __syncthreads();

  if (!factorise(s, b, n, noise)) {
    if (t == 0) item.done = false;
    return;
  }
  record(s, b, n, y, noise);
  double explained = 0.0;
  if (center >= 0) {
    if (warp == 0) follow(s, n);
    __syncthreads();
    explained = state.explained + explained_by(s, b, n);
  }
  __syncthreads();
  if (t == 0) {
    // Other blocks may set other bits of the word when studies share nothing but luck: they do not,
    // a study has its own bits, and one block.
    s.taken[candidate / 32] |= 1u << (candidate % 32);
    state.n = n + 1;
    state.explained = explained;
    item.explained = explained;
    item.done = true;
  }
}

// sum over r, j of B_rj (B W_0 W_0^T)_rj, the thread's share.
__device__ double trace_of(const double* B, const double* W, int rows, int w) {
  double sum = 0.0;
  for (int at = static_cast<int>(threadIdx.x); at < rows * w; at += static_cast<int>(blockDim.x)) {
    const double* row = B + at / w * w;
    const int j = at % w;
    double product = 0.0;
    for (int i = 0; i < w; ++i) product = fma(row[i], W[i * w + j], product);
    sum = fma(row[j], product, sum);
  }
  return sum;
}

// T_i = C^-1 (P, Q) by rows, and the thread's share of sum_i T_P W T_P + 2 T_P . T_Q.
__device__ double explained_by_remainders(const StudyView& s, int n) {
  constexpr int kRows = 4;  // that share each load of P and Q
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int warps = static_cast<int>(blockDim.x) / 32, w = s.net.width[1];
  for (int first = kRows * warp; first < n; first += kRows * warps) {
    const double* row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      row[r] = s.inverse + row_of_triangle(first + r < n ? first + r : n - 1);
    const int last = first + kRows < n ? first + kRows : n;
    for (int j = lane; j < 2 * w; j += 32) {
      const double* column = j < w ? s.P + j : s.Q + j - w;
      double sum[kRows] = {};
#pragma unroll 4
      for (int i = 0; i < last; ++i) {
        const double value = column[static_cast<std::int64_t>(i) * w];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          if (i <= first + r && first + r < n) sum[r] = fma(row[r][i], value, sum[r]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (first + r < n) s.T[static_cast<std::int64_t>(first + r) * 2 * w + j] = sum[r];
    }
  }
  __syncthreads();
  double total = 0.0;
  for (int i = warp; i < n; i += warps) {
    const double* T = s.T + static_cast<std::int64_t>(i) * 2 * w;
    for (int j = lane; j < w; j += 32) {
      const double* W = s.net.first_gram + static_cast<std::int64_t>(j) * w;
      double product = 2.0 * T[w + j];
      for (int k = 0; k < w; ++k) product = fma(W[k], T[k], product);
      total = fma(T[j], product, total);
    }
  }
  return total;
}

__global__ void __launch_bounds__(kCenterThreads, 1)
    study_center(const StudyView* views, StudyState* states, CenterItem* items) {
  CenterItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  StudyState& state = states[item.study];
  const NetworkView& net = s.net;
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, w = net.width[1], n = state.n;
  if (state.center == item.candidate) {  // it is there already
    if (t == 0) {
      item.explained = state.explained;
      item.prior = state.prior;
    }
    return;
  }
  const Shared b = carve(s);
  load_candidate(s, b, item.candidate);
  features(net, b, nullptr);
  for (int j = t; j < s.d; j += threads) s.cx[j] = b.e[j];
  for (int j = t; j < net.hidden; j += threads) {
    s.ch[j] = b.h[j];
    s.cD[j] = b.D[j];
  }
  const auto on = [&](int l, int j) { return b.h[net.offset[l] + j] > 0.0; };

  // B_l = diag(1[h_l > 0]) W_{l-1} B_{l-1}, B_1 the identity on the units that are on; the prior is
  // sum_l |D_l|^2 |B_l W_0|^2.
  const auto weight = [&](int l) {
    if (l == net.layers) return 1.0;
    const double* D = b.D + net.offset[l + 1];
    double sum = 0.0;
    for (int j = 0; j < net.width[l + 1]; ++j) sum = fma(D[j], D[j], sum);
    return sum;
  };
  double share = 0.0;
  for (int j = t; j < w; j += threads)
    if (on(1, j)) share += net.first_gram[j * w + j];
  share *= weight(1);
  double* B = s.B;
  const double* below = nullptr;
  for (int l = 2; l <= net.layers; ++l) {
    const int inner = net.width[l - 1];
    for (int at = t; at < net.width[l] * w; at += threads) {
      const int r = at / w, j = at % w;
      double sum = 0.0;
      if (on(l, r) && on(1, j)) {
        const double* W = net.weight[l - 1] + static_cast<std::int64_t>(r) * inner;
        if (l == 2)
          sum = W[j];
        else
          for (int i = 0; i < inner; ++i) sum = fma(W[i], below[i * w + j], sum);
      }
      B[at] = sum;
    }
    __syncthreads();
    share = fma(weight(l), trace_of(B, net.first_gram, net.width[l], w), share);
    below = B;
    B += static_cast<std::int64_t>(net.width[l]) * w;
  }
  const double prior = weight(0) * s.d + block_sum(share, b.scratch);

  for (int i = warp; i < n; i += warps) follow(s, i);
  __syncthreads();
  double total = explained_by_remainders(s, n);
  for (int i = warp; i < n; i += warps) {
    const double *A = s.A + row_of_triangle(i), *M = s.M + row_of_triangle(i);
    double sum = 0.0;
    for (int j = lane; j <= i; j += 32) sum = fma((j < i ? 2.0 : 1.0) * A[j] * M[j], s.c[j], sum);
    total = fma(s.c[i], sum, total);
  }
  const double explained = block_sum(total, b.scratch);
  if (t == 0) {
    state.center = item.candidate;
    state.explained = item.explained = explained;
    state.prior = item.prior = prior;
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    study_step(const StudyView* views, const StudyState* states, StepItem* items) {
  StepItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  const NetworkView& net = s.net;
  const Shared b = carve(s);
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int n = states[item.study].n, w = net.width[1];

  // alpha = C^-T (C^-1 y - mean C^-1 1). Equal scores have no gradient, whatever rounding says.
  double sum = 0.0;
  int differs = 0;
  for (int i = t; i < n; i += threads) {
    sum += s.y[i];
    differs |= s.y[i] != s.y[0];
  }
  const double mean = n ? block_sum(sum, b.scratch) / n : 0.0;
  double norm = 0.0;
  if (__syncthreads_or(differs)) {
    for (int i = t; i < n; i += threads) s.u[i] = s.z_y[i] - mean * s.z_1[i];
    column_sums(
        n, n, b, [](int j) { return j; },
        [&](int i, int j) { return s.u[i] * s.inverse[row_of_triangle(i) + j]; }, s.v);
    column_sums(
        n, w, b, [](int) { return 0; },
        [&](int i, int j) { return s.v[i] * s.P[static_cast<std::int64_t>(i) * w + j]; }, b.q);
    for (int i = t; i < n; i += threads) s.u[i] = s.v[i] * s.c[i];
    column_sums(
        n, s.d, b, [](int) { return 0; },
        [&](int i, int j) { return s.u[i] * (entry(s, s.index[i], j) - s.mean[j]); }, b.e);
    for (int j = t; j < s.d; j += threads) {
      double g = b.e[j] * s.inverse_scale[j];
      for (int i = 0; i < w; ++i)
        g = fma(b.q[i], net.weight[0][static_cast<std::int64_t>(i) * s.d + j], g);
      b.e[j] = g;
      norm = fma(g, g, norm);
    }
  } else {
    for (int j = t; j < s.d; j += threads) b.e[j] = 0.0;
  }
  norm = sqrt(block_sum(norm, b.scratch));
  const double scale = norm > 0.0 ? item.length / norm : 0.0;
  for (int j = t; j < s.d; j += threads) b.e[j] = fma(scale, b.e[j], s.cx[j]);
  all_distances(s, b);
  const Neighbor found = next_nearest(s, b, -1.0, -1, true);
  if (t == 0) item.index = found.index;
}

__global__ void __launch_bounds__(kThreads, 2)
    study_nearest(const StudyView* views, NearestItem* items, Neighbor* results) {
  NearestItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  const Shared b = carve(s);
  load_candidate(s, b, item.candidate);
  all_distances(s, b);
  Neighbor last{-1.0, -1};
  std::int64_t found = 0;
  while (found < item.k) {
    last = next_nearest(s, b, last.distance, last.index, item.available_only);
    if (last.index < 0) break;
    if (threadIdx.x == 0) results[item.at + found] = last;
    ++found;
  }
  if (threadIdx.x == 0) item.found = found;
}

__global__ void __launch_bounds__(kThreads, 2)
    study_refit(const StudyView* views, StudyState* states, RefitItem* items, const double* ys,
                const double* noises) {
  RefitItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  StudyState& state = states[item.study];
  const Shared b = carve(s);
  const double *y = ys + item.at, *noise = noises + item.at;
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, n = state.n;
  int other = 0;
  for (int i = t; i < n; i += threads) other |= noise[i] != s.noise[i];
  if (!__syncthreads_or(other)) {  // other scores alone
    for (int i = t; i < n; i += threads) s.y[i] = y[i];
    __syncthreads();
    for (int i = warp; i < n; i += warps) {
      const double z = warp_dot(s.inverse + row_of_triangle(i), s.y, i + 1);
      if (lane == 0) s.z_y[i] = z;
    }
    if (t == 0) item.left = n;
    return;
  }
  int left = 0;
  while (left < n && factorise(s, b, left, noise[left])) {
    record(s, b, left, y[left], noise[left]);
    ++left;
  }
  __syncthreads();
  if (t == 0) {
    state.n = left;
    state.center = -1;
    item.left = left;
  }
}

// -n/2 log a - 1/2 log det(K + noise I), a = y^T (K + noise I)^-1 y / n: the factor column by
// column, each entry a dot product of two rows; the scores are one row more, which becomes C^-1 y.
__global__ void __launch_bounds__(kThreads, 2)
    study_likelihood(const StudyView* views, const StudyState* states, LikelihoodItem* items,
                     const double* ys, double* work) {
  LikelihoodItem& item = items[blockIdx.x];
  const StudyView& s = views[item.study];
  const Shared b = carve(s);
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, n = states[item.study].n;
  const double* y = ys + item.y;
  double *C = work + item.work, *z = C + row_of_triangle(n);
  double determinant = 0.0, fit = 0.0;
  for (int j = 0; j < n; ++j) {
    const double* row = C + row_of_triangle(j);
    for (int i = j + warp; i <= n; i += warps) {
      double* of_i = i < n ? C + row_of_triangle(i) : z;
      const double a = i < n ? s.K[row_of_triangle(i) + j] + (i == j ? item.noise : 0.0) : y[j];
      const double value = a - warp_dot(of_i, row, j);
      if (lane == 0) of_i[j] = value;
    }
    __syncthreads();
    const double pivot = row[j];
    if (!(pivot > 0.0)) {
      if (t == 0) item.value = -HUGE_VAL;
      return;
    }
    const double root = sqrt(pivot);
    __syncthreads();  // everyone has read the pivot
    for (int i = j + t; i <= n; i += threads) {
      double* of_i = i < n ? C + row_of_triangle(i) : z;
      of_i[j] = i == j ? root : of_i[j] / root;
    }
    __syncthreads();
    determinant += log(root);
    fit = fma(z[j], z[j], fit);
  }
  if (t == 0) item.value = -0.5 * n * log(fmax(fit / n, DBL_MIN)) - determinant;
  (void)b;
}

}  // namespace

// ---- host
// ----------------------------------------------------------------------------------------

template <>
struct StudyModels<Cuda>::State {
  struct One {
    std::shared_ptr<const Network> net;
    std::shared_ptr<const CudaNetwork> weights;
    StudyView view{};
    std::size_t n = 0, capacity = 0;
    Buffer<double> fixed, growing;  // the center, scales; what grows with the observations
    Buffer<std::int64_t> index;
    Buffer<unsigned> taken;
    double explained = 0.0, prior = 0.0;
  };

  explicit State(int ordinal_) : ordinal(ordinal_) {
    const DeviceGuard guard(ordinal);
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~State() {
    try {
      const DeviceGuard guard(ordinal);
      studies.clear();
      for (auto* buffer : {&work, &scores}) *buffer = {};
      views = {};
      states = {};
      pools.clear();
      (void)cudaStreamDestroy(stream);
    } catch (...) {  // the context is gone, and all of this with it
    }
  }

  int ordinal;
  cudaStream_t stream = nullptr;
  std::vector<One> studies;
  std::map<const void*, Buffer<unsigned char>> pools;  // by the host's address
  Buffer<StudyView> views;
  Buffer<StudyState> states;
  Buffer<double> work, scores;
  Mailbox<unsigned char> items;
  Mailbox<Neighbor> neighbors;
  std::size_t shared = 0, shared_center = 0;

  void add(StudyModel& model);
  void grow(std::size_t study, std::size_t capacity);

  // Runs a kernel on items that it reads and changes where they lie in the host's memory.
  template <class Item, class... Rest, class... Arguments>
  void run(const char* name, void (*kernel)(Rest...), std::vector<Item>& batch, int threads,
           std::size_t bytes, Arguments... arguments) {
    if (batch.empty()) return;
    items.need(batch.size() * sizeof(Item));
    auto* where = reinterpret_cast<Item*>(items.data());
    std::copy(batch.begin(), batch.end(), where);
    const Launch how{dim3(static_cast<unsigned>(batch.size())),
                     dim3(static_cast<unsigned>(threads)), bytes, stream};
    [&]<class... Given>(Given... given) { launch(name, kernel, how, given...); }(arguments...);
    synchronize(stream);
    std::copy(where, where + batch.size(), batch.begin());
  }
  template <class Item>
  Item* place() {
    return reinterpret_cast<Item*>(items.data());
  }
};

namespace {

// Positions in one piece of memory, first counted, then handed out.
struct Layout {
  double* base = nullptr;
  std::size_t size = 0;
  void take(double*& p, std::size_t count) {
    if (base) p = base + size;
    size += (count + 1) / 2 * 2;
  }
};

void lay_out_growing(StudyView& v, std::size_t capacity, Layout& at) {
  const auto hidden = static_cast<std::size_t>(v.net.hidden),
             w = static_cast<std::size_t>(v.net.width[1]);
  const auto triangle =
      static_cast<std::size_t>(row_of_triangle(static_cast<std::int64_t>(capacity)));
  for (double** p : {&v.K, &v.inverse, &v.A, &v.M}) at.take(*p, triangle);
  for (double** p : {&v.h, &v.D}) at.take(*p, capacity * hidden);
  for (double** p : {&v.S, &v.P, &v.Q}) at.take(*p, capacity * w);
  for (double** p : {&v.y, &v.noise, &v.z_y, &v.z_1, &v.c, &v.k, &v.u, &v.v}) at.take(*p, capacity);
  at.take(v.T, 2 * capacity * w);
}

std::size_t bytes_of(Precision p) {
  return p == Precision::Half ? 2 : p == Precision::Single ? 4 : 8;
}

}  // namespace

void StudyModels<Cuda>::State::add(StudyModel& model) {
  One& s = studies.emplace_back();
  s.net = model.net;
  s.weights = cuda_network(*model.net);
  StudyView& v = s.view;
  v.net = s.weights->view;
  v.precision = model.precision;
  v.m = static_cast<std::int64_t>(model.m);
  v.d = static_cast<int>(model.d);
  const std::size_t bytes = model.m * model.d * bytes_of(model.precision);
  auto [pool, fresh] = pools.try_emplace(model.data);
  if (fresh || pool->second.size() < bytes) {
    pool->second = Buffer<unsigned char>(bytes, stream);
    copy(pool->second.data(), model.data, bytes, stream);
  }
  v.Z = pool->second.data();
  v.aligned = model.d * bytes_of(model.precision) % 16 == 0;
  const auto hidden = static_cast<std::size_t>(v.net.hidden);
  std::size_t products = 0;
  for (int l = 2; l <= v.net.layers; ++l)
    products += static_cast<std::size_t>(v.net.width[l]) * static_cast<std::size_t>(v.net.width[1]);
  double *mean = nullptr, *inverse_scale = nullptr;
  const auto lay_out = [&](Layout& at) {
    at.take(mean, model.d);
    at.take(inverse_scale, model.d);
    at.take(v.cx, model.d);
    at.take(v.ch, hidden);
    at.take(v.cD, hidden);
    at.take(v.B, products);
    at.take(v.distance, model.m);
  };
  Layout size;
  lay_out(size);
  s.fixed = Buffer<double>(size.size, stream);
  Layout at{s.fixed.data()};
  lay_out(at);
  copy(mean, model.mean.data(), model.d * sizeof(double), stream);
  copy(inverse_scale, model.inverse_scale.data(), model.d * sizeof(double), stream);
  v.mean = mean;
  v.inverse_scale = inverse_scale;
  const std::size_t words = (model.m + 31) / 32;
  s.taken = Buffer<unsigned>(words, stream);
  check(cudaMemsetAsync(s.taken.data(), 0, words * sizeof(unsigned), stream), "cudaMemsetAsync");
  v.taken = s.taken.data();
  grow(studies.size() - 1, std::max<std::size_t>(model.capacity, 8));
  const auto need = [&](int threads) {
    return shared_doubles(v.d, v.net.hidden, v.net.width[1], threads) * sizeof(double);
  };
  shared = std::max(shared, need(kThreads));
  shared_center = std::max(shared_center, need(kCenterThreads));
  const auto most = static_cast<std::size_t>(device_limits().shared_per_block);
  if (shared_center > most)
    throw ConfigError(
        "study " + std::to_string(studies.size() - 1) + ": dimension " + std::to_string(model.d) +
        " with " + std::to_string(hidden) + " hidden units needs " + std::to_string(shared_center) +
        " bytes of shared memory, the device has " + std::to_string(most) + "; use device='cpu'");
}

// Room for more observations; what is there is moved. The caller uploads the view.
void StudyModels<Cuda>::State::grow(std::size_t study, std::size_t capacity) {
  One& s = studies[study];
  StudyView after = s.view;
  Layout size;
  lay_out_growing(after, capacity, size);
  Buffer<double> room(size.size, stream);
  Layout at{room.data()};
  lay_out_growing(after, capacity, at);
  Buffer<std::int64_t> index(capacity, stream);
  const StudyView& before = s.view;
  const auto hidden = static_cast<std::size_t>(after.net.hidden),
             w = static_cast<std::size_t>(after.net.width[1]), n = s.n;
  const auto keep = [&](double* to, const double* from, std::size_t count) {
    copy(to, from, count * sizeof(double), stream);
  };
  const auto triangle = static_cast<std::size_t>(row_of_triangle(static_cast<std::int64_t>(n)));
  keep(after.K, before.K, triangle);
  keep(after.inverse, before.inverse, triangle);
  keep(after.A, before.A, triangle);
  keep(after.M, before.M, triangle);
  keep(after.h, before.h, n * hidden);
  keep(after.D, before.D, n * hidden);
  keep(after.S, before.S, n * w);
  keep(after.P, before.P, n * w);
  keep(after.Q, before.Q, n * w);
  keep(after.y, before.y, n);
  keep(after.noise, before.noise, n);
  keep(after.z_y, before.z_y, n);
  keep(after.z_1, before.z_1, n);
  keep(after.c, before.c, n);
  copy(index.data(), before.index, n * sizeof(std::int64_t), stream);
  after.index = index.data();
  s.growing = std::move(room);
  s.index = std::move(index);
  s.view = after;
  s.capacity = capacity;
}

template <>
StudyModels<Cuda>::StudyModels(std::vector<StudyModel> models, int ordinal) {
  require_cuda(ordinal);
  state_ = std::make_unique<State>(ordinal);
  const DeviceGuard guard(ordinal);
  auto& state = *state_;
  state.studies.reserve(models.size());
  for (auto& model : models) state.add(model);
  std::vector<StudyView> views;
  for (const auto& s : state.studies) views.push_back(s.view);
  state.views = Buffer<StudyView>(views.size(), state.stream);
  copy(state.views.data(), views.data(), views.size() * sizeof(StudyView), state.stream);
  const std::vector<StudyState> fresh(models.size(), StudyState{-1, 0, 0.0, 0.0});
  state.states = Buffer<StudyState>(fresh.size(), state.stream);
  copy(state.states.data(), fresh.data(), fresh.size() * sizeof(StudyState), state.stream);
  synchronize(state.stream);
}
template <>
StudyModels<Cuda>::~StudyModels() = default;
template <>
StudyModels<Cuda>::StudyModels(StudyModels&&) noexcept = default;

template <>
void StudyModels<Cuda>::append(std::span<Append> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<AppendItem> batch;
  for (const auto& item : items) {
    auto& s = state.studies[item.study];
    if (s.n == s.capacity) {
      state.grow(item.study, s.capacity + s.capacity / 2);
      copy(state.views.data() + item.study, &s.view, sizeof(StudyView), state.stream);
    }
    batch.push_back(
        {static_cast<std::int64_t>(item.study), item.candidate, item.y, item.noise, 0.0, false});
  }
  state.items.need(batch.size() * sizeof(AppendItem));
  state.run("study_append", study_append, batch, kThreads, state.shared,
            static_cast<const StudyView*>(state.views.data()), state.states.data(),
            state.place<AppendItem>());
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto& s = state.studies[items[i].study];
    items[i].done = batch[i].done;
    if (!batch[i].done) continue;
    ++s.n;
    s.explained = batch[i].explained;
  }
}

template <>
void StudyModels<Cuda>::center(std::span<const Center> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<CenterItem> batch;
  for (const auto& item : items)
    batch.push_back({static_cast<std::int64_t>(item.study), item.candidate, 0.0, 0.0});
  state.items.need(batch.size() * sizeof(CenterItem));
  state.run("study_center", study_center, batch, kCenterThreads, state.shared_center,
            static_cast<const StudyView*>(state.views.data()), state.states.data(),
            state.place<CenterItem>());
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto& s = state.studies[items[i].study];
    s.explained = batch[i].explained;
    s.prior = batch[i].prior;
  }
}

template <>
void StudyModels<Cuda>::refit(std::span<Refit> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<RefitItem> batch;
  std::vector<double> numbers;
  std::size_t count = 0;
  for (const auto& item : items) {
    batch.push_back({static_cast<std::int64_t>(item.study), static_cast<std::int64_t>(count), 0});
    count += state.studies[item.study].n;
  }
  for (const double* Refit::* which : {&Refit::y, &Refit::noise})
    for (const auto& item : items)
      numbers.insert(numbers.end(), item.*which, item.*which + state.studies[item.study].n);
  state.scores.need(numbers.size(), state.stream);
  copy(state.scores.data(), numbers.data(), numbers.size() * sizeof(double), state.stream);
  state.items.need(batch.size() * sizeof(RefitItem));
  const double* ys = state.scores.data();
  state.run("study_refit", study_refit, batch, kThreads, state.shared,
            static_cast<const StudyView*>(state.views.data()), state.states.data(),
            state.place<RefitItem>(), ys, ys + count);
  for (std::size_t i = 0; i < items.size(); ++i)
    state.studies[items[i].study].n = items[i].left = static_cast<std::size_t>(batch[i].left);
}

template <>
void StudyModels<Cuda>::log_likelihood(std::span<Likelihood> items) {
  constexpr std::size_t kMostDoubles = std::size_t{1} << 26;  // of scratch: half a gigabyte
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  for (std::size_t begin = 0; begin < items.size();) {
    std::vector<LikelihoodItem> batch;
    std::vector<double> numbers;
    std::size_t scratch = 0, end = begin;
    for (; end < items.size(); ++end) {
      const auto& item = items[end];
      const std::size_t n = state.studies[item.study].n;
      const std::size_t room = n * (n + 1) / 2 + n;
      if (end > begin && scratch + room > kMostDoubles) break;
      batch.push_back({static_cast<std::int64_t>(item.study),
                       static_cast<std::int64_t>(numbers.size()),
                       static_cast<std::int64_t>(scratch), item.noise, 0.0});
      numbers.insert(numbers.end(), item.y, item.y + n);
      scratch += room;
    }
    state.work.need(scratch, state.stream);
    state.scores.need(numbers.size(), state.stream);
    copy(state.scores.data(), numbers.data(), numbers.size() * sizeof(double), state.stream);
    state.items.need(batch.size() * sizeof(LikelihoodItem));
    state.run("study_likelihood", study_likelihood, batch, kThreads, state.shared,
              static_cast<const StudyView*>(state.views.data()),
              static_cast<const StudyState*>(state.states.data()), state.place<LikelihoodItem>(),
              static_cast<const double*>(state.scores.data()), state.work.data());
    for (std::size_t i = begin; i < end; ++i) items[i].value = batch[i - begin].value;
    begin = end;
  }
}

template <>
void StudyModels<Cuda>::step(std::span<Step> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<StepItem> batch;
  for (const auto& item : items)
    batch.push_back({static_cast<std::int64_t>(item.study), item.length, -1});
  state.items.need(batch.size() * sizeof(StepItem));
  state.run("study_step", study_step, batch, kThreads, state.shared,
            static_cast<const StudyView*>(state.views.data()),
            static_cast<const StudyState*>(state.states.data()), state.place<StepItem>());
  for (std::size_t i = 0; i < items.size(); ++i) items[i].index = batch[i].index;
}

template <>
void StudyModels<Cuda>::nearest(std::span<Nearest> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<NearestItem> batch;
  std::size_t results = 0;
  for (const auto& item : items) {
    const auto k = std::min(item.k, static_cast<std::size_t>(state.studies[item.study].view.m));
    batch.push_back({static_cast<std::int64_t>(item.study), item.candidate,
                     static_cast<std::int64_t>(k), static_cast<std::int64_t>(results),
                     item.available_only, 0});
    results += k;
  }
  state.neighbors.need(results);
  state.items.need(batch.size() * sizeof(NearestItem));
  state.run("study_nearest", study_nearest, batch, kThreads, state.shared,
            static_cast<const StudyView*>(state.views.data()), state.place<NearestItem>(),
            state.neighbors.data());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Neighbor* from = state.neighbors.data() + batch[i].at;
    items[i].found.assign(from, from + batch[i].found);
  }
}

// The append that follows marks it: no study is scanned between being asked and being told.
template <>
void StudyModels<Cuda>::take(std::size_t, std::int64_t) {}

template <>
double StudyModels<Cuda>::relative_uncertainty(std::size_t study) const {
  const auto& s = state_->studies[study];
  return s.prior > 0.0 ? std::max(0.0, 1.0 - s.explained / s.prior) : 0.0;
}

}  // namespace zopo
