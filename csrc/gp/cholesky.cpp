// Incremental Cholesky factor (gp/cholesky.hpp).
#include <algorithm>
#include <cmath>
#include <limits>

#include "gp/cholesky.hpp"
#include "simd/simd.hpp"

namespace zopo {

void Cholesky::reserve(std::size_t n) {
  if (n <= stride_) return;
  // Rows start on a cache line. An odd number of lines a row spreads columns over the cache sets.
  std::size_t stride = std::max<std::size_t>(2 * stride_, 56);
  stride = std::max(stride, n);
  stride = (stride + 7) / 8 * 8;
  if (stride / 8 % 2 == 0) stride += 8;
  Doubles grown(stride * stride);
  for (std::size_t i = 0; i < n_; ++i)
    std::copy_n(C_.data() + i * stride_, i + 1, grown.data() + i * stride);
  C_.swap(grown);
  stride_ = stride;
}

bool Cholesky::append(const double* a, double diagonal) {
  reserve(n_ + 1);
  double* row = C_.data() + n_ * stride_;
  std::copy_n(a, n_, row);
  simd().solve_lower(C_.data(), stride_, n_, row);
  const double pivot = diagonal - simd().dot(row, row, n_);
  const double rounding =
      4.0 * static_cast<double>(n_ + 1) * std::numeric_limits<double>::epsilon();
  if (!(pivot > rounding * diagonal)) return false;
  row[n_] = std::sqrt(pivot);
  ++n_;
  return true;
}

void Cholesky::remove(std::size_t i) {
  Doubles cosine(n_), sine(n_);
  // Row j of the new factor is row j + 1 of the old one without column i, rotated so that the old
  // column i is folded into the columns after it.
  for (std::size_t j = i + 1; j < n_; ++j) {
    const double* from = C_.data() + j * stride_;
    double* to = C_.data() + (j - 1) * stride_;
    double x = from[i];
    std::copy_n(from, i, to);
    for (std::size_t k = i + 1; k < j; ++k) {
      const double c = from[k];
      to[k - 1] = cosine[k] * c + sine[k] * x;
      x = cosine[k] * x - sine[k] * c;
    }
    const double r = std::hypot(from[j], x);
    cosine[j] = from[j] / r;
    sine[j] = x / r;
    to[j - 1] = r;
  }
  --n_;
}

void Cholesky::solve_lower(double* b) const { simd().solve_lower(C_.data(), stride_, n_, b); }

void Cholesky::solve_lower_transposed(double* b) const {
  simd().solve_lower_transposed(C_.data(), stride_, n_, b);
}

void Cholesky::solve_lower_rows(double* B, std::size_t ldb, std::size_t cols) const {
  simd().solve_lower_rows(C_.data(), stride_, n_, B, ldb, cols);
}

double Cholesky::log_determinant() const {
  double s = 0.0;
  for (std::size_t i = 0; i < n_; ++i) s += std::log((*this)(i, i));
  return 2.0 * s;
}

}  // namespace zopo
