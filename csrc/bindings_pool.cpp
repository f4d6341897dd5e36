// The pool of candidates, and the gradient at one of them.
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "local_gradient.hpp"
#include "pool.hpp"

namespace zopo {
namespace {

using CpuPool = Pool<Cpu>;
using Local = LocalGradient<Cpu>;

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

}  // namespace

void bind_pool(py::module_& m) {
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
