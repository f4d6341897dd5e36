// The network's weights on a device (cuda/ntk/network.cuh).
#include "cuda/ntk/network.cuh"

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace zopo {

CudaNetwork::~CudaNetwork() {
  if (!data.data()) return;
  try {
    const DeviceGuard guard(ordinal);
    (void)cudaDeviceSynchronize();
    Buffer<double>().swap(data);
  } catch (const DeviceError&) {  // the context is lost, and its memory is freed already
  }
}

std::shared_ptr<const CudaNetwork> cuda_network(const Network& net) {
  const std::size_t layers = net.layers();
  if (layers > kMaxLayers)
    throw ConfigError("network: has " + std::to_string(layers) +
                      " hidden layers, the CUDA engine takes at most " +
                      std::to_string(kMaxLayers) + "; use device='cpu'");
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), "cudaGetDevice");
  auto& copies = net.copies();
  const std::lock_guard lock(copies.mutex);
  auto& kept = copies.on_device[ordinal];
  if (!kept) {
    auto made = std::make_shared<CudaNetwork>();
    made->ordinal = ordinal;
    NetworkView& v = made->view;
    v = {};
    v.layers = static_cast<int>(layers);
    v.dim = static_cast<int>(net.dim());
    v.hidden = static_cast<int>(net.hidden());
    std::vector<double> all;
    std::vector<std::pair<const double**, std::size_t>> places;
    const auto add = [&](const double*& to, const double* from, std::size_t size) {
      places.emplace_back(&to, all.size());
      all.insert(all.end(), from, from + size);
      all.resize((all.size() + 1) / 2 * 2);  // every array starts at a multiple of 16 bytes
    };
    for (std::size_t l = 0; l <= layers; ++l) {
      v.width[l] = static_cast<int>(net.width(l));
      if (l > 0) v.offset[l] = static_cast<int>(net.offset(l));
      const std::size_t outputs = l < layers ? net.width(l + 1) : 1;
      add(v.weight[l], net.weight(l), outputs * net.width(l));
      if (l < layers) {
        add(v.transposed[l], net.transposed(l), outputs * net.width(l));
        add(v.bias[l], net.bias(l), outputs);
      }
    }
    add(v.first_gram, net.first_gram(), net.width(1) * net.width(1));
    made->data = Buffer<double>(all.size(), nullptr);
    copy(made->data.data(), all.data(), all.size() * sizeof(double), nullptr);
    synchronize(nullptr);
    for (const auto& [to, at] : places) *to = made->data.data() + at;
    kept = made;
  }
  return std::static_pointer_cast<const CudaNetwork>(kept);
}

}  // namespace zopo
