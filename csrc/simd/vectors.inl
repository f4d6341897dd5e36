// Vectors of an instruction set, and loops over one row or a few; see simd/kernels.inl.

namespace zopo {
namespace {

constexpr std::size_t kLanes = ZOPO_VECTOR_BYTES / sizeof(double);

typedef double Vec __attribute__((vector_size(ZOPO_VECTOR_BYTES)));
typedef double VecLoad __attribute__((vector_size(ZOPO_VECTOR_BYTES), aligned(8), may_alias));

inline Vec load(const double* p) { return *reinterpret_cast<const VecLoad*>(p); }
inline void store(double* p, Vec v) { *reinterpret_cast<VecLoad*>(p) = v; }

// Sum all lanes by halves, in registers: log2(lanes) additions instead of a chain of them.
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

// Sum four vectors at once: interleaving pairs before adding takes less than half the shuffles.
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

// R dot products that share one right-hand side; two accumulators a row hide the FMA latency.
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
  for (; i + 4 <= rows; i += 4) {  // four rows a pass read and write y a quarter as often
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

// Register tiles: rows of the left operand by vectors of the right one.
constexpr std::size_t kRows = ZOPO_GRAM_ROWS;
constexpr std::size_t kVectors = ZOPO_GRAM_VECTORS;
constexpr std::size_t kPanel = kVectors * kLanes;

}  // namespace
}  // namespace zopo
