// CUDA models, and the kernel and the Gaussian process on device arrays: arguments are checked on
// the device and results stay there.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda_arrays.hpp"
#include "bindings/cuda_ntk.hpp"
#include "bindings/gp.hpp"
#include "bindings/pool.hpp"
#include "cuda/gp/engine.hpp"
#include "cuda/ntk/from_arrays.hpp"
#include "cuda/pool/pool.hpp"

namespace zopo {
namespace {

using Gp = GaussianProcess<Cuda>;

std::ptrdiff_t dim(const Network& net) { return static_cast<std::ptrdiff_t>(net.dim()); }

std::unique_ptr<Pool<Cuda>> make_cuda_pool(const py::object& Z, const py::object& mean,
                                           const py::object& scale, int ordinal) {
  Standardised s(Z, mean, scale);
  const py::gil_scoped_release nogil;
  return std::make_unique<Pool<Cuda>>(s.Z.data(), false, s.precision, s.m, s.d, std::move(s.mean),
                                      std::move(s.inverse_scale), ordinal, nullptr);
}

// ---- kernel ------------------------------------------------------------------------------------

CudaArray gram(const NetworkPtr& net, const CudaArray& X, const std::optional<CudaArray>& Y,
               const std::string& precision_, std::uintptr_t stream_) {
  const GramPrecision precision = gram_precision(precision_);
  const StreamHandle stream = stream_handle(stream_);
  const py::gil_scoped_release nogil;
  const DeviceArgument left{"X", X.get()}, right{"Y", Y ? Y->get() : X.get()};
  require_shape(left, 2, dim(*net));
  require_shape(right, 2, dim(*net));
  if (Y)
    on_device({left, right}, X->ordinal, stream);
  else
    on_device({left}, X->ordinal, stream);
  return std::make_shared<DeviceArray>(
      gram_of_arrays(*net, *X, Y ? Y->get() : nullptr, precision, stream));
}

CudaArray diag(const NetworkPtr& net, const CudaArray& X, std::uintptr_t stream_) {
  const StreamHandle stream = stream_handle(stream_);
  const py::gil_scoped_release nogil;
  require_doubles({"X", X.get()}, 2, dim(*net));
  on_device({{"X", X.get()}}, X->ordinal, stream);
  return std::make_shared<DeviceArray>(diag_of_arrays(*net, *X, stream));
}

CudaArray gradient(const NetworkPtr& net, const CudaArray& x, const CudaArray& X,
                   std::uintptr_t stream_) {
  const StreamHandle stream = stream_handle(stream_);
  const py::gil_scoped_release nogil;
  require_doubles({"x", x.get()}, 1, dim(*net));
  require_doubles({"X", X.get()}, 2, dim(*net));
  on_device({{"x", x.get()}, {"X", X.get()}}, X->ordinal, stream);
  return std::make_shared<DeviceArray>(gradient_of_arrays(*net, *x, *X, stream));
}

CudaArray gram_gradient(const NetworkPtr& net, const CudaArray& X, const CudaArray& Y,
                        const CudaArray& weight, std::uintptr_t stream_) {
  const StreamHandle stream = stream_handle(stream_);
  const py::gil_scoped_release nogil;
  require_doubles({"X", X.get()}, 2, dim(*net));
  require_doubles({"Y", Y.get()}, 2, dim(*net));
  require_doubles({"weight", weight.get()}, 2, static_cast<std::ptrdiff_t>(Y->shape[0]));
  require_rows({"weight", weight.get()}, X->shape[0]);
  on_device({{"X", X.get()}, {"Y", Y.get()}, {"weight", weight.get()}}, X->ordinal, stream);
  return std::make_shared<DeviceArray>(gram_gradient_of_arrays(*net, *X, *Y, *weight, stream));
}

// ---- Gaussian process --------------------------------------------------------------------------

// Append X (n, d) and y (n,) on the device with noise (n,) on the host.
void append(Gp& gp, const CudaArray& X, const CudaArray& y, const py::object& noise_,
            std::uintptr_t stream) {
  require_doubles({"X", X.get()}, 2, dim(gp.network()));
  require_doubles({"y", y.get()}, 1);
  require_rows({"y", y.get()}, X->shape[0]);
  const Array noise = variances(noise_, static_cast<py::ssize_t>(X->shape[0]));
  locked(gp, [&] {
    // Finding no NaN or infinity waits for the caller's stream; the process has a stream of its
    // own.
    on_device({{"X", X.get()}, {"y", y.get()}}, X->ordinal, stream_handle(stream));
    gp.append(X->doubles(), y->doubles(), noise.data(), X->shape[0]);
  });
}

// Requested results besides mean and variance; each is (q,) or (q, d) for points x (q, d).
struct Parts {
  bool gradient = false, uncertainty = false, variance_gradient = false;
};

py::tuple posterior(const Gp& gp, const CudaArray& x, std::uintptr_t stream_, Parts parts) {
  require_doubles({"x", x.get()}, 2, dim(gp.network()));
  const StreamHandle stream = stream_handle(stream_);
  const std::size_t q = x->shape[0], d = gp.network().dim();
  std::vector<CudaArray> results;
  locked(gp, [&] {
    const auto room = [&](bool wanted, bool wide) -> double* {
      if (!wanted) return nullptr;
      results.push_back(new_cuda_array(wide ? std::vector<std::size_t>{q, d} : std::vector{q},
                                       x->ordinal, stream));
      return results.back()->mutable_doubles();
    };
    PosteriorOut out{};
    out.mean = room(true, false);
    out.variance = room(true, false);
    out.gradient = room(parts.gradient, true);
    out.uncertainty = room(parts.uncertainty, false);
    out.variance_gradient = room(parts.variance_gradient, true);
    // This waits for the stream: x is complete, and the process may write to the results.
    on_device({{"x", x.get()}}, x->ordinal, stream);
    gp.posterior(x->doubles(), q, out);
  });
  py::tuple given(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) given[i] = results[i];
  return given;
}

}  // namespace

void bind_cuda_models(py::module_& m) {
  bind_process<Gp>(
      m, "CudaGaussianProcess", "Incremental Gaussian process on a CUDA device.",
      [](NetworkPtr net, int ordinal) { return std::make_unique<Gp>(std::move(net), ordinal); },
      "ordinal"_a);
  bind_pool_of<Pool<Cuda>>(m, "CudaPool", "Pool on a CUDA device, which copies the embeddings.",
                           py::init(&make_cuda_pool), "embeddings"_a, "mean"_a, "scale"_a,
                           "ordinal"_a = 0);
  m.def("cuda_array_gram", &gram, "network"_a, "X"_a, "Y"_a, "precision"_a, "stream"_a);
  m.def("cuda_array_diag", &diag, "network"_a, "X"_a, "stream"_a);
  m.def("cuda_array_gradient", &gradient, "network"_a, "x"_a, "X"_a, "stream"_a);
  m.def("cuda_array_gram_gradient", &gram_gradient, "network"_a, "X"_a, "Y"_a, "weight"_a,
        "stream"_a);
  m.def("cuda_array_append", &append, "process"_a, "X"_a, "y"_a, "noise"_a, "stream"_a);
  const auto part = [&](const char* name, Parts parts) {
    m.def(
        name,
        [parts](const Gp& gp, const CudaArray& x, std::uintptr_t stream) {
          return posterior(gp, x, stream, parts);
        },
        "process"_a, "x"_a, "stream"_a);
  };
  part("cuda_array_posterior", {.gradient = true, .uncertainty = true});
  part("cuda_array_predict", {});
  part("cuda_array_derivatives", {.gradient = true, .variance_gradient = true});
}

}  // namespace zopo
