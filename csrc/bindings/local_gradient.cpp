// Binding of the gradient at one candidate (model/local_gradient.hpp).
#include "model/local_gradient.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"

namespace zopo {
namespace {

void local_append(LocalGradient& local, py::ssize_t candidate, double y, double noise) {
  const std::size_t at = checked_index(candidate, local.pool().size(), "candidate");
  if (!std::isfinite(y)) throw ArrayError("y: NaN or infinity");
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance must be finite and not negative");
  locked(local, [&] { local.append(at, y, noise); });
}

void local_refit(LocalGradient& local, const py::object& y_, const py::object& noise_) {
  const Array y = doubles(y_, "y", 1), noise = doubles_like(noise_, "noise", y.shape(0));
  for (std::size_t i = 0; i < rows(noise); ++i)
    if (noise.data()[i] < 0.0) throw ArrayError("noise: a variance cannot be negative");
  locked(local, [&] { local.refit(y.data(), noise.data(), rows(y)); });
}

double local_log_likelihood(LocalGradient& local, const py::object& y_, double noise) {
  const Array y = doubles_like(y_, "y", static_cast<py::ssize_t>(local.size()));
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance must be finite and not negative");
  return locked(local, [&] { return local.log_likelihood(y.data(), noise); });
}

double local_uncertainty(LocalGradient& local, const std::vector<std::int64_t>& pending,
                         double noise) {
  for (const auto i : pending) checked_index(i, local.pool().size(), "pending");
  return locked(local,
                [&] { return local.relative_uncertainty(pending.data(), pending.size(), noise); });
}

}  // namespace

void bind_local_gradient(py::module_& m) {
  py::class_<LocalGradient>(m, "LocalGradient",
                            "The posterior mean's gradient at one candidate, kept up to date.")
      .def(py::init([](NetworkPtr net, const Pool<Cpu>& pool, std::size_t capacity) {
             if (net->dim() != pool.dim())
               throw ArrayError("pool: has dimension " + std::to_string(pool.dim()) +
                                ", the network " + std::to_string(net->dim()));
             return std::make_unique<LocalGradient>(std::move(net), pool, capacity);
           }),
           "network"_a, "pool"_a, "capacity"_a = 0, py::keep_alive<1, 3>())
      .def("__len__", [](const LocalGradient& l) { return locked(l, [&] { return l.size(); }); })
      .def("clear", [](LocalGradient& l) { locked(l, [&] { l.clear(); }); })
      .def("append", &local_append, "candidate"_a, "y"_a, "noise"_a)
      .def("refit", &local_refit, "y"_a, "noise"_a)
      .def("log_likelihood", &local_log_likelihood, "y"_a, "noise"_a)
      .def(
          "center",
          [](LocalGradient& l, py::ssize_t candidate) {
            const std::size_t at = checked_index(candidate, l.pool().size(), "candidate");
            locked(l, [&] { l.center(at); });
          },
          "candidate"_a)
      .def("gradient",
           [](LocalGradient& l) {
             Array out = vector(l.pool().dim());
             double* p = out.mutable_data();
             locked(l, [&] { l.gradient(p); });
             return out;
           })
      .def("relative_uncertainty", &local_uncertainty, "pending"_a, "noise"_a)
      .def(
          "step",
          [](LocalGradient& l, double length) { return locked(l, [&] { return l.step(length); }); },
          "length"_a);
}

}  // namespace zopo
