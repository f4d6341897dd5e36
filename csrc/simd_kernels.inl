// Bodies of the inner loops; included by simd_<isa>.cpp, each compiled with that instruction set.
//
// Only raw pointers and file-local functions here: an inline function of a standard header compiled
// with AVX-512 could be the copy the linker keeps for everyone, and crash an older processor.
// Vectors are the compiler's own (vector_size), so the same text becomes SSE2, AVX2, AVX-512 or
// NEON.
//
// The including file defines ZOPO_VECTOR_BYTES, ZOPO_GRAM_ROWS and ZOPO_GRAM_VECTORS.

namespace zopo {
namespace {

constexpr std::size_t kLanes = ZOPO_VECTOR_BYTES / sizeof(double);

typedef double Vec __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
typedef double VecLoad __attribute__((vector_size(ZOPO_VECTOR_BYTES), aligned(8), may_alias));

inline Vec load(const double* p) { return *reinterpret_cast<const VecLoad*>(p); }
inline void store(double* p, Vec v) { *reinterpret_cast<VecLoad*>(p) = v; }

// Sums of all lanes by halves, in registers: log2(lanes) additions instead of one after another.
inline double sum_lanes(double __attribute__((vector_size(16))) v) { return v[0] + v[1]; }
inline double sum_lanes(double __attribute__((vector_size(32))) v) {
  return sum_lanes(__builtin_shufflevector(v, v, 0, 1) + __builtin_shufflevector(v, v, 2, 3));
}
inline double sum_lanes(double __attribute__((vector_size(64))) v) {
  return sum_lanes(__builtin_shufflevector(v, v, 0, 1, 2, 3) +
                   __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
inline float sum_lanes(float __attribute__((vector_size(16))) v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
}
inline float sum_lanes(float __attribute__((vector_size(32))) v) {
  return sum_lanes(__builtin_shufflevector(v, v, 0, 1, 2, 3) +
                   __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
inline double sum(Vec v) { return sum_lanes(v); }

// Four such sums at once: pairs of vectors are interleaved before they are added, which takes less
// than half the shuffles.
typedef double V16 __attribute__((vector_size(16)));
typedef double V32 __attribute__((vector_size(32)));
typedef double V64 __attribute__((vector_size(64)));
typedef double V16Load __attribute__((vector_size(16), aligned(8), may_alias));
typedef double V32Load __attribute__((vector_size(32), aligned(8), may_alias));
inline void sum4(V16 a, V16 b, V16 c, V16 d, double* y) {
  *reinterpret_cast<V16Load*>(y) =
      __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
  *reinterpret_cast<V16Load*>(y + 2) =
      __builtin_shufflevector(c, d, 0, 2) + __builtin_shufflevector(c, d, 1, 3);
}
inline void sum4(V32 a, V32 b, V32 c, V32 d, double* y) {
  const V32 ab =
      __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
  const V32 cd =
      __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
  *reinterpret_cast<V32Load*>(y) =
      __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
inline void sum4(V64 a, V64 b, V64 c, V64 d, double* y) {
  const V64 ab = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
                 __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  const V64 cd = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14) +
                 __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
  const V64 halves = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                     __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
  *reinterpret_cast<V32Load*>(y) = __builtin_shufflevector(halves, halves, 0, 1, 2, 3) +
                                   __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
}

// ---- vectors -------------------------------------------------------------------------------

// R dot products sharing one right-hand side; two accumulators a row hide the FMA latency.
template <std::size_t R>
inline void dots(const double* A, std::size_t lda, const double* x, std::size_t n, double* y) {
  Vec even[R] = {}, odd[R] = {};
  std::size_t k = 0;
  for (; k + 2 * kLanes <= n; k += 2 * kLanes) {
    const Vec x0 = load(x + k), x1 = load(x + k + kLanes);
    for (std::size_t r = 0; r < R; ++r) {
      even[r] += load(A + r * lda + k) * x0;
      odd[r] += load(A + r * lda + k + kLanes) * x1;
    }
  }
  if constexpr (R == 4)
    sum4(even[0] + odd[0], even[1] + odd[1], even[2] + odd[2], even[3] + odd[3], y);
  else
    for (std::size_t r = 0; r < R; ++r) y[r] = sum(even[r] + odd[r]);
  if (k == n) return;
  for (std::size_t r = 0; r < R; ++r) {
    double tail = 0.0;
    for (std::size_t j = k; j < n; ++j) tail += A[r * lda + j] * x[j];
    y[r] += tail;
  }
}

double dot(const double* a, const double* b, std::size_t n) {
  double y;
  dots<1>(a, 0, b, n, &y);
  return y;
}

void axpy(std::size_t n, double a, const double* x, double* y) {
  std::size_t k = 0;
  for (; k + kLanes <= n; k += kLanes) store(y + k, load(y + k) + load(x + k) * a);
  for (; k < n; ++k) y[k] += a * x[k];
}

void matvec(const double* A, std::size_t lda, std::size_t rows, std::size_t cols, const double* x,
            double* y) {
  std::size_t i = 0;
  for (; i + 4 <= rows; i += 4) dots<4>(A + i * lda, lda, x, cols, y + i);
  for (; i < rows; ++i) dots<1>(A + i * lda, lda, x, cols, y + i);
}

void matvec_transposed(const double* A, std::size_t lda, std::size_t rows, std::size_t cols,
                       const double* a, double* y) {
  std::size_t i = 0;
  for (; i + 4 <= rows; i += 4) {  // four rows a pass: y is read and written a quarter as often
    const double* r0 = A + i * lda;
    const double *r1 = r0 + lda, *r2 = r1 + lda, *r3 = r2 + lda;
    std::size_t k = 0;
    for (; k + kLanes <= cols; k += kLanes) {
      Vec v = load(y + k) + load(r0 + k) * a[i];
      v += load(r1 + k) * a[i + 1];
      v += load(r2 + k) * a[i + 2];
      v += load(r3 + k) * a[i + 3];
      store(y + k, v);
    }
    for (; k < cols; ++k)
      y[k] += a[i] * r0[k] + a[i + 1] * r1[k] + a[i + 2] * r2[k] + a[i + 3] * r3[k];
  }
  for (; i < rows; ++i) axpy(cols, a[i], A + i * lda, y);
}

double dot3(const double* a, const double* b, const double* c, std::size_t n) {
  Vec even = {}, odd = {};
  std::size_t k = 0;
  for (; k + 2 * kLanes <= n; k += 2 * kLanes) {
    even += load(a + k) * load(b + k) * load(c + k);
    odd += load(a + k + kLanes) * load(b + k + kLanes) * load(c + k + kLanes);
  }
  double tail = 0.0;
  for (; k < n; ++k) tail += a[k] * b[k] * c[k];
  return sum(even + odd) + tail;
}

// Register tiles: rows of the left operand times vectors of the right one.
constexpr std::size_t kRows = ZOPO_GRAM_ROWS;
constexpr std::size_t kVectors = ZOPO_GRAM_VECTORS;
constexpr std::size_t kPanel = kVectors * kLanes;

// ---- small dense products --------------------------------------------------------------------

// R rows of A times V vectors' worth of columns of B, in registers.
template <std::size_t R, std::size_t V>
inline void gemm_tile(std::size_t k, const double* A, std::size_t lda, const double* B,
                      std::size_t ldb, double* C, std::size_t ldc, bool add) {
  Vec acc[R][V] = {};
  for (std::size_t c = 0; c < k; ++c) {
    Vec b[V];
    for (std::size_t v = 0; v < V; ++v) b[v] = load(B + c * ldb + v * kLanes);
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t v = 0; v < V; ++v) acc[r][v] += b[v] * A[r * lda + c];
  }
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t v = 0; v < V; ++v) {
      double* to = C + r * ldc + v * kLanes;
      store(to, add ? load(to) + acc[r][v] : acc[r][v]);
    }
}

template <std::size_t R>
inline void gemm_rows(std::size_t n, std::size_t k, const double* A, std::size_t lda,
                      const double* B, std::size_t ldb, double* C, std::size_t ldc, bool add) {
  std::size_t j = 0;
  if constexpr (R == 1)  // a single row: more columns at once, or the additions wait for each other
    for (; j + 8 * kLanes <= n; j += 8 * kLanes)
      gemm_tile<R, 8>(k, A, lda, B + j, ldb, C + j, ldc, add);
  if constexpr (R == 1)
    for (; j + 4 * kLanes <= n; j += 4 * kLanes)
      gemm_tile<R, 4>(k, A, lda, B + j, ldb, C + j, ldc, add);
  for (; j + 2 * kLanes <= n; j += 2 * kLanes)
    gemm_tile<R, 2>(k, A, lda, B + j, ldb, C + j, ldc, add);
  for (; j + kLanes <= n; j += kLanes) gemm_tile<R, 1>(k, A, lda, B + j, ldb, C + j, ldc, add);
  for (; j < n; ++j)
    for (std::size_t r = 0; r < R; ++r) {
      double s = 0.0;
      for (std::size_t c = 0; c < k; ++c) s += A[r * lda + c] * B[c * ldb + j];
      C[r * ldc + j] = add ? C[r * ldc + j] + s : s;
    }
}

void gemm(std::size_t m, std::size_t n, std::size_t k, const double* A, std::size_t lda,
          const double* B, std::size_t ldb, double* C, std::size_t ldc, bool add) {
  std::size_t i = 0;
  for (; i + kRows <= m; i += kRows)
    gemm_rows<kRows>(n, k, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
  for (; i < m; ++i) gemm_rows<1>(n, k, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
}

// ---- packed triangles ------------------------------------------------------------------------

void triangle_matvec(const double* L, std::size_t n, const double* x, double* y) {
  for (std::size_t i = 0; i < n; i += 8) {
    const std::size_t width = triangle_width(i);
    matvec(L + triangle_offset(i), width, n - i < 8 ? n - i : 8, width, x, y + i);
  }
}

void triangle_matvec_transposed(const double* L, std::size_t n, const double* a, double* y) {
  for (std::size_t i = 0; i < n; i += 8) {
    const std::size_t width = triangle_width(i);
    matvec_transposed(L + triangle_offset(i), width, n - i < 8 ? n - i : 8, width, a + i, y);
  }
}

void triangle_normal(const double* L, std::size_t n, const double* x, double* v, double* y) {
  for (std::size_t i = 0; i < n; i += 8) {  // a block is read twice, from the first-level cache
    const std::size_t width = triangle_width(i), rows = n - i < 8 ? n - i : 8;
    const double* block = L + triangle_offset(i);
    matvec(block, width, rows, width, x, v + i);
    matvec_transposed(block, width, rows, width, v + i, y);
  }
}

void triangle_rank_one(double* A, std::size_t n, const double* l) {
  for (std::size_t i = 0; i < n; i += 8) {
    const std::size_t width = triangle_width(i);
    for (std::size_t r = 0; r < 8 && i + r < n; ++r)
      axpy(width, l[i + r], l, A + triangle_offset(i) + r * width);
  }
}

// Four rows of C at a time against each finished row: C_ij = (A_ij - C_i.C_j) / C_jj. Within the
// four, and for what is left over, row by row.
bool triangle_cholesky(double* A, std::size_t n) {
  std::size_t i = 0;
  while (i < n) {
    const std::size_t rows = i % 4 == 0 && i + 4 <= n ? 4 : 1, width = triangle_width(i);
    double* block = A + triangle_offset(i);
    for (std::size_t j = 0; j < i; ++j) {
      const double* row = A + triangle_offset(j);
      double s[4];
      if (rows == 4)
        dots<4>(block, width, row, j, s);
      else
        dots<1>(block, width, row, j, s);
      for (std::size_t r = 0; r < rows; ++r)
        block[r * width + j] = (block[r * width + j] - s[r]) / row[j];
    }
    for (std::size_t r = 0; r < rows; ++r) {
      double* row = block + r * width;
      for (std::size_t q = 0; q < r; ++q) {
        const double* above = block + q * width;
        row[i + q] = (row[i + q] - dot(row, above, i + q)) / above[i + q];
      }
      const double pivot = row[i + r] - dot(row, row, i + r);
      if (!(pivot > 0.0)) return false;
      row[i + r] = __builtin_sqrt(pivot);
    }
    i += rows;
  }
  return true;
}

// ---- triangular solves ---------------------------------------------------------------------

void solve_lower(const double* C, std::size_t ldc, std::size_t n, double* b) {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {  // four rows share the pass over the solved part
    double s[4];
    dots<4>(C + i * ldc, ldc, b, i, s);
    for (std::size_t r = 0; r < 4; ++r) {
      const double* row = C + (i + r) * ldc;
      double v = b[i + r] - s[r];
      for (std::size_t q = 0; q < r; ++q) v -= row[i + q] * b[i + q];
      b[i + r] = v / row[i + r];
    }
  }
  for (; i < n; ++i) b[i] = (b[i] - dot(C + i * ldc, b, i)) / C[i * ldc + i];
}

void solve_lower_transposed(const double* C, std::size_t ldc, std::size_t n, double* b) {
  for (std::size_t i = n; i-- > 0;) {
    b[i] /= C[i * ldc + i];
    axpy(i, -b[i], C + i * ldc, b);
  }
}

// Rows i .. i + R - 1 of C^-1 B for V vectors' worth of columns, given the rows before.
template <std::size_t R, std::size_t V>
inline void solve_tile(const double* C, std::size_t ldc, std::size_t i, double* B,
                       std::size_t ldb) {
  Vec acc[R][V];
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t v = 0; v < V; ++v) acc[r][v] = load(B + (i + r) * ldb + v * kLanes);
  const double* row = C + i * ldc;
  for (std::size_t j = 0; j < i; ++j) {
    Vec b[V];
    for (std::size_t v = 0; v < V; ++v) b[v] = load(B + j * ldb + v * kLanes);
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t v = 0; v < V; ++v) acc[r][v] -= b[v] * row[r * ldc + j];
  }
  for (std::size_t r = 0; r < R; ++r) {
    for (std::size_t q = 0; q < r; ++q)
      for (std::size_t v = 0; v < V; ++v) acc[r][v] -= acc[q][v] * row[r * ldc + i + q];
    for (std::size_t v = 0; v < V; ++v) {
      acc[r][v] /= row[r * ldc + i + r];
      store(B + (i + r) * ldb + v * kLanes, acc[r][v]);
    }
  }
}

template <std::size_t V>
inline void solve_strip(const double* C, std::size_t ldc, std::size_t n, double* B,
                        std::size_t ldb) {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) solve_tile<4, V>(C, ldc, i, B, ldb);
  for (; i < n; ++i) solve_tile<1, V>(C, ldc, i, B, ldb);
}

void solve_lower_rows(const double* C, std::size_t ldc, std::size_t n, double* B, std::size_t ldb,
                      std::size_t cols) {
  std::size_t begin = 0;
  for (; begin + kPanel <= cols; begin += kPanel) solve_strip<kVectors>(C, ldc, n, B + begin, ldb);
  for (; begin + kLanes <= cols; begin += kLanes) solve_strip<1>(C, ldc, n, B + begin, ldb);
  for (; begin < cols; ++begin)
    for (std::size_t i = 0; i < n; ++i) {
      const double* row = C + i * ldc;
      double v = B[i * ldb + begin];
      for (std::size_t j = 0; j < i; ++j) v -= row[j] * B[j * ldb + begin];
      B[i * ldb + begin] = v / row[i];
    }
}

// ---- Gram product --------------------------------------------------------------------------
//
// K_ij = sum_l (h_l(x_i).h_l(y_j) + 1) (D_l(x_i).D_l(y_j)): one pass over a register tile of K. The
// right operand is packed as panels of kPanel points, feature by feature, so that the inner loop is
// kRows broadcasts times kVectors loads, all accumulators in registers.

std::size_t features_of(const GramOperand& g) {
  std::size_t f = g.width[0];
  for (std::size_t l = 1; l <= g.layers; ++l) f += 2 * g.width[l];
  return f;
}

std::size_t gram_pack_size(const GramOperand& g) {
  return (g.n + kPanel - 1) / kPanel * kPanel * features_of(g);
}

// Order within a panel: h_0, D_0, h_1, D_1, ..., h_L.
void pack_block(const double* A, std::size_t lda, std::size_t rows, std::size_t cols, double* out) {
  for (std::size_t p = 0; p < rows; ++p)
    for (std::size_t c = 0; c < cols; ++c) out[c * kPanel + p] = A[p * lda + c];
  for (std::size_t p = rows; p < kPanel; ++p)
    for (std::size_t c = 0; c < cols; ++c) out[c * kPanel + p] = 0.0;
}

void gram_pack(const GramOperand& g, std::size_t begin, std::size_t end, double* packed) {
  packed += begin * kPanel * features_of(g);
  for (std::size_t j = begin * kPanel; j < end * kPanel; j += kPanel) {
    const std::size_t rows = g.n - j < kPanel ? g.n - j : kPanel;
    for (std::size_t l = 0; l <= g.layers; ++l) {
      pack_block(g.h[l] + j * g.ldh[l], g.ldh[l], rows, g.width[l], packed);
      packed += g.width[l] * kPanel;
      if (l == g.layers) break;
      pack_block(g.D[l] + j * g.ldd, g.ldd, rows, g.width[l + 1], packed);
      packed += g.width[l + 1] * kPanel;
    }
  }
}

template <std::size_t R>
inline void tile_product(const double* A, std::size_t lda, std::size_t cols, const double* panel,
                         Vec (&acc)[R][kVectors]) {
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
  for (std::size_t c = 0; c < cols; ++c) {
    Vec b[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      b[v] = load(panel + c * kPanel + v * kLanes);
      // The panel lies in the second-level cache: fetched some steps ahead.
      __builtin_prefetch(panel + (c + 16) * kPanel + v * kLanes);
    }
    for (std::size_t r = 0; r < R; ++r) {
      const double a = A[r * lda + c];
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] += b[v] * a;
    }
  }
}

template <std::size_t R>
void gram_tile(const GramOperand& g, std::size_t i, const double* panel, std::size_t cols,
               double* K, std::size_t ldk) {
  Vec total[R][kVectors] = {};
  for (std::size_t l = 0; l <= g.layers; ++l) {
    Vec h[R][kVectors], D[R][kVectors];
    tile_product<R>(g.h[l] + i * g.ldh[l], g.ldh[l], g.width[l], panel, h);
    panel += g.width[l] * kPanel;
    if (l == g.layers) {
      for (std::size_t r = 0; r < R; ++r)
        for (std::size_t v = 0; v < kVectors; ++v) total[r][v] += h[r][v] + 1.0;
      break;
    }
    tile_product<R>(g.D[l] + i * g.ldd, g.ldd, g.width[l + 1], panel, D);
    panel += g.width[l + 1] * kPanel;
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t v = 0; v < kVectors; ++v) total[r][v] += (h[r][v] + 1.0) * D[r][v];
  }
  for (std::size_t r = 0; r < R; ++r) {
    if (cols == kPanel) {
      for (std::size_t v = 0; v < kVectors; ++v) store(K + r * ldk + v * kLanes, total[r][v]);
    } else {
      double row[kPanel];
      for (std::size_t v = 0; v < kVectors; ++v) store(row + v * kLanes, total[r][v]);
      for (std::size_t p = 0; p < cols; ++p) K[r * ldk + p] = row[p];
    }
  }
}

void gram_rows(const GramOperand& left, const GramOperand& right, const double* packed,
               std::size_t begin, std::size_t end, bool lower, double* K, std::size_t ldk) {
  // A block of rows stays in the second-level cache while the panels, of some hundred kilobytes
  // each, pass by; within it each panel stays while the rows pass over it.
  constexpr std::size_t kBlockRows = 96 / kRows * kRows;
  const std::size_t stride = kPanel * features_of(right);
  for (std::size_t block = begin; block < end; block += kBlockRows) {
    const std::size_t last = end - block < kBlockRows ? end : block + kBlockRows;
    const double* panel = packed;
    for (std::size_t j = 0; j < right.n; j += kPanel, panel += stride) {
      if (lower && j >= last) break;
      const std::size_t cols = right.n - j < kPanel ? right.n - j : kPanel;
      std::size_t i = block;
      if (lower && j > i) i += (j - i) / kRows * kRows;
      for (; i + kRows <= last; i += kRows)
        gram_tile<kRows>(left, i, panel, cols, K + i * ldk + j, ldk);
      for (; i < last; ++i) gram_tile<1>(left, i, panel, cols, K + i * ldk + j, ldk);
    }
  }
}

// ---- pool scan -----------------------------------------------------------------------------
//
// Vectors of at most 32 bytes: the conversion from half precision is no faster by the full AVX-512
// register (two halves and a merge), and the loop is bound by memory beyond the second-level cache.

constexpr std::size_t kScanBytes = ZOPO_VECTOR_BYTES < 32 ? ZOPO_VECTOR_BYTES : 32;
constexpr std::size_t kScanLanes = kScanBytes / sizeof(float);
typedef float ScanVec __attribute__((vector_size(kScanBytes)));
typedef float ScanLoad __attribute__((vector_size(kScanBytes), aligned(4), may_alias));

inline float half_to_float(std::uint16_t h) {
  // Exponent rebased by a multiplication, which also normalises subnormals; no infinities here.
  union {
    std::uint32_t u;
    float f;
  } v;
  v.u = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
  v.f *= 0x1p112f;
  v.u |= static_cast<std::uint32_t>(h & 0x8000u) << 16;
  return v.f;
}
inline ScanVec floats(const std::uint16_t* p) {
#if defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  ScanVec v;
  for (std::size_t i = 0; i < kScanLanes; ++i) v[i] = half_to_float(p[i]);
  return v;
#endif
}
inline float scalar(std::uint16_t h) { return half_to_float(h); }
inline float scalar(float f) { return f; }
inline double scalar(double f) { return f; }

// With `Ahead`, rows that many rows further on are fetched while these are summed: R streams are
// more than the processor's own prefetching follows.
template <std::size_t R, std::size_t Ahead>
inline void scan_rows(const std::uint16_t* Z, std::size_t d, const float* w, const float* norm,
                      float* out) {
  ScanVec acc[R] = {};
  std::size_t k = 0;
  for (; k + kScanLanes <= d; k += kScanLanes) {
    const ScanVec wk = *reinterpret_cast<const ScanLoad*>(w + k);
    for (std::size_t r = 0; r < R; ++r) acc[r] += floats(Z + r * d + k) * wk;
    if constexpr (Ahead > 0) {
      const char* ahead = reinterpret_cast<const char*>(Z + Ahead * d + R * k);
      for (std::size_t b = 0; b < R * kScanLanes * sizeof(*Z); b += 64)
        __builtin_prefetch(ahead + b);
    }
  }
  for (std::size_t r = 0; r < R; ++r) {
    float tail = 0.0f;
    for (std::size_t j = k; j < d; ++j) tail += half_to_float(Z[r * d + j]) * w[j];
    out[r] = norm[r] - 2.0f * (sum_lanes(acc[r]) + tail);
  }
}

void scan(const std::uint16_t* Z, std::size_t rows, std::size_t d, Reach reach, const float* w,
          const float* norm, float* out) {
  std::size_t i = 0;
  if (reach == Reach::Cached)  // eight rows hide the latency of the additions
    for (; i + 8 <= rows; i += 8) scan_rows<8, 8>(Z + i * d, d, w, norm + i, out + i);
  if (reach == Reach::Memory)  // four keep to the order in which memory is fastest
    for (; i + 4 <= rows; i += 4) scan_rows<4, 8>(Z + i * d, d, w, norm + i, out + i);
  for (; i + 8 <= rows; i += 8) scan_rows<8, 0>(Z + i * d, d, w, norm + i, out + i);
  for (; i < rows; ++i) scan_rows<1, 0>(Z + i * d, d, w, norm + i, out + i);
}

// ---- pool rows in float64 --------------------------------------------------------------------

inline Vec widened(const double* p) { return load(p); }
#if defined(__AVX512F__)
// The masked forms: GCC 12's own headers trip -Wmaybe-uninitialized in the plain ones.
inline Vec widened(const float* p) { return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p)); }
inline Vec widened(const std::uint16_t* p) {
  return _mm512_maskz_cvtps_pd(
      0xff, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(__F16C__)
inline Vec widened(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
inline Vec widened(const std::uint16_t* p) {
  return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
inline Vec widened(const float* p) { return Vec{p[0], p[1]}; }
inline Vec widened(const std::uint16_t* p) { return Vec{half_to_float(p[0]), half_to_float(p[1])}; }
#endif

template <std::size_t R, bool Centered, class T>
inline void rows_dots(const T* const* z, std::size_t d, const double* mean, const double* w,
                      double* y) {
  Vec acc[R] = {};
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec wk = load(w + k);
    for (std::size_t r = 0; r < R; ++r) {
      Vec e = widened(z[r] + k);
      if constexpr (Centered) e -= load(mean + k);
      acc[r] += e * wk;
    }
  }
  if constexpr (R == 4)
    sum4(acc[0], acc[1], acc[2], acc[3], y);
  else
    for (std::size_t r = 0; r < R; ++r) y[r] = sum(acc[r]);
  for (; k < d; ++k)
    for (std::size_t r = 0; r < R; ++r)
      y[r] += (scalar(z[r][k]) - (Centered ? mean[k] : 0.0)) * w[k];
}

template <bool Centered, class T>
inline void rows_matvec_of(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                           const double* mean, const double* w, double* y) {
  const T* z[4];
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (std::size_t r = 0; r < 4; ++r) z[r] = Z + static_cast<std::size_t>(index[i + r]) * d;
    rows_dots<4, Centered>(z, d, mean, w, y + i);
  }
  for (; i < n; ++i) {
    z[0] = Z + static_cast<std::size_t>(index[i]) * d;
    rows_dots<1, Centered>(z, d, mean, w, y + i);
  }
}

template <class T>
void rows_matvec(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                 const double* mean, const double* w, double* y) {
  if (mean)
    rows_matvec_of<true>(Z, d, index, n, mean, w, y);
  else
    rows_matvec_of<false>(Z, d, index, n, mean, w, y);
}

template <std::size_t R, bool Centered, class T>
inline void rows_add(const T* const* z, std::size_t d, const double* mean, const double* a,
                     double* y) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    Vec v = load(y + k);
    for (std::size_t r = 0; r < R; ++r) {
      Vec e = widened(z[r] + k);
      if constexpr (Centered) e -= load(mean + k);
      v += e * a[r];
    }
    store(y + k, v);
  }
  for (; k < d; ++k)
    for (std::size_t r = 0; r < R; ++r)
      y[k] += a[r] * (scalar(z[r][k]) - (Centered ? mean[k] : 0.0));
}

