// Binding of a pool, shared by its devices (bindings/pool.cpp, bindings/cuda_models.cpp).
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "pool/pool.hpp"

namespace zopo {

// Checked embeddings with the moments that standardise them.
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

// Bind the pool of one device; `how` constructs it.
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

}  // namespace zopo
