// Kernels of cuda/model/batch_models.cu, a block for each search. model/batch_models.hpp says
// what the operations do, model/local_gradient.hpp how.
#pragma once

#include "cuda/model/block.cuh"

namespace zopo {
namespace {

constexpr int kThreads = 256, kCenterThreads = 512;
constexpr int kBlocks = 2;  // resident on a multiprocessor; limits the registers

struct AppendItem {
  std::int64_t search, candidate;
  double y, noise;
  double explained;
  bool done;
};
struct CenterItem {
  std::int64_t search, candidate;
  double explained, prior;
};
struct StepItem {
  std::int64_t search;
  double length;
  std::int64_t index;
};
struct NearestItem {
  std::int64_t search, candidate, k, at;  // at: position of the first result
  bool available_only;
  std::int64_t found;
};
struct LikelihoodItem {
  std::int64_t search, y, work;  // y, work: positions of the scores and of the scratch
  double noise, value;
};
struct RefitItem {
  std::int64_t search, at;  // at: position of scores and noises
  std::int64_t left;
};

// Compute |l^T G|^2 of row n: u^T X X^T u + 2 q^T S^T u + q^T W_0 W_0^T q, u = c o l, q = P^T l.
__device__ double explained_by(const SearchView& s, const Shared& b, int n) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, w = s.net.width[1];
  const double* l = s.inverse + row_of_triangle(n);
  for (int j = t; j <= n; j += threads) s.u[j] = l[j] * s.c[j];
  __syncthreads();
  double sum = 0.0;
  row_dots(
      n + 1, [&](int i) { return s.M + row_of_triangle(i); }, [](int i) { return i; }, s.u,
      [&](int i, double inner) {
        sum += s.u[i] * (2.0 * inner + s.M[row_of_triangle(i) + i] * s.u[i]);
      });
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

// Compute k_i = sum_l (h_l . h_l(X_i) + 1) (D_l . D_l(X_i)) for i <= n, four observations a warp at
// a time.
__device__ void kernel_row(const SearchView& s, const Shared& b, int n, const double* inner,
                           double* k) {
  constexpr int kRows = 4;
  const NetworkView& net = s.net;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int first = kRows * warp; first <= n; first += kRows * warps) {
    std::int64_t row[kRows];
    double total[kRows] = {}, product[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int i = first + r <= n ? first + r : n;
      row[r] = static_cast<std::int64_t>(i) * net.hidden;
      product[r] = inner[i];
    }
    for (int l = 1; l <= net.layers; ++l) {
      double of_D[kRows] = {}, of_h[kRows] = {};
      for (int j = lane; j < net.width[l]; j += 32) {
        const int at = net.offset[l] + j;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          of_D[r] = fma(b.D[at], s.D[row[r] + at], of_D[r]);
          of_h[r] = fma(b.h[at], s.h[row[r] + at], of_h[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        total[r] = fma(product[r] + 1.0, warp_sum(of_D[r]), total[r]);
        product[r] = warp_sum(of_h[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (lane == 0 && first + r <= n) k[first + r] = total[r] + product[r] + 1.0;
  }
}

__global__ void __launch_bounds__(kThreads, kBlocks)
    batch_append(const SearchView* views, SearchState* states, AppendItem* items) {
  AppendItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
  SearchState& state = states[item.search];
  const NetworkView& net = s.net;
  const Shared b = carve(s);
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = t / 32;
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

  // Row n of X X^T and of K, including the diagonal.
  double* inner = s.M + row_of_triangle(n);
  by_precision(s, [&]<class T, int V>() {
    over_rows<T, V, false>(s, b, n + 1, [&](std::int64_t i) { return s.index[i]; }, inner);
  });
  __syncthreads();
  double* k = s.K + row_of_triangle(n);
  kernel_row(s, b, n, inner, k);
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
    s.taken[candidate / 32] |= 1u << (candidate % 32);
    state.n = n + 1;
    state.explained = explained;
    item.explained = explained;
    item.done = true;
  }
}

// Return the thread's share of sum_rj B_rj (B W_0 W_0^T)_rj.
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

// Compute T_i = C^-1 (P, Q) by rows, and return the thread's share of sum_i T_P W T_P + 2 T_P .
// T_Q.
__device__ double explained_by_remainders(const SearchView& s, int n) {
  constexpr int kRows = 4;  // rows that share each load of P and Q
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
    batch_center(const SearchView* views, SearchState* states, CenterItem* items) {
  CenterItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
  SearchState& state = states[item.search];
  const NetworkView& net = s.net;
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, w = net.width[1], n = state.n;
  if (state.center == item.candidate) {  // the candidate is the center already
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

  // B_l = diag(1[h_l > 0]) W_{l-1} B_{l-1}, where B_1 is the identity on the active units. The
  // prior is sum_l |D_l|^2 |B_l W_0|^2.
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

__global__ void __launch_bounds__(kThreads, kBlocks)
    batch_step(const SearchView* views, const SearchState* states, StepItem* items) {
  StepItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
  const NetworkView& net = s.net;
  const Shared b = carve(s);
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int n = states[item.search].n, w = net.width[1];

  // alpha = C^-T (C^-1 y - mean C^-1 1). Equal scores have no gradient; rounding would give one.
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
    __syncthreads();
    by_precision(s, [&]<class T, int V>() {
      combine_rows<T, V>(s, b, n, [&](int i) { return s.index[i]; }, s.u);
    });
    for (int j = t; j < s.d; j += threads) {
      double g = b.e[j] * s.inverse_scale[j];
#pragma unroll 8
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

__global__ void __launch_bounds__(kThreads, kBlocks)
    batch_nearest(const SearchView* views, NearestItem* items, Neighbor* results) {
  NearestItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
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

__global__ void __launch_bounds__(kThreads, kBlocks)
    batch_refit(const SearchView* views, SearchState* states, RefitItem* items, const double* ys,
                const double* noises) {
  RefitItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
  SearchState& state = states[item.search];
  const Shared b = carve(s);
  const double *y = ys + item.at, *noise = noises + item.at;
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, n = state.n;
  int other = 0;
  for (int i = t; i < n; i += threads) other |= noise[i] != s.noise[i];
  if (!__syncthreads_or(other)) {  // only the scores differ
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

// Compute -n/2 log a - 1/2 log det(K + noise I), a = y^T (K + noise I)^-1 y / n. The factor is made
// column by column, each entry a dot product of two rows; the scores are one more row, which
// becomes C^-1 y.
__global__ void __launch_bounds__(kThreads, kBlocks)
    batch_likelihood(const SearchView* views, const SearchState* states, LikelihoodItem* items,
                     const double* ys, double* work) {
  LikelihoodItem& item = items[blockIdx.x];
  const SearchView& s = views[item.search];
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t % 32, warp = t / 32, warps = threads / 32, n = states[item.search].n;
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
    __syncthreads();  // all threads have read the pivot
    for (int i = j + t; i <= n; i += threads) {
      double* of_i = i < n ? C + row_of_triangle(i) : z;
      of_i[j] = i == j ? root : of_i[j] / root;
    }
    __syncthreads();
    determinant += log(root);
    fit = fma(z[j], z[j], fit);
  }
  if (t == 0) item.value = -0.5 * n * log(fmax(fit / n, DBL_MIN)) - determinant;
}

}  // namespace

}  // namespace zopo
