// Matrix product in float64 on a device.
#pragma once

#include "cuda/runtime/support.cuh"

namespace zopo {

// C (m, n) = op(A) (m, k) op(B) (k, n), or C += with `add`. Row-major, with any leading dimensions
// and alignment. op transposes where asked; A is then stored (k, m), B (n, k). C overlaps neither.
//
//   lower_a   A as stored is square and lower triangular; entries right of its diagonal are not
//             read, and products with them are skipped
//   lower_c   only entries on or left of C's diagonal are needed; the others may be written or not
//   batch     number of products; operands are a stride apart (0: the same operand for all)
struct GemmArguments {
  int m, n, k;
  const double* A;
  std::int64_t lda;
  const double* B;
  std::int64_t ldb;
  double* C;
  std::int64_t ldc;
  bool transpose_a = false, transpose_b = false;
  bool add = false;
  bool lower_a = false, lower_c = false;
  int batch = 1;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;
};

void gemm(const GemmArguments& a, cudaStream_t stream);

}  // namespace zopo
