// The factor A = C C^T of the observed points' kernel matrix, kept with C^-1, on a device: append
// one row, remove a row. The CPU twin is gp/cholesky.cpp.
//
//   append  One cooperative launch, for latency. The new row of C is (c, sqrt(pivot)), c = C^-1 k,
//           and that of C^-1 is (-C^-T c, 1) / sqrt(pivot). A product with a computed inverse is
//           not backward stable, so c is refined once, c += C^-1 (k - C c). Then |k - C c| is at
//           the rounding level of |C| |c|, as after a substitution (Higham 2002, sec. 12). The
//           point is read from page-locked host memory, which saves a copy that the launch would
//           wait for. Reads d (n + w) numbers for the features and x.X_i, 2 n hidden for k, and
//           2.5 n^2 of the triangles; seven barriers of the grid. At n = 256, d = 768, w = 32 that
//           is 1.8 MB + 1.3 MB from L2; the barriers take most of the time.
//   remove  Givens rotations fold the old column i of C into the later ones: C Q = [C' 0] in the
//           remaining rows, so Q^T C^-1 without row and column i is the inverse of C'. The same
//           rotations thus act on columns of C and on rows of C^-1; both are orthogonal, hence
//           stable, and no pivot can fail. The rotations follow from C alone, one after another: a
//           warp finds 32 at a time, the grid then applies them to the rows below. O((n - i) n).
#include "cuda/gp/point.cuh"