template <bool Centered, class T>
inline void rows_combine_of(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                            const double* mean, const double* a, double* y) {
  const T* z[8];
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (std::size_t r = 0; r < 8; ++r) z[r] = Z + static_cast<std::size_t>(index[i + r]) * d;
    rows_add<8, Centered>(z, d, mean, a + i, y);
  }
  for (; i < n; ++i) {
    z[0] = Z + static_cast<std::size_t>(index[i]) * d;
    rows_add<1, Centered>(z, d, mean, a + i, y);
  }
}

template <class T>
void rows_combine(const T* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                  const double* mean, const double* a, double* y) {
  if (mean)
    rows_combine_of<true>(Z, d, index, n, mean, a, y);
  else
    rows_combine_of<false>(Z, d, index, n, mean, a, y);
}

void standardise_f16(const std::uint16_t* z, std::size_t d, const double* mean,
                     const double* inverse_scale, double* e) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes)
    store(e + k, (widened(z + k) - load(mean + k)) * load(inverse_scale + k));
  for (; k < d; ++k) e[k] = (half_to_float(z[k]) - mean[k]) * inverse_scale[k];
}

void moments_pass(const double* row, std::size_t d, double* sum, double* low, double* high) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec v = load(row + k), l = load(low + k), h = load(high + k);
    store(sum + k, load(sum + k) + v);
    store(low + k, v < l ? v : l);
    store(high + k, v > h ? v : h);
  }
  for (; k < d; ++k) {
    sum[k] += row[k];
    low[k] = row[k] < low[k] ? row[k] : low[k];
    high[k] = row[k] > high[k] ? row[k] : high[k];
  }
}

