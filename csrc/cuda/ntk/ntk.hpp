// Tangent kernel on a CUDA device: the twin of ntk/ntk.hpp, with its shapes and formulas, a stream
// as the last argument. Plain C++, no CUDA headers. Pointers are to memory of the current device
// unless stated otherwise. Calls enqueue work on `stream` (a cudaStream_t) and return before it is
// done.
#pragma once

#include "base/precision.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

// Compute h and D (n, hidden) of the points X (n, d), in `out` precision, Single or Double; the
// arithmetic is float64. With `first`, also X W_0^T (n, width[1]).
void ntk_features(const Network& net, const void* X, Precision precision, std::size_t n, void* h,
                  void* D, Precision out, double* first, void* stream);

// Compute k(x_i, x_i), (n,).
void ntk_diag(const Network& net, PointsView a, double* out, void* stream);

// Evaluate one point against many: k (n,), and gamma (layers + 1, n) with gamma_li =
// D_l(x).D_l(X_i) and a last row of ones. Either may be null. With `inner` (n,) = x.X_i given, X.x
// and point.x are not read.
void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner, void* stream);

// Compute G = dk(x, X)/dx, (n, d), from gamma as ntk_row() fills it.
void ntk_gradient_rows(const Network& net, PointsView point, PointsView X, const double* gamma,
                       double* G, void* stream);

// Compute the trace of d^2 k(x, x') / dx dx' at x' = x, one number on the device.
void ntk_gradient_prior_trace(const Network& net, PointsView point, double* out, void* stream);

// Arithmetic of the kernel's inner products. Features are always computed in float64, then rounded.
enum class GramPrecision {
  Float64,  // float64 tensor cores
  Float32,  // float32 products and sums
  Tf32x3,   // tf32 tensor cores on numbers split in two, three of the four products; float32 sums
};

// Compute K (n, m) from X (n, d) and Y (m, d). A null Y with m = n means Y = X; K is then
// symmetric. K is float64 for Float64, else float32.
void ntk_gram(const Network& net, const void* X, Precision precision_x, std::size_t n,
              const void* Y, Precision precision_y, std::size_t m, GramPrecision precision, void* K,
              void* stream);

// The operations above from host memory to host memory, on device `ordinal`; done when they return.
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

// The matrix product of the engine (cuda/linalg/gemm.cuh) from host memory to host memory, for
// tests and benchmarks: `batch` matrices each, contiguous, with rows of lda, ldb and n numbers. C
// is read with `add` only.
struct ProductOnHost {
  std::size_t m, n, k, lda, ldb, batch;
  bool transpose_a, transpose_b, add, lower_a, lower_c;
};
void gemm_on_host(int ordinal, const ProductOnHost& shape, const double* A, const double* B,
                  double* C);

}  // namespace zopo
