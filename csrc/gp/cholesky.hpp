// Incremental Cholesky factor A = C C^T of a growing and shrinking positive definite matrix.
//
// C is (n, n) lower triangular, row-major with leading dimension stride(): appending a row touches
// nothing else, so that dropping the last one is free.
#pragma once

#include <cstddef>
#include <vector>

#include "base/aligned.hpp"
#include "base/device.hpp"

namespace zopo {

template <class Device>
class Cholesky {
 public:
  std::size_t size() const { return n_; }
  std::size_t stride() const { return stride_; }
  const double* data() const { return C_.data(); }
  double operator()(std::size_t i, std::size_t j) const { return C_[i * stride_ + j]; }

  // A grows by the row (a, diagonal), a (n,): solve C c = a, the pivot is diagonal - |c|^2. O(n^2).
  // False, and nothing changed, when the pivot is not positive beyond rounding (n eps diagonal).
  bool append(const double* a, double diagonal);
  // A loses its last row and column. O(1).
  void pop() { --n_; }
  void truncate(std::size_t n) { n_ = n; }
  // A loses row and column i: the trailing block takes a rank-one update by Givens rotations
  // (positive, hence stable). O((n - i)^2).
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
