// The network's weights on a device, in a form that kernels take by value.
#pragma once

#include <memory>

#include "cuda/runtime/support.cuh"
#include "ntk/ntk.hpp"

namespace zopo {

constexpr int kMostLayers = 8;  // hidden layers that kernels have room for

// As Network (ntk/ntk.hpp), with device pointers: width[0] = d, width[1..layers] the hidden widths;
// offset[l] is where h_l (l >= 1) and D_{l-1} start in a point's row of `hidden` numbers.
struct NetworkView {
  int layers, dim, hidden;
  int width[kMostLayers + 2], offset[kMostLayers + 2];
  const double* weight[kMostLayers + 1];  // W_l (width[l + 1], width[l]); the last (1, width[L])
  const double* transposed[kMostLayers + 1];  // W_l^T (width[l], width[l + 1]), l < layers
  const double* bias[kMostLayers + 1];        // b_l (width[l + 1],), l < layers
  const double* first_gram;                   // W_0 W_0^T (width[1], width[1])
};

// Kernels on any stream may still read the weights when the network goes: they are given back once
// the device has done all it holds.
struct CudaNetwork {
  int ordinal;
  Buffer<double> data;
  NetworkView view;

  CudaNetwork() = default;
  CudaNetwork(const CudaNetwork&) = delete;
  CudaNetwork& operator=(const CudaNetwork&) = delete;
  ~CudaNetwork();
};

// The copy on the current device, made at first use and kept with the network. ConfigError for a
// network of more than kMostLayers hidden layers.
std::shared_ptr<const CudaNetwork> cuda_network(const Network& net);

}  // namespace zopo
