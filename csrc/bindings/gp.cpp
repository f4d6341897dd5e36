// Binding of the Gaussian process on the CPU; bindings/cuda_models.cpp has the CUDA one.
#include "bindings/gp.hpp"

#include <memory>
#include <utility>

#include "gp/cpu_engine.hpp"

namespace zopo {

void bind_gp(py::module_& m) {
  bind_process<GaussianProcess<Cpu>>(
      m, "GaussianProcess", "Incremental Gaussian process on a network's tangent kernel.",
      [](NetworkPtr net) { return std::make_unique<GaussianProcess<Cpu>>(std::move(net)); });
}

}  // namespace zopo
