// The module: the kernel, what has no class of its own, and the names of the errors.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "bindings/bindings.hpp"
#include "cuda/runtime/device.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

// ---- kernel -----------------------------------------------------------------------------------

NetworkPtr make_network(const py::list& weights, const py::list& biases) {
  if (weights.size() < 2 || weights.size() != biases.size())
    throw ArrayError(
        "weights and biases: expected two lists of the same length, at least two (one hidden "
        "layer); got " +
        std::to_string(weights.size()) + " and " + std::to_string(biases.size()));
  std::vector<std::size_t> width;
  std::vector<Doubles> W, b;
  for (std::size_t l = 0; l < weights.size(); ++l) {
    const std::string w = "weights[" + std::to_string(l) + "]",
                      v = "biases[" + std::to_string(l) + "]";
    const Array weight = doubles(weights[l], w.c_str(), 2,
                                 l ? static_cast<py::ssize_t>(width.back()) : py::ssize_t{-1});
    if (l == 0) width.push_back(static_cast<std::size_t>(weight.shape(1)));
    if (weight.shape(0) == 0 || weight.shape(1) == 0)
      throw ArrayError(w + ": empty, shape " + shape_of(weight));
    const bool last = l + 1 == weights.size();
    if (last && weight.shape(0) != 1)
      throw ArrayError(w + ": the last one maps to the output and has one row, got shape " +
                       shape_of(weight));
    const Array bias = doubles_like(biases[l], v.c_str(), weight.shape(0));
    if (!last) width.push_back(rows(weight));
    W.emplace_back(weight.data(), weight.data() + weight.size());
    b.emplace_back(bias.data(), bias.data() + bias.size());
  }
  return std::make_shared<Network>(std::move(width), std::move(W), std::move(b));
}

// The caller's points, where they lie, with their features.
struct Featured {
  std::unique_ptr<double[]> features;
  PointsView view;

  Featured(const Network& net, const Array& X) {
    const std::size_t size = rows(X) * net.hidden();
    features = std::make_unique_for_overwrite<double[]>(2 * size);
    view = {rows(X), X.data(), features.get(), features.get() + size};
    ntk_features<Cpu>(net, X.data(), rows(X), features.get(), features.get() + size);
  }
};

Array gram(const NetworkPtr& net, const py::object& X_, const py::object& Y_) {
  const auto d = static_cast<py::ssize_t>(net->dim());
  const Array X = doubles(X_, "X", 2, d);
  const bool symmetric = Y_.is_none();
  const Array Y = symmetric ? X : doubles(Y_, "Y", 2, d);
  const std::size_t n = rows(X), m = rows(Y);
  Array K = matrix(n, m);
  double* out = K.mutable_data();
  const py::gil_scoped_release nogil;
  ntk_gram_points<Cpu>(*net, X.data(), n, symmetric ? nullptr : Y.data(), m, out);
  return K;
}

Array diag(const NetworkPtr& net, const py::object& X_) {
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(net->dim()));
  Array out = vector(rows(X));
  double* p = out.mutable_data();
  const py::gil_scoped_release nogil;
  ntk_diag<Cpu>(*net, Featured(*net, X).view, p);
  return out;
}

Array gradient(const NetworkPtr& net, const py::object& x_, const py::object& X_) {
  const auto d = static_cast<py::ssize_t>(net->dim());
  const Array x = doubles(x_, "x", 1, d), X = doubles(X_, "X", 2, d);
  const std::size_t n = rows(X);
  Array G = matrix(n, net->dim());
  double* out = G.mutable_data();
  const py::gil_scoped_release nogil;
  Points<Cpu> point;
  point.append(*net, x.data(), 1);
  const Featured others(*net, X);
  Doubles k(n), gamma((net->layers() + 1) * n);
  ntk_row<Cpu>(*net, point.view(), others.view, k.data(), gamma.data());
  Linearization at;
  ntk_linearize<Cpu>(*net, point.view(), at);
  ntk_gradient_rows<Cpu>(*net, at, others.view, gamma.data(), out);
  return G;
}

Array gram_gradient(const NetworkPtr& net, const py::object& X_, const py::object& Y_,
                    const py::object& weight_) {
  const auto d = static_cast<py::ssize_t>(net->dim());
  const Array X = doubles(X_, "X", 2, d), Y = doubles(Y_, "Y", 2, d),
              weight = doubles(weight_, "weight", 2, Y.shape(0));
  if (weight.shape(0) != X.shape(0))
    throw ArrayError("weight: expected a row for each of X's " + std::to_string(X.shape(0)) +
                     ", got shape " + shape_of(weight));
  Array out = matrix(rows(X), net->dim());
  double* p = out.mutable_data();
  const py::gil_scoped_release nogil;
  ntk_gram_gradient<Cpu>(*net, X.data(), rows(X), Y.data(), rows(Y), weight.data(), p);
  return out;
}

