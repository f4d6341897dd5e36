// Declarations that the files of the bindings share. Only these files know pybind11: they check
// arguments, release the GIL and translate errors.
#pragma once

#include <memory>
#include <mutex>

#include "bindings/arrays.hpp"
#include "model/prior_kernel.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

using namespace pybind11::literals;
using NetworkPtr = std::shared_ptr<Network>;  // immutable, but pybind11 holders cannot say const

// Call f on a model with its lock held and the GIL released, so that calls from threads serialise.
template <class Model, class F>
auto locked(const Model& model, F&& f) {
  const py::gil_scoped_release nogil;
  const std::lock_guard lock(model.mutex());
  return f();
}

inline std::size_t checked_index(py::ssize_t i, std::size_t n, const char* what) {
  if (i < 0 || static_cast<std::size_t>(i) >= n)
    throw IndexError(std::string(what) + ": index " + std::to_string(i) + " is not in [0, " +
                     std::to_string(n) + ")");
  return static_cast<std::size_t>(i);
}

// Return the mean over kernels, each a Network or a tuple (depth, weight_variance, bias_variance, ntk).
PriorKernel prior_kernel(const py::list& kernels, double scale);

// Add classes and functions to the module, one function for each source.
void bind_ntk(py::module_& m);
void bind_gp(py::module_& m);
void bind_pool(py::module_& m);
void bind_local_gradient(py::module_& m);
#ifdef ZOPO_HAS_CUDA
void bind_cuda_ntk(py::module_& m);
void bind_cuda_arrays(py::module_& m);
void bind_cuda_models(py::module_& m);
#endif
void bind_region_posterior(py::module_& m);
void bind_search(py::module_& m);

}  // namespace zopo
