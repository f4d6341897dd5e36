// The pool of candidates, and the gradient at one of them.
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "pool/pool.hpp"
#include "search/local_gradient.hpp"

namespace zopo {
namespace {

using CpuPool = Pool<Cpu>;
using Local = LocalGradient<Cpu>;

// Embeddings and what standardises them, checked.
struct Standardised {
  py::array Z;
  Precision precision;
  std::size_t m, d;
  Doubles mean, inverse_scale;

  Standardised(const py::object& Z_, const py::object& mean_, const py::object& scale_)
      : Z(contiguous(Z_, "embeddings")), precision(precision_of(Z, "embeddings")) {
    if (Z.ndim() != 2 || Z.shape(1) == 0)
      throw ArrayError("embeddings: expected (m, d) with d > 0, got shape " + shape_of(Z));
    require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
    m = static_cast<std::size_t>(Z.shape(0));
    d = static_cast<std::size_t>(Z.shape(1));
    const Array mu = doubles(mean_, "mean", 1, Z.shape(1)),
                scale = doubles(scale_, "scale", 1, Z.shape(1));
    mean.assign(mu.data(), mu.data() + mu.size());
    inverse_scale.assign(scale.data(), scale.data() + scale.size());
    for (double& s : inverse_scale) {
      if (!(s > 0.0)) throw ArrayError("scale: every entry must be positive");
      s = 1.0 / s;
    }
  }
};

std::unique_ptr<CpuPool> make_pool(const py::object& Z, const py::object& mean,
                                   const py::object& scale) {
  Standardised s(Z, mean, scale);
  return std::make_unique<CpuPool>(s.Z.data(), s.precision, s.m, s.d, std::move(s.mean),
                                   std::move(s.inverse_scale));
}

#ifdef ZOPO_HAS_CUDA
std::unique_ptr<Pool<Cuda>> make_cuda_pool(const py::object& Z, const py::object& mean,
                                           const py::object& scale, int ordinal) {
  Standardised s(Z, mean, scale);
  const py::gil_scoped_release nogil;
  return std::make_unique<Pool<Cuda>>(s.Z.data(), false, s.precision, s.m, s.d, std::move(s.mean),
                                      std::move(s.inverse_scale), ordinal, nullptr);
}
#endif

template <class P>
py::array_t<std::int64_t> pool_k_nearest(const P& pool, const py::object& x_, py::ssize_t k,
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

template <class P>
Array pool_rows(const P& pool, const py::object& indices_) {
  const py::array a = contiguous(indices_, "indices");
  if (!py::isinstance<py::array_t<std::int64_t>>(a) || a.ndim() != 1)
    throw ArrayError("indices: expected int64 of shape (n,), got " +
                     std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  const auto indices = py::reinterpret_borrow<py::array_t<std::int64_t>>(a);
  const auto n = static_cast<std::size_t>(indices.size());
  for (std::size_t i = 0; i < n; ++i) checked_index(indices.data()[i], pool.size(), "rows");
  Array out = matrix(n, pool.dim());
  double* to = out.mutable_data();
  const py::gil_scoped_release nogil;
  pool.rows(indices.data(), n, to);
  return out;
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

// What the pools of all devices have; the class is made by `how`.
template <class P, class... How>
void bind_pool_of(py::module_& m, const char* name, const char* doc, How&&... how) {
  py::class_<P>(m, name, doc)
      .def(std::forward<How>(how)...)
      .def("__len__", &P::size)
      .def_property_readonly("available", &P::available)
      .def(
          "take", [](P& p, py::ssize_t i) { p.take(checked_index(i, p.size(), "take")); }, "i"_a)
      .def(
          "release", [](P& p, py::ssize_t i) { p.release(checked_index(i, p.size(), "release")); },
          "i"_a)
      .def(
          "taken",
          [](const P& p, py::ssize_t i) { return p.taken(checked_index(i, p.size(), "taken")); },
          "i"_a)
      .def(
          "row",
          [](const P& p, py::ssize_t i) {
            Array out = vector(p.dim());
            p.row(checked_index(i, p.size(), "row"), out.mutable_data());
            return out;
          },
          "i"_a)
      .def("rows", &pool_rows<P>, "indices"_a)
      .def(
          "nearest",
          [](const P& p, const py::object& x_) {
            const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(p.dim()));
            const py::gil_scoped_release nogil;
            return p.nearest(x.data());
          },
          "x"_a)
      .def(
          "radius",
          [](const P& p, py::ssize_t i, std::size_t k) {
            const std::size_t at = checked_index(i, p.size(), "radius");
            const py::gil_scoped_release nogil;
            return p.radius(at, k);
          },
          "i"_a, "k"_a)
      .def("k_nearest", &pool_k_nearest<P>, "x"_a, "k"_a, "available_only"_a = false)
      .def(
          "distances",
          [](const P& p, const py::object& x_) {
            const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(p.dim()));
            Array out = vector(p.size());
            double* to = out.mutable_data();
            const py::gil_scoped_release nogil;
            p.distances(x.data(), to);
            return out;
          },
          "x"_a);
}

}  // namespace

void bind_pool(py::module_& m) {
  bind_pool_of<CpuPool>(m, "Pool", "Candidate embeddings and which of them are taken.",
                        py::init(&make_pool), "embeddings"_a, "mean"_a, "scale"_a,
                        py::keep_alive<1, 2>());
#ifdef ZOPO_HAS_CUDA
  bind_pool_of<Pool<Cuda>>(m, "CudaPool", "The same on a CUDA device, to which they are copied.",
                           py::init(&make_cuda_pool), "embeddings"_a, "mean"_a, "scale"_a,
                           "ordinal"_a = 0);
#endif
}

void bind_local_gradient(py::module_& m) {
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