double gradient_prior_trace(const NetworkPtr& net, const py::object& x_) {
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(net->dim()));
  Points<Cpu> point;
  point.append(*net, x.data(), 1);
  Linearization at;
  ntk_linearize<Cpu>(*net, point.view(), at);
  return at.prior_trace;
}

py::tuple moments(const py::object& Z_) {
  const py::array Z = contiguous(Z_, "embeddings");
  const Precision precision = precision_of(Z, "embeddings");
  if (Z.ndim() != 2 || Z.size() == 0)
    throw ArrayError("embeddings: expected (m, d), not empty, got shape " + shape_of(Z));
  require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
  const auto [mean, deviation] =
      column_moments(Z.data(), precision, static_cast<std::size_t>(Z.shape(0)),
                     static_cast<std::size_t>(Z.shape(1)));
  return py::make_tuple(Array(mean.size(), mean.data()), Array(deviation.size(), deviation.data()));
}

// All bytes of an array: what a scan could reach at best on this machine.
std::uint64_t read_pass(const py::object& array_) {
  const py::array a = contiguous(array_, "array");
  const auto* data = static_cast<const char*>(a.data());
  const auto size = static_cast<std::size_t>(a.nbytes());
  const py::gil_scoped_release nogil;
  std::atomic<std::uint64_t> word{0};
  parallel_ranges(size / 64, static_cast<double>(size), [&](std::size_t begin, std::size_t end) {
    word ^= simd().read(data + 64 * begin, 64 * (end - begin));
  });
  return word ^ simd().read(data + size / 64 * 64, size % 64);
}

// ---- errors -----------------------------------------------------------------------------------

void translate(std::exception_ptr p) {
  const auto raise = [](const char* name, const std::exception& e) {
    const py::object type = py::module_::import("zopo_fast.errors").attr(name);
    py::set_error(type, e.what());
  };
  try {
    if (p) std::rethrow_exception(p);
  } catch (const ArrayError& e) {
    raise("ArrayError", e);
  } catch (const IndexError& e) {
    raise("UnknownIndexError", e);
  } catch (const NotPositiveDefiniteError& e) {
    raise("NotPositiveDefiniteError", e);
  } catch (const ConfigError& e) {
    raise("ConfigError", e);
  } catch (const DeviceMemoryError& e) {
    raise("DeviceMemoryError", e);
  } catch (const DeviceLostError& e) {
    raise("DeviceLostError", e);
  } catch (const DeviceError& e) {
    raise("DeviceError", e);
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native operations of zopo_fast: C-contiguous float64 in, new arrays out.";
  py::register_local_exception_translator(translate);

  m.def("isa", [] { return simd().name; }, "The instruction set in use: baseline, avx2 or avx512.");
  m.def(
      "set_threads", [](std::size_t n) { thread_limit = n; }, "n"_a,
      "The most threads a call may use; 0: as many as there are cores.");
  m.def("threads", [] { return parallel_parts(SIZE_MAX, 1e18); }, "Threads a large call uses.");
  m.def("read_pass", &read_pass, "array"_a,
        "Read an array on all threads, for the benchmarks; the xor of its 64-bit words.");
  m.def("column_moments", &moments, "embeddings"_a,
        "Column means and standard deviations, float64.");

  py::class_<Network, NetworkPtr>(m, "Network",
                                  "Weights of the network whose tangent kernel is used.")
      .def(py::init(&make_network), "weights"_a, "biases"_a)
      .def_property_readonly("dim", &Network::dim)
      .def_property_readonly("layers", &Network::layers);
  m.def("gram", &gram, "network"_a, "X"_a, "Y"_a = py::none());
  m.def("diag", &diag, "network"_a, "X"_a);
  m.def("gradient", &gradient, "network"_a, "x"_a, "X"_a);
  m.def("gram_gradient", &gram_gradient, "network"_a, "X"_a, "Y"_a, "weight"_a);
  m.def("gradient_prior_trace", &gradient_prior_trace, "network"_a, "x"_a);
  bind_gp(m);
  bind_pool(m);
  bind_local_gradient(m);
  bind_region(m);
  bind_studies(m);

  m.def("cuda_device_count", &cuda_device_count, "CUDA devices that this build can use.");
  m.def("cuda_status", &cuda_status, "What was found, or why there is none, in one line.");
#ifdef ZOPO_HAS_CUDA
  bind_device(m);
  bind_device_models(m);
  bind_ntk_cuda(m);
  m.attr("built_with_cuda") = true;
#else
  m.attr("built_with_cuda") = false;
#endif
}

}  // namespace zopo
