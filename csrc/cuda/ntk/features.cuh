// Features of points, written where a kernel needs them.
#pragma once

#include "base/precision.hpp"
#include "cuda/ntk/network.cuh"

namespace zopo {

// Destination with a row for each point: h_l, l >= 1, starts at h[i * ld + h_at[l]], and D_{l-1} at
// D[i * ld + D_at[l]]. Each part is followed by zeros up to a multiple of `pad` numbers, 1 or 16.
template <class Out>
struct FeatureRows {
  Out* h;
  Out* D;
  std::int64_t ld;
  int h_at[kMaxLayers + 2], D_at[kMaxLayers + 2];
  int pad;
  Out* x;         // the point itself, at x[i * ld], padded alike; or null
  double* first;  // X W_0^T (n, width[1]), or null
};

// Compute the features of X (n, d). Out is float or double.
template <class Out>
void features(const NetworkView& net, const void* X, Precision precision, std::size_t n,
              const FeatureRows<Out>& rows, cudaStream_t stream);

}  // namespace zopo