namespace zopo {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 32;  // rotations between two barriers of the grid
// Numbers loaded before the first store. No load can pass a store, because the compiler does not
// know that they do not overlap.
constexpr int kLoadsInFlight = 8;

struct AppendArguments {
  GpView v;
  const double* from;  // (d + 2): x, y, noise; or null
  double jitter;
  double *k, *c, *r;  // (n) each
  unsigned* words;
  int* status;
  int widest;
  bool with_alpha, with_inverse;
};

__global__ void __launch_bounds__(kThreads, 1)
    append_kernel(const __grid_constant__ AppendArguments a) {
  const GpView& v = a.v;
  const NetworkView& net = v.net;
  const int n = v.rows, d = net.dim, w = net.width[1];
  const std::int64_t ld = v.ld, at = n;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * warps + warp;
  const int all = static_cast<int>(gridDim.x) * warps;
  const PointShared s = point_memory(net.hidden, a.widest);
  const double* x = v.x + at * d;
  double *S = v.S + at * w, *M = v.M + at * ld, *row = v.C + at * ld, *inverse = v.Cinv + at * ld;

  // Read the host's memory once, not by every warp.
  if (a.from) {
    for (int e = static_cast<int>(blockIdx.x * blockDim.x) + thread; e < d + 2;
         e += static_cast<int>(gridDim.x * blockDim.x))
      *(e < d ? v.x + at * d + e : e == d ? v.y + at : v.noise + at) = a.from[e];
    grid_barrier(a.words);
  }

  // W_0 x and x.X_i
  for (int item = first; item < w + n + 1; item += all) {
    const int i = item - w;
    const double* other =
        i < 0 ? net.weight[0] + static_cast<std::int64_t>(item) * d : v.x + std::int64_t{i} * d;
    const double inner = warp_dot(other, x, d, lane);
    if (lane == 0) (i < 0 ? S[item] : M[i]) = inner;
  }
  grid_barrier(a.words);

  point_features(net, S, s.h, s.D);
  if (blockIdx.x == 0)
    for (int u = thread; u < net.hidden; u += static_cast<int>(blockDim.x)) {
      v.h[at * net.hidden + u] = s.h[u];
      v.D[at * net.hidden + u] = s.D[u];
    }
  for (int i = first; i <= n; i += all) {
    const std::int64_t of = std::int64_t{i} * net.hidden;
    const double k =
        kernel_value(net, s.h, s.D, i < n ? v.h + of : s.h, i < n ? v.D + of : s.D, M[i], lane);
    if (lane == 0) a.k[i] = k;
  }
  grid_barrier(a.words);

  for (int i = first; i < n; i += all) {
    const double c = warp_dot(v.Cinv + i * ld, a.k, i + 1, lane);
    if (lane == 0) a.c[i] = c;
  }
  grid_barrier(a.words);
  for (int i = first; i < n; i += all) {
    const double product = warp_dot(v.C + i * ld, a.c, i + 1, lane);
    if (lane == 0) a.r[i] = a.k[i] - product;
  }
  grid_barrier(a.words);
  for (int i = first; i < n; i += all) {
    const double correction = warp_dot(v.Cinv + i * ld, a.r, i + 1, lane);
    if (lane == 0) row[i] = a.c[i] + correction;
  }
  grid_barrier(a.words);

  double square = 0.0, fitted = 0.0;
  for (int i = thread; i < n; i += static_cast<int>(blockDim.x)) {
    square = fma(row[i], row[i], square);
    fitted = fma(row[i], v.z[i], fitted);
  }
  square = block_sum(square, s.scratch);
  fitted = block_sum(fitted, s.scratch);
  const double diagonal = a.k[n] + v.noise[n] + a.jitter, pivot = diagonal - square;
  constexpr double kEpsilon = 2.220446049250313e-16;
  if (!(pivot > 4.0 * static_cast<double>(n + 1) * kEpsilon * diagonal)) {  // alike in all blocks
    if (blockIdx.x == 0 && thread == 0) *a.status = 1;
    return;
  }
  const double root = sqrt(pivot), z = (v.y[n] - fitted) / root;
  for (int group = static_cast<int>(blockIdx.x); group * 32 <= n;
       group += static_cast<int>(gridDim.x)) {
    const int j = group * 32 + lane;
    const double total = transposed_times(v.Cinv, ld, n, row, group, s.lanes);
    if (warp == 0 && j <= n) {
      const double l = j < n ? -total / root : 1.0 / root;
      inverse[j] = l;
      // Sum over the rows of C^-1 in the order of cuda/gp/inverse.cu, to get the same bits.
      if (a.with_alpha) v.alpha[j] = fma(z, l, j < n ? v.alpha[j] : 0.0);
    }
  }
  if (blockIdx.x == 0 && thread == 0) {
    row[n] = root;
    v.z[n] = z;
  }
  if (!a.with_inverse) return;
  grid_barrier(a.words);
  for (int i = first; i <= n; i += all)
    for (int from = lane; from <= n; from += 32 * kLoadsInFlight) {
      double* entry = v.A + i * ld + from;
      double before[kLoadsInFlight], product[kLoadsInFlight];
#pragma unroll
      for (int p = 0; p < kLoadsInFlight; ++p) {
        const int j = from + 32 * p;
        before[p] = i < n && j < n ? entry[32 * p] : 0.0;
        product[p] = j <= n ? inverse[j] : 0.0;
      }
      const double own = inverse[i];
#pragma unroll
      for (int p = 0; p < kLoadsInFlight; ++p)
        if (from + 32 * p <= n) entry[32 * p] = fma(own, product[p], before[p]);
    }
}

// ---- remove ------------------------------------------------------------------------------------

struct RotateArguments {
  const double* C;  // (n, n)
  double* to;       // (n - 1, n - 1)
  std::int64_t ld;
  int n, i;
  double *cosine, *sine, *left;  // (n) each; left: remaining entries of the old column
  unsigned* words;
};

// Apply rotations [from, from + kTile) to row r, whose entry of the old column is x; return the
// remaining entry.
__device__ inline double rotate_row(const RotateArguments& a, int r, int from, double x) {
  const double* row = a.C + r * a.ld;
  double* to = a.to + (r - 1) * a.ld;
  for (int j = from; j < from + kTile; j += kLoadsInFlight) {
    double c[kLoadsInFlight], cosine[kLoadsInFlight], sine[kLoadsInFlight];
#pragma unroll
    for (int e = 0; e < kLoadsInFlight; ++e) {
      c[e] = row[j + e];
      cosine[e] = a.cosine[j + e];
      sine[e] = a.sine[j + e];
    }
#pragma unroll
    for (int e = 0; e < kLoadsInFlight; ++e) {
      to[j + e - 1] = cosine[e] * c[e] + sine[e] * x;
      x = cosine[e] * x - sine[e] * c[e];
    }
  }
  return x;
}

// Find the rotations of the columns [from, from + kTile), by a warp with a row for each lane.
__device__ inline void find_rotations(const RotateArguments& a, int from, double x, int lane) {
  const int r = from + lane;
  const double* row = a.C + r * a.ld;
  double* to = a.to + (r - 1) * a.ld;
  for (int begin = 0; begin < kTile && from + begin < a.n; begin += kLoadsInFlight) {
    double entry[kLoadsInFlight];
#pragma unroll
    for (int e = 0; e < kLoadsInFlight; ++e)
      entry[e] = r < a.n && lane >= begin + e ? row[from + begin + e] : 0.0;
#pragma unroll
    for (int e = 0; e < kLoadsInFlight; ++e) {
      const int k = begin + e, j = from + k;
      if (j >= a.n) break;  // the whole warp
      const double c = entry[e];
      const double diagonal = __shfl_sync(kFullWarp, c, k), other = __shfl_sync(kFullWarp, x, k);
      const double root = hypot(diagonal, other);
      const double cosine = diagonal / root, sine = other / root;
      if (lane == k) {
        to[j - 1] = root;
        a.cosine[j] = cosine;
        a.sine[j] = sine;
      } else if (lane > k && r < a.n) {
        to[j - 1] = cosine * c + sine * x;
        x = cosine * x - sine * c;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    rotate_factor_kernel(const __grid_constant__ RotateArguments a) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int first = static_cast<int>(blockIdx.x) * kThreads + thread;
  const int all = static_cast<int>(gridDim.x) * kThreads;
  for (int r = first / 32; r < a.n; r += all / 32)
    if (r != a.i)
      for (int j = lane; j < a.i && j <= r; j += 32)
        a.to[(r - (r > a.i)) * a.ld + j] = a.C[r * a.ld + j];

  int from = a.i + 1;
  if (first < 32)
    find_rotations(a, from, from + lane < a.n ? a.C[(from + lane) * a.ld + a.i] : 0.0, lane);
  for (; from < a.n; from += kTile) {
    grid_barrier(a.words);
    const int next = from + kTile;
    const auto old = [&](int r) { return from == a.i + 1 ? a.C[r * a.ld + a.i] : a.left[r]; };
    if (first < 32) {
      if (next >= a.n) continue;
      const int r = next + lane;
      const double x = r < a.n ? rotate_row(a, r, from, old(r)) : 0.0;
      __syncwarp();
      find_rotations(a, next, x, lane);
    } else {
      for (int r = next + kTile + first - 32; r < a.n; r += all - 32)
        a.left[r] = rotate_row(a, r, from, old(r));
    }
  }
}

// Apply the same rotations to the rows of C^-1, a thread for each column.
__global__ void __launch_bounds__(kThreads, 1)
    rotate_inverse_kernel(const double* __restrict__ from, double* __restrict__ to, std::int64_t ld,
                          int n, int i, const double* __restrict__ cosine,
                          const double* __restrict__ sine) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= n || k == i) return;
#pragma unroll 8
  for (int r = k; r < i; ++r) to[r * ld + k] = from[r * ld + k];
  double x = k < i ? from[i * ld + k] : 0.0;
  const int column = k - (k > i);
#pragma unroll 8
  for (int j = max(i + 1, k); j < n; ++j) {
    const double value = from[j * ld + k];
    to[(j - 1) * ld + column] = cosine[j] * value + sine[j] * x;
    x = cosine[j] * x - sine[j] * value;
  }
}

// Copy a lower triangle without row and column i; a block a row.
__global__ void __launch_bounds__(kThreads, 1)
    drop_kernel(const double* from, double* to, std::int64_t ld, int i) {
  const int r = static_cast<int>(blockIdx.x);
  if (r == i) return;
  for (int j = static_cast<int>(threadIdx.x); j <= r; j += static_cast<int>(blockDim.x))
    if (j != i) to[(r - (r > i)) * ld + j - (j > i)] = from[r * ld + j];
}

struct RowArrays {
  double* data[6];
  int columns[6];
};

// Move rows after i up by one, in place; each thread moves one column of one of the arrays.
__global__ void __launch_bounds__(kThreads, 1)
    shift_rows_kernel(const __grid_constant__ RowArrays arrays, int n, int i) {
  int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), which = 0;
  while (which < 6 && k >= arrays.columns[which]) k -= arrays.columns[which++];
  if (which == 6) return;
  const std::int64_t columns = arrays.columns[which];
  double* column = arrays.data[which] + k;
  int r = i;
  for (; r + 8 < n; r += 8) {  // issue eight loads before the stores
    double row[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) row[j] = column[(r + 1 + j) * columns];
#pragma unroll
    for (int j = 0; j < 8; ++j) column[(r + j) * columns] = row[j];
  }
  for (; r + 1 < n; ++r) column[r * columns] = column[(r + 1) * columns];
}

int at_most_resident(int blocks) {
  return std::max(1, std::min(blocks, device_limits().multiprocessors));
}

}  // namespace

