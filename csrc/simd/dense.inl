// Products of small matrices, packed triangles, triangular solves; see simd/kernels.inl.

namespace zopo {
namespace {

// ---- small dense products --------------------------------------------------------------------

// Multiply R rows of A by V vectors of columns of B, in registers.
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
  if constexpr (R == 1)  // a single row needs more columns at once to hide the addition latency
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

void triangle_rank_one(double* A, std::size_t n, const double* l) {
  for (std::size_t i = 0; i < n; i += 8) {
    const std::size_t width = triangle_width(i);
    for (std::size_t r = 0; r < 8 && i + r < n; ++r)
      axpy(width, l[i + r], l, A + triangle_offset(i) + r * width);
  }
}

// Compute four rows of C at a time against each finished row: C_ij = (A_ij - C_i.C_j) / C_jj.
// Entries within the four rows, and leftover rows, are computed row by row.
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

// Compute rows i .. i + R - 1 of C^-1 B for V vectors of columns, given the rows before.
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

}  // namespace
}  // namespace zopo
