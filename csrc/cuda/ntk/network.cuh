// The network's weights on a device, in a form that kernels take by value.
#pragma once

#include <memory>

#include "cuda/runtime/support.cuh"
#include "ntk/ntk.hpp"

namespace zopo {

constexpr int kMaxLayers = 8;  // capacity of the arrays in NetworkView, in hidden layers

// Network (ntk/ntk.hpp) with device pointers: width[0] = d, width[1..layers] are the hidden widths;
// offset[l] is the position of h_l (l >= 1) and of D_{l-1} in a point's row of `hidden` numbers.
struct NetworkView {
  int layers, dim, hidden;
  int width[kMaxLayers + 2], offset[kMaxLayers + 2];
  const double* weight[kMaxLayers + 1];      // W_l (width[l + 1], width[l]); the last (1, width[L])
  const double* transposed[kMaxLayers + 1];  // W_l^T (width[l], width[l + 1]), l < layers
  const double* bias[kMaxLayers + 1];        // b_l (width[l + 1],), l < layers
  const double* first_gram;                  // W_0 W_0^T (width[1], width[1])
};

// Owner of the weights on a device. Kernels on any stream may still read them at destruction, so
// the destructor waits for the whole device before it frees them.
struct CudaNetwork {
  int ordinal;
  Buffer<double> data;
  NetworkView view;

  CudaNetwork() = default;
  CudaNetwork(const CudaNetwork&) = delete;
  CudaNetwork& operator=(const CudaNetwork&) = delete;
  ~CudaNetwork();
};

// Return the copy on the current device, made at first use and kept with the network. ConfigError
// for a network of more than kMaxLayers hidden layers.
std::shared_ptr<const CudaNetwork> cuda_network(const Network& net);

}  // namespace zopo