void append_row(GpModel& m, GpView v, const double* from, double jitter, bool with_alpha,
                bool with_inverse) {
  const int n = v.rows;
  const auto room = static_cast<std::size_t>(v.ld);
  m.work.need(3 * room, m.stream);
  double* work = m.work.data();
  const AppendArguments a = {v,
                             from,
                             jitter,
                             work,
                             work + room,
                             work + 2 * room,
                             m.words.data(),
                             m.status.data(),
                             m.widest,
                             with_alpha,
                             with_inverse};
  const int blocks = at_most_resident(divide_up(n + 1 + v.net.width[1], m.warps));
  launch("append", append_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>(32 * m.warps)),
          .shared = point_shared(v.net.hidden, m.widest, m.warps),
          .stream = m.stream,
          .cooperative = true},
         a);
}

void remove_row(GpModel& m, int i) {
  GpView& v = m.v;
  const auto room = static_cast<std::size_t>(v.ld);
  const int n = v.n;
  m.work.need(3 * room, m.stream);
  Buffer<double> spare(room * room, m.stream);
  double* work = m.work.data();
  const RotateArguments a = {v.C,         spare.data(),    v.ld,          n, i, work,
                             work + room, work + 2 * room, m.words.data()};
  const int blocks = at_most_resident(divide_up(n, kWarps));
  launch("remove: factor", rotate_factor_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .stream = m.stream,
          .cooperative = true},
         a);
  m.C.swap(spare);
  launch("remove: inverse", rotate_inverse_kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up(n, 32))),
          .block = dim3(32),
          .stream = m.stream},
         v.Cinv, spare.data(), v.ld, n, i, a.cosine, a.sine);
  m.Cinv.swap(spare);
  launch("remove: inner products", drop_kernel,
         {.grid = dim3(static_cast<unsigned>(n)), .block = dim3(kThreads), .stream = m.stream}, v.M,
         spare.data(), v.ld, i);
  m.M.swap(spare);
  const RowArrays arrays = {{v.x, v.h, v.D, v.S, v.y, v.noise},
                            {v.net.dim, v.net.hidden, v.net.hidden, v.net.width[1], 1, 1}};
  const int columns = v.net.dim + 2 * v.net.hidden + v.net.width[1] + 2;
  launch("remove: rows", shift_rows_kernel,
         {.grid = dim3(static_cast<unsigned>(divide_up(columns, 64))),
          .block = dim3(64),
          .stream = m.stream},
         arrays, n, i);
  v.C = m.C.data();
  v.Cinv = m.Cinv.data();
  v.M = m.M.data();
}

}  // namespace zopo
