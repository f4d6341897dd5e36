// With bindings_arrays.hpp the only file that knows pybind11: checks what comes in, releases the
// GIL, names the errors.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "bindings_arrays.hpp"
#include "error.hpp"
#include "gp.hpp"
#include "local_gradient.hpp"
#include "ntk.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "simd.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace zopo {
namespace {

using NetworkPtr = std::shared_ptr<Network>;  // immutable; pybind11 holders cannot say const
using Gp = GaussianProcess<Cpu>;
using CpuPool = Pool<Cpu>;
using Local = LocalGradient<Cpu>;

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

double gradient_prior_trace(const NetworkPtr& net, const py::object& x_) {
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(net->dim()));
  Points<Cpu> point;
  point.append(*net, x.data(), 1);
  Linearization at;
  ntk_linearize<Cpu>(*net, point.view(), at);
  return at.prior_trace;
}

// ---- Gaussian process -------------------------------------------------------------------------

// Runs f on a model with its lock held and the GIL released: calls from two threads take turns.
template <class Model, class F>
auto locked(const Model& model, F&& f) {
  const py::gil_scoped_release nogil;
  const std::lock_guard lock(model.mutex());
  return f();
}

void gp_append(Gp& gp, const py::object& X_, const py::object& y_, const py::object& noise_) {
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(gp.network().dim()));
  const Array y = doubles_like(y_, "y", X.shape(0)),
              noise = doubles_like(noise_, "noise", X.shape(0));
  for (std::size_t i = 0; i < rows(noise); ++i)
    if (noise.data()[i] < 0.0)
      throw ArrayError("noise: a variance cannot be negative, got " +
                       std::to_string(noise.data()[i]));
  locked(gp, [&] { gp.append(X.data(), y.data(), noise.data(), rows(X)); });
}

py::tuple gp_posterior(const Gp& gp, const py::object& X_) {
  const std::size_t d = gp.network().dim();
  const Array X = doubles(X_, "x", 2, static_cast<py::ssize_t>(d));
  const std::size_t q = rows(X);
  Array mean = vector(q), variance = vector(q), gradient = matrix(q, d), uncertainty = vector(q);
  const PosteriorOut out = {mean.mutable_data(), variance.mutable_data(), gradient.mutable_data(),
                            uncertainty.mutable_data()};
  locked(gp, [&] { gp.posterior(X.data(), q, out); });
  return py::make_tuple(mean, variance, gradient, uncertainty);
}

// The same without the gradient and its uncertainty, for scoring many candidates.
py::tuple gp_predict(const Gp& gp, const py::object& X_) {
  const Array X = doubles(X_, "x", 2, static_cast<py::ssize_t>(gp.network().dim()));
  Array mean = vector(rows(X)), variance = vector(rows(X));
  const PosteriorOut out = {mean.mutable_data(), variance.mutable_data(), nullptr, nullptr};
  locked(gp, [&] { gp.posterior(X.data(), rows(X), out); });
  return py::make_tuple(mean, variance);
}

Array gp_gradient_covariance(const Gp& gp, const py::object& x_) {
  const std::size_t d = gp.network().dim();
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(d));
  Array out = matrix(d, d);
  double* p = out.mutable_data();
  locked(gp, [&] { gp.gradient_covariance(x.data(), p); });
  return out;
}

std::size_t checked_index(py::ssize_t i, std::size_t n, const char* what) {
  if (i < 0 || static_cast<std::size_t>(i) >= n)
    throw IndexError(std::string(what) + ": index " + std::to_string(i) + " is not in [0, " +
                     std::to_string(n) + ")");
  return static_cast<std::size_t>(i);
}

// ---- pool -------------------------------------------------------------------------------------

std::unique_ptr<CpuPool> make_pool(const py::object& Z_, const py::object& mean_,
                                   const py::object& scale_) {
  const py::array Z = contiguous(Z_, "embeddings");
  const Precision precision = precision_of(Z, "embeddings");
  if (Z.ndim() != 2 || Z.shape(1) == 0)
    throw ArrayError("embeddings: expected (m, d) with d > 0, got shape " + shape_of(Z));
  require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
  const Array mean = doubles(mean_, "mean", 1, Z.shape(1)),
              scale = doubles(scale_, "scale", 1, Z.shape(1));
  Doubles inverse(scale.data(), scale.data() + scale.size());
  for (double& s : inverse) {
    if (!(s > 0.0)) throw ArrayError("scale: every entry must be positive");
    s = 1.0 / s;
  }
  return std::make_unique<CpuPool>(Z.data(), precision, static_cast<std::size_t>(Z.shape(0)),
                                   static_cast<std::size_t>(Z.shape(1)),
                                   Doubles(mean.data(), mean.data() + mean.size()),
                                   std::move(inverse));
}

