// The tangent kernel on a CUDA device: plain C++, no CUDA headers. Pointers are to memory of the
// current device unless said otherwise; calls queue work on `stream` (a cudaStream_t) and return
// before it is done. Shapes and formulas are those of ntk/ntk.hpp.
#pragma once

#include "ntk/ntk.hpp"
#include "pool/pool.hpp"

namespace zopo {

// h, D (n, hidden) of the points X (n, d), in `out` precision, Single or Double; the arithmetic is
// float64. With `first`, also X W_0^T (n, width[1]).
void ntk_features(const Network& net, const void* X, Precision precision, std::size_t n, void* h,
                  void* D, Precision out, double* first, void* stream);

// k(x_i, x_i), (n,).
void ntk_diag(const Network& net, PointsView a, double* out, void* stream);

// One point against many: k (n,), and gamma (layers + 1, n) = D_l(x).D_l(X_i), the last row ones.
// Either may be null. With `inner` (n,) = x.X_i given, X.x and point.x are not read.
void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner, void* stream);

// G (n, d) = dk(x, X)/dx, gamma as ntk_row left it.
void ntk_gradient_rows(const Network& net, PointsView point, PointsView X, const double* gamma,
                       double* G, void* stream);

// The trace of d^2 k(x, x') / dx dx' at x' = x, to one number on the device.
void ntk_gradient_prior_trace(const Network& net, PointsView point, double* out, void* stream);

// How the inner products of the kernel are formed. Features are float64 always, then rounded.
enum class GramPrecision {
  Float64,  // float64 tensor cores
  Float32,  // float32 products and sums
  Tf32x3,   // tf32 tensor cores, each number in two parts and three of the four products; float32
            // sums
};

// K (n, m) from X (n, d) and Y (m, d); Y null and m = n: Y = X, and K is symmetric. K is float64
// for Float64, else float32.
void ntk_gram(const Network& net, const void* X, Precision precision_x, std::size_t n,
              const void* Y, Precision precision_y, std::size_t m, GramPrecision precision, void* K,
              void* stream);

// The same from host memory to host memory on the device of that number, done when they return:
// X (n, d), Y (m, d) or null, x (d,), float64 where no precision is given.
struct NtkOnHost {
  const Network& net;
  int ordinal;

  void gram(const void* X, Precision precision_x, std::size_t n, const void* Y,
            Precision precision_y, std::size_t m, GramPrecision precision, void* K) const;
  void diag(const double* X, std::size_t n, double* out) const;
  void gradient(const double* x, const double* X, std::size_t n, double* G) const;
  double gradient_prior_trace(const double* x) const;
};

// The product that the engine is built on (cuda/linalg/gemm.cuh), from host memory to host memory, for
// tests and benchmarks: `batch` matrices each, one after another, rows of lda, ldb and n numbers; C
// is read with `add` only.
struct ProductOnHost {
  std::size_t m, n, k, lda, ldb, batch;
  bool transpose_a, transpose_b, add, lower_a, lower_c;
};
void gemm_on_host(int ordinal, const ProductOnHost& shape, const double* A, const double* B,
                  double* C);

}  // namespace zopo