void squares_pass(const double* row, std::size_t d, const double* mean, double* sum) {
  std::size_t k = 0;
  for (; k + kLanes <= d; k += kLanes) {
    const Vec v = load(row + k) - load(mean + k);
    store(sum + k, load(sum + k) + v * v);
  }
  for (; k < d; ++k) sum[k] += (row[k] - mean[k]) * (row[k] - mean[k]);
}

void widen_f16(const std::uint16_t* from, std::size_t n, double* to) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, widened(from + i));
  for (; i < n; ++i) to[i] = half_to_float(from[i]);
}

// To nearest, ties to even, by way of float32; what is too large becomes infinite.
inline std::uint16_t to_half(double v) {
  union {
    float f;
    std::uint32_t u;
  } x;
  x.f = static_cast<float>(v);
  const std::uint32_t sign = x.u >> 16 & 0x8000u;
  x.u &= 0x7fffffffu;
  if (x.u >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (x.u < 0x38800000u) {  // subnormal: the sum's last bit is 2^-24
    x.f += 0.5f;
    return static_cast<std::uint16_t>(sign | (x.u - 0x3f000000u));
  }
  const std::uint32_t odd = x.u >> 13 & 1u;
  x.u += 0xc8000fffu + odd;  // exponent rebased, and half of the last bit kept
  return static_cast<std::uint16_t>(sign | x.u >> 13);
}

void narrow_f16(const double* from, std::size_t n, std::uint16_t* to) {
  std::size_t i = 0;
#if defined(__F16C__)
  for (; i + 4 <= n; i += 4)
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i),
                     _mm_cvtps_ph(_mm256_cvtpd_ps(_mm256_loadu_pd(from + i)), 0));