py::array_t<std::int64_t> pool_k_nearest(const CpuPool& pool, const py::object& x_, py::ssize_t k,
                                         bool available_only) {
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(pool.dim()));
  if (k < 0) throw ArrayError("k: must not be negative, got " + std::to_string(k));
  std::vector<Neighbor> found;
  {
    const py::gil_scoped_release nogil;
    found = pool.k_nearest(x.data(), static_cast<std::size_t>(k), available_only);
  }
  py::array_t<std::int64_t> out(static_cast<py::ssize_t>(found.size()));
  for (std::size_t i = 0; i < found.size(); ++i) out.mutable_data()[i] = found[i].index;
  return out;
}

Array pool_rows(const CpuPool& pool, const py::object& indices_) {
  const py::array a = contiguous(indices_, "indices");
  if (!py::isinstance<py::array_t<std::int64_t>>(a) || a.ndim() != 1)
    throw ArrayError("indices: expected int64 of shape (n,), got " +
                     std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  const auto indices = py::reinterpret_borrow<py::array_t<std::int64_t>>(a);
  const auto n = static_cast<std::size_t>(indices.size());
  Array out = matrix(n, pool.dim());
  for (std::size_t i = 0; i < n; ++i)
    pool.row(checked_index(indices.data()[i], pool.size(), "rows"),
             out.mutable_data() + i * pool.dim());
  return out;
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

// ---- gradient at a center -----------------------------------------------------------------------

void local_append(Local& local, py::ssize_t candidate, double y, double noise) {
  const std::size_t at = checked_index(candidate, local.pool().size(), "candidate");
  if (!std::isfinite(y)) throw ArrayError("y: NaN or infinity");
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance is finite and not negative");
  locked(local, [&] { local.append(at, y, noise); });
}

void local_refit(Local& local, const py::object& y_, const py::object& noise_) {
  const Array y = doubles(y_, "y", 1), noise = doubles_like(noise_, "noise", y.shape(0));
  for (std::size_t i = 0; i < rows(noise); ++i)
    if (noise.data()[i] < 0.0) throw ArrayError("noise: a variance cannot be negative");
  locked(local, [&] { local.refit(y.data(), noise.data(), rows(y)); });
}

double local_log_likelihood(Local& local, const py::object& y_, double noise) {
  const Array y = doubles_like(y_, "y", static_cast<py::ssize_t>(local.size()));
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance is finite and not negative");
  return locked(local, [&] { return local.log_likelihood(y.data(), noise); });
}

double local_uncertainty(Local& local, const std::vector<std::int64_t>& pending, double noise) {
  for (const auto i : pending) checked_index(i, local.pool().size(), "pending");
  return locked(local,
                [&] { return local.relative_uncertainty(pending.data(), pending.size(), noise); });
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
  m.def("gradient_prior_trace", &gradient_prior_trace, "network"_a, "x"_a);

  py::class_<Gp>(m, "GaussianProcess", "Incremental Gaussian process on that kernel.")
      .def(py::init([](NetworkPtr net) { return std::make_unique<Gp>(std::move(net)); }),
           "network"_a)
      .def("__len__", [](const Gp& gp) { return locked(gp, [&] { return gp.size(); }); })
      .def_property_readonly("jitter",
                             [](const Gp& gp) { return locked(gp, [&] { return gp.jitter(); }); })
      .def("append", &gp_append, "X"_a, "y"_a, "noise"_a)
      .def("pop", [](Gp& gp) { locked(gp, [&] { gp.pop(); }); })
      .def(
          "remove",
          [](Gp& gp, py::ssize_t i) {
            if (i < 0) throw IndexError("remove: index " + std::to_string(i) + " is negative");
            locked(gp, [&] { gp.remove(static_cast<std::size_t>(i)); });
          },
          "i"_a)
      .def(
          "set_targets",
          [](Gp& gp, const py::object& y_) {
            const Array y = doubles(y_, "y", 1);
            locked(gp, [&] { gp.set_targets(y.data(), rows(y)); });
          },
          "y"_a)
      .def("posterior", &gp_posterior, "x"_a)
      .def("predict", &gp_predict, "x"_a)
      .def("gradient_covariance", &gp_gradient_covariance, "x"_a)
      .def("log_marginal_likelihood",
           [](const Gp& gp) { return locked(gp, [&] { return gp.log_marginal_likelihood(); }); })
      .def("state", [](const Gp& gp) {
        const GpState state = locked(gp, [&] { return gp.state(); });
        const std::size_t n = state.y.size();
        Array X = matrix(n, gp.network().dim());
        std::copy(state.X.begin(), state.X.end(), X.mutable_data());
        return py::make_tuple(X, Array(n, state.y.data()), Array(n, state.noise.data()));
      });

  py::class_<CpuPool>(m, "Pool", "Candidate embeddings and which of them are taken.")
      .def(py::init(&make_pool), "embeddings"_a, "mean"_a, "scale"_a, py::keep_alive<1, 2>())
      .def("__len__", &CpuPool::size)
      .def_property_readonly("available", &CpuPool::available)
      .def(
          "take", [](CpuPool& p, py::ssize_t i) { p.take(checked_index(i, p.size(), "take")); },
          "i"_a)
      .def(
          "release",
          [](CpuPool& p, py::ssize_t i) { p.release(checked_index(i, p.size(), "release")); },
          "i"_a)
      .def(
          "taken",
          [](const CpuPool& p, py::ssize_t i) {
            return p.taken(checked_index(i, p.size(), "taken"));
          },
          "i"_a)
      .def(
          "row",
          [](const CpuPool& p, py::ssize_t i) {
            Array out = vector(p.dim());
            p.row(checked_index(i, p.size(), "row"), out.mutable_data());
            return out;
          },
          "i"_a)
      .def("rows", &pool_rows, "indices"_a)
      .def(
          "nearest",
          [](const CpuPool& p, const py::object& x_) {
            const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(p.dim()));
            const py::gil_scoped_release nogil;
            return p.nearest(x.data());
          },
          "x"_a)
      .def(
          "radius",
          [](const CpuPool& p, py::ssize_t i, std::size_t k) {
            const std::size_t at = checked_index(i, p.size(), "radius");
            const py::gil_scoped_release nogil;
            return p.radius(at, k);
          },
          "i"_a, "k"_a)
      .def("k_nearest", &pool_k_nearest, "x"_a, "k"_a, "available_only"_a = false)
      .def(
          "distances",
          [](const CpuPool& p, const py::object& x_) {
            const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(p.dim()));
            Array out = vector(p.size());
            double* to = out.mutable_data();
            const py::gil_scoped_release nogil;
            p.distances(x.data(), to);
            return out;
          },
          "x"_a);

  py::class_<Local>(m, "LocalGradient",
                    "The posterior mean's gradient at one candidate, kept up to date.")
      .def(py::init([](NetworkPtr net, const CpuPool& pool, std::size_t capacity) {
             if (net->dim() != pool.dim())
               throw ArrayError("pool: dimension " + std::to_string(pool.dim()) +
                                ", the network has " + std::to_string(net->dim()));
             return std::make_unique<Local>(std::move(net), pool, capacity);
           }),
           "network"_a, "pool"_a, "capacity"_a = 0, py::keep_alive<1, 3>())
      .def("__len__", [](const Local& l) { return locked(l, [&] { return l.size(); }); })
      .def("clear", [](Local& l) { locked(l, [&] { l.clear(); }); })
      .def("append", &local_append, "candidate"_a, "y"_a, "noise"_a)
      .def("refit", &local_refit, "y"_a, "noise"_a)
      .def("log_likelihood", &local_log_likelihood, "y"_a, "noise"_a)
      .def(
          "center",
          [](Local& l, py::ssize_t candidate) {
            const std::size_t at = checked_index(candidate, l.pool().size(), "candidate");
            locked(l, [&] { l.center(at); });
          },
          "candidate"_a)
      .def("gradient",
           [](Local& l) {
             Array out = vector(l.pool().dim());
             double* p = out.mutable_data();
             locked(l, [&] { l.gradient(p); });
             return out;
           })
      .def("relative_uncertainty", &local_uncertainty, "pending"_a, "noise"_a)
      .def(
          "step", [](Local& l, double length) { return locked(l, [&] { return l.step(length); }); },
          "length"_a);
}

}  // namespace zopo
