// Gradients of functions of a Gram matrix by its points. The CPU twin is ntk_gram_gradient() in
// ntk/ntk.hpp.
#pragma once

#include "cuda/ntk/network.cuh"

namespace zopo {

// out_i = sum_j weight_ij dk(x_i, y_j)/dx_i + own dk(x_i, x')/dx_i at x' = x_i, (x.n, d).
// weight is (x.n, y.n); all pointers are to device memory. work: gram_gradient_work() numbers.
struct GramGradient {
  PointsView x, y;
  const double* weight;
  double own;
  double* out;
  double* work;
};
std::size_t gram_gradient_work(const NetworkView& net, std::size_t q, std::size_t n);
void gram_gradient(const NetworkView& net, const GramGradient& a, cudaStream_t stream);

// Scale v in place.
void scale(double* v, double factor, std::size_t size, cudaStream_t stream);

}  // namespace zopo