#endif
  for (; i < n; ++i) to[i] = to_half(from[i]);
}

std::uint64_t read_all(const void* from, std::size_t n) {
  typedef std::uint64_t Words __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
  typedef std::uint64_t Load __attribute__((vector_size(ZOPO_VECTOR_BYTES), aligned(1), may_alias));
  const char* p = static_cast<const char*>(from);
  Words acc[4] = {};
  std::size_t i = 0;
  for (; i + sizeof(acc) <= n; i += sizeof(acc))
    for (std::size_t u = 0; u < 4; ++u)
      acc[u] ^= *reinterpret_cast<const Load*>(p + i + u * sizeof(Words));
  const Words all = (acc[0] ^ acc[1]) ^ (acc[2] ^ acc[3]);
  std::uint64_t word = 0;
  for (std::size_t j = 0; j < sizeof(Words) / 8; ++j) word ^= all[j];
  for (; i < n; ++i)
    word ^= static_cast<std::uint64_t>(static_cast<unsigned char>(p[i])) << 8 * (i % 8);
  return word;
}

constexpr Simd table(const char* name) {
  return {name,
          dot,
          axpy,
          matvec,
          matvec_transposed,
          gemm,
          dot3,
          triangle_matvec,
          triangle_matvec_transposed,
          triangle_normal,
          triangle_rank_one,
          triangle_cholesky,
          solve_lower,
          solve_lower_transposed,
          solve_lower_rows,
          kPanel,
          gram_pack_size,
          gram_pack,
          gram_rows,
          scan,
          rows_matvec<std::uint16_t>,
          rows_matvec<float>,
          rows_matvec<double>,
          rows_combine<std::uint16_t>,
          rows_combine<float>,
          rows_combine<double>,
          standardise_f16,
          moments_pass,
          squares_pass,
          widen_f16,
          narrow_f16,
          read_all};
}

}  // namespace
}  // namespace zopo
