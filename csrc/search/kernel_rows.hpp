// Kernel rows k(x_c, .) over the candidates of a region, one at a time: of a closed-form kernel, or of
// a Gram matrix. In single precision. CPU only.
#pragma once

#include <cstddef>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

// Closed-form infinite-width kernel over `scale`, as zopo_fast/gp/infinite_ntk.py defines it.
struct ArcCosine {
  std::size_t depth;
  double weight_variance, bias_variance;
  bool ntk;  // parametrisation: "ntk" if true, else "standard"
  double scale;
};

class KernelRows {
 public:
  // Build from coordinates X (columns, d).
  KernelRows(const double* X, std::size_t columns, std::size_t d, const ArcCosine& kernel);
  // Build from a Gram matrix K (columns, columns) of any kernel.
  KernelRows(const double* K, std::size_t columns);

  std::size_t columns() const { return columns_; }
  // Columns padded to a multiple of 64, as the loops of simd/simd.hpp need.
  std::size_t stride() const { return stride_; }
  // k(x, x) of every candidate, (stride,).
  const Floats& diagonal() const { return diagonal_; }
  // Compute the row of a candidate, (stride,).
  void row(std::size_t column, float* out);

 private:
  std::size_t columns_, stride_, dim_ = 0;
  ArcCosine kernel_{};
  Floats X_, across_;           // (columns, d); transposed (d, stride)
  std::vector<Floats> square_;  // S_l(x, x) by layer, (stride,)
  Floats gram_;                 // (columns, stride), when built from a Gram matrix
  Floats diagonal_;             // (stride,)
  Floats dots_;                 // scratch
};

}  // namespace zopo
