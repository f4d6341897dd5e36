// Kernel rows k(x_c, .) over the candidates of a region, in single precision. CPU only.
//
// Up to kGramColumns candidates, the whole Gram matrix is computed at construction, and a row is a
// pointer into it. Beyond that, or where candidates will be replaced, the closed form of a kernel
// computes rows one by one from the coordinates.
//
// A point may have values of trends behind its coordinates: functions of unknown coefficient, ~ N(0, 1)
// each, which the prior adds to the kernel's: k(x, y) + t(x)^T t(y) (Rasmussen & Williams 2006, eq.
// 2.39). With `weights`, coordinates are multiplied by these first.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "base/aligned.hpp"
#include "model/prior_kernel.hpp"

namespace zopo {

// Coordinates of candidates in single precision, arranged for the closed form: rows beside panels
// of 64 columns. A panel holds d coordinates, then S_l(x, x) of each layer l, 64 candidates each.
class ArcCosinePoints {
 public:
  static constexpr std::size_t kPanel = 64;

  ArcCosinePoints(const ArcCosine& kernel, double scale, std::size_t d);

  std::size_t panel_size() const { return (dim_ + kernel_.depth + 1) * kPanel; }
  const float* panel(std::size_t p) const { return panels_.data() + p * panel_size(); }
  void resize(std::size_t columns);
  // Compute S_l(x, x) of each layer, into every 64th entry of `to`, and return k(x, x), infinite
  // where x exceeds single precision.
  float squares(const double* x, float* to) const;
  // Set a candidate and return k(x, x) likewise; then `arrange` the columns set.
  float set(std::size_t column, const double* x);
  void arrange(std::size_t begin, std::size_t end);
  // Gather n candidates, at most 64, into a panel.
  void gather(const std::size_t* columns, std::size_t n, float* panel) const;
  // Compute k(x_row, .) over a panel for n rows; out (n, 64) has leading dimension ldo.
  void block(const std::size_t* rows, std::size_t n, const float* panel, float* out,
             std::size_t ldo) const;

 private:
  ArcCosine kernel_;
  double scale_;
  std::size_t dim_;
  Floats rows_;    // (columns, d)
  Floats panels_;  // (stride / 64, panel_size)
};

class KernelRows {
 public:
  // With four bytes an entry, the Gram matrix of 2,048 candidates takes 16 MB. Computing it takes
  // 20 ms; a pass over the coordinates for each observation would cost more in all.
  static constexpr std::size_t kGramColumns = 2048;

  // Build from points X (columns, d + trends). With `replaceable`, candidates may be replaced.
  // `weights` are (d,) factors of the coordinates, or none.
  KernelRows(PriorKernel kernel, const double* X, std::size_t columns, std::size_t d,
             bool replaceable = false, std::size_t trends = 0, Doubles weights = {});
  // Build from a Gram matrix K (columns, columns) of any kernel.
  KernelRows(const double* K, std::size_t columns);

  std::size_t columns() const { return columns_; }
  // Columns padded to a multiple of 64, as the loops of simd/simd.hpp need.
  std::size_t stride() const { return stride_; }
  // Dimension of the coordinates; 0 when built from a Gram matrix.
  std::size_t dim() const { return dim_; }
  // k(x, x) of every candidate, (stride,).
  const Floats& diagonal() const { return diagonal_; }
  // The Gram matrix (columns, stride); null where rows are computed one by one.
  const float* gram() const { return gram_.empty() ? nullptr : gram_.data(); }
  // Return true if the Gram matrix stays when the candidates grow to `columns`.
  bool keeps_gram(std::size_t columns) const;
  // Return the row of a candidate, (stride,), zero beyond `columns`. A row that is not one of the
  // Gram matrix stays valid until the next call.
  const float* row(std::size_t column);
  // Compute k(rows, columns), (n, m), for candidates of disjoint sets; `out` has leading dimension
  // ldo.
  void block(const std::size_t* rows, std::size_t n, const std::size_t* columns, std::size_t m,
             float* out, std::size_t ldo) const;

  // Compute k(X, Y) (n, m) of points X (n, d + trends) and Y (m, d + trends) that need not be candidates,
  // and k(y, y) (m,), with the bits of `row` for distinct points of the closed form; `out` has leading
  // dimension ldo, at least m padded to a multiple of 64. ArrayError where a point exceeds single
  // precision, and for a Gram matrix.
  void between(const double* X, std::size_t n, const double* Y, std::size_t m, float* out,
               std::size_t ldo, float* diagonal) const;

  // Replace candidates by the points X (n, d + trends). ArrayError, with nothing changed, unless this was
  // built as replaceable, or where a point exceeds single precision.
  void replace(const std::size_t* columns, std::size_t n, const double* X);
  // Grow to the candidates X (columns, d + trends), of which the first ones are the present ones. Beyond
  // kGramColumns the Gram matrix of a closed form is dropped.
  void extend(const double* X, std::size_t columns);

 private:
  void grow_gram(std::size_t columns);
  void fill(const ArcCosinePoints& points, std::size_t begin);
  void between_coordinates(const double* X, std::size_t n, const double* Y, std::size_t m,
                           float* out, std::size_t ldo, float* diagonal) const;
  void replace_coordinates(const std::size_t* columns, std::size_t n, const double* X);
  void extend_coordinates(const double* X, std::size_t columns);
  Doubles split(const double* X, std::size_t n, Floats& trend) const;
  float trend(std::size_t row, std::size_t column) const;
  float trend(const float* a, const float* b) const;

  std::size_t columns_ = 0, stride_ = 0, dim_ = 0, trends_ = 0;
  Doubles weights_;
  bool replaceable_ = false;
  std::optional<PriorKernel> kernel_;
  std::optional<ArcCosinePoints> points_;  // of a closed form
  Doubles X_;                              // (columns, d), of any other replaceable kernel
  Floats trend_;                           // (columns, trends)
  Floats gram_;                            // (columns, stride)
  Floats diagonal_;                        // (stride,)
  Floats row_;                             // scratch
};

}  // namespace zopo
