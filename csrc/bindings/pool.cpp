// Binding of the pool on the CPU; bindings/cuda_models.cpp has the CUDA one.
#include "bindings/pool.hpp"

#include <memory>

namespace zopo {
namespace {

std::unique_ptr<Pool<Cpu>> make_pool(const py::object& Z, const py::object& mean,
                                     const py::object& scale) {
  Standardised s(Z, mean, scale);
  return std::make_unique<Pool<Cpu>>(s.Z.data(), s.precision, s.m, s.d, std::move(s.mean),
                                     std::move(s.inverse_scale));
}

}  // namespace

void bind_pool(py::module_& m) {
  bind_pool_of<Pool<Cpu>>(m, "Pool", "Candidate embeddings and their availability.",
                          py::init(&make_pool), "embeddings"_a, "mean"_a, "scale"_a,
                          py::keep_alive<1, 2>());
}

}  // namespace zopo
