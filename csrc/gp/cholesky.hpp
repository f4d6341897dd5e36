// Incremental Cholesky factor A = C C^T of a growing and shrinking positive definite matrix, on the
// CPU. The CUDA twin keeps C^-1 beside C (cuda/gp/cholesky.cu).
//
// C is (n, n) lower triangular, row-major with leading dimension stride(). Appending a row touches
// no other row, so dropping the last one costs nothing.
#pragma once

#include <cstddef>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

class Cholesky {
 public:
  std::size_t size() const { return n_; }
  std::size_t stride() const { return stride_; }
  const double* data() const { return C_.data(); }
  double operator()(std::size_t i, std::size_t j) const { return C_[i * stride_ + j]; }

  // Grow A by the row (a, diagonal), a (n,): solve C c = a; the pivot is diagonal - |c|^2. O(n^2).
  // Returns false and changes nothing when the pivot is not positive beyond rounding, 4 (n + 1) eps
  // diagonal.
  bool append(const double* a, double diagonal);
  // Keep the first n rows and columns. O(1).
  void truncate(std::size_t n) { n_ = n; }
  // Remove row and column i: Givens rotations apply a rank-one update to the trailing block. The
  // update is positive, hence stable. O((n - i)^2).
  void remove(std::size_t i);

  void solve_lower(double* b) const;                                          // b <- C^-1 b
  void solve_lower_transposed(double* b) const;                               // b <- C^-T b
  void solve_lower_rows(double* B, std::size_t ldb, std::size_t cols) const;  // B <- C^-1 B
  double log_determinant() const;                                             // log det A

 private:
  void reserve(std::size_t n);

  std::size_t n_ = 0, stride_ = 0;
  Doubles C_;
};

}  // namespace zopo
