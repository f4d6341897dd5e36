// Binding of the posterior over a region of candidates (model/region_posterior.hpp).
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "model/prior_kernel.hpp"
#include "model/region_posterior.hpp"

namespace zopo {
namespace {

Doubles nuggets_of(const py::object& nuggets_) {
  const Array nuggets = doubles(nuggets_, "nuggets", 1);
  if (rows(nuggets) == 0) throw ArrayError("nuggets: expected at least one noise level");
  for (std::size_t g = 0; g < rows(nuggets); ++g)
    if (!(nuggets.data()[g] >= 0.0)) throw ArrayError("nuggets: a variance cannot be negative");
  return {nuggets.data(), nuggets.data() + nuggets.size()};
}

constexpr double kMaxScore = 1e150;  // a score is squared

void checked_score(double y, const char* name) {
  if (!(std::abs(y) <= kMaxScore))
    throw ArrayError(std::string(name) + ": must be finite and at most 1e150 in magnitude");
}

double positive(double value, const char* name) {
  if (!(value > 0.0) || std::isinf(value))
    throw ArrayError(std::string(name) + ": must be positive and finite");
  return value;
}

ArcCosine arc_cosine(std::size_t depth, double weight, double bias, bool ntk) {
  if (depth < 1) throw ArrayError("depth: must be at least 1");
  if (!(bias >= 0.0) || std::isinf(bias))
    throw ArrayError("bias_variance: must be finite and not negative");
  return {depth, positive(weight, "weight_variance"), bias, ntk};
}

Array points(const py::object& X_, const char* name = "X", py::ssize_t d = -1) {
  const Array X = doubles(X_, name, 2, d);
  if (rows(X) == 0 || X.shape(1) == 0)
    throw ArrayError(std::string(name) + ": expected at least one point and one dimension, got " +
                     "shape " + shape_of(X));
  return X;
}

std::unique_ptr<RegionPosterior> of_kernels(const py::object& X_, const py::list& kernels,
                                            double scale, const py::object& nuggets_,
                                            std::size_t capacity, bool replaceable) {
  const Array X = points(X_);
  PriorKernel kernel = prior_kernel(kernels, scale);
  const auto d = static_cast<std::size_t>(X.shape(1));
  kernel.require_dim(d);
  const Doubles nuggets = nuggets_of(nuggets_);
  const py::gil_scoped_release nogil;
  return std::make_unique<RegionPosterior>(
      KernelRows(std::move(kernel), X.data(), rows(X), d, replaceable), nuggets, capacity);
}

std::unique_ptr<RegionPosterior> of_points(const py::object& X_, std::size_t depth, double weight,
                                           double bias, bool ntk, double scale,
                                           const py::object& nuggets_, std::size_t capacity,
                                           bool replaceable) {
  const Array X = points(X_);
  PriorKernel kernel({arc_cosine(depth, weight, bias, ntk)}, positive(scale, "scale"));
  const Doubles nuggets = nuggets_of(nuggets_);
  const py::gil_scoped_release nogil;
  return std::make_unique<RegionPosterior>(
      KernelRows(std::move(kernel), X.data(), rows(X), static_cast<std::size_t>(X.shape(1)),
                 replaceable),
      nuggets, capacity);
}

std::unique_ptr<RegionPosterior> of_gram(const py::object& K_, const py::object& nuggets_,
                                         std::size_t capacity) {
  const Array K = doubles(K_, "K", 2);
  if (rows(K) == 0 || K.shape(1) != K.shape(0))
    throw ArrayError("K: expected a square matrix, got shape " + shape_of(K));
  const Doubles nuggets = nuggets_of(nuggets_);
  const py::gil_scoped_release nogil;
  return std::make_unique<RegionPosterior>(KernelRows(K.data(), rows(K)), nuggets, capacity);
}

void append(RegionPosterior& region, py::ssize_t column, double y, double noise) {
  const std::size_t at = checked_index(column, region.columns(), "column");
  checked_score(y, "y");
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance must be finite and not negative");
  locked(region, [&] { region.append(at, y, noise); });
}

void revise(RegionPosterior& region, py::ssize_t i, double y, double noise) {
  checked_score(y, "y");
  if (!(noise >= 0.0) || std::isinf(noise))
    throw ArrayError("noise: a variance must be finite and not negative");
  locked(region, [&] { region.revise(checked_index(i, region.size(), "i"), y, noise); });
}

std::int64_t propose(RegionPosterior& region, const std::vector<std::int64_t>& pending,
                     double incumbent, int power, py::ssize_t center, std::size_t nearest) {
  for (const auto i : pending) checked_index(i, region.columns(), "pending");
  checked_score(incumbent, "incumbent");
  if (power != 1 && power != 2) throw ArrayError("power: must be 1 or 2");
  if (nearest == 0) throw ArrayError("nearest: must be at least 1");
  const std::size_t around = checked_index(center, region.columns(), "center");
  return locked(region, [&] {
    return region.propose(pending.data(), pending.size(), incumbent, power, around, nearest);
  });
}

py::tuple posterior(const RegionPosterior& region) {
  Array mean = vector(region.columns()), variance = vector(region.columns());
  double *to_mean = mean.mutable_data(), *to_variance = variance.mutable_data();
  locked(region, [&] { region.posterior(to_mean, to_variance); });
  return py::make_tuple(mean, variance);
}

void replace(RegionPosterior& region, const std::vector<py::ssize_t>& columns_,
             const py::object& X_) {
  std::vector<std::size_t> columns;
  for (const py::ssize_t c : columns_)
    columns.push_back(checked_index(c, region.columns(), "columns"));
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(region.dim()));
  if (rows(X) != columns.size())
    throw ArrayError("X: expected " + std::to_string(columns.size()) + " rows, got shape " +
                     shape_of(X));
  locked(region, [&] { region.replace(columns.data(), columns.size(), X.data()); });
}

void extend(RegionPosterior& region, const py::object& X_) {
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(region.dim()));
  locked(region, [&] { region.extend(X.data(), rows(X)); });
}

Array prior_gram(const PriorKernel& kernel, const py::object& X_, const py::object& Y_) {
  const Array X = points(X_);
  kernel.require_dim(static_cast<std::size_t>(X.shape(1)));
  const Array Y = Y_.is_none() ? X : points(Y_, "Y", X.shape(1));
  Array K = matrix(rows(X), rows(Y));
  double* out = K.mutable_data();
  const auto d = static_cast<std::size_t>(X.shape(1));
  const py::gil_scoped_release nogil;
  kernel.gram(X.data(), rows(X), Y.data(), rows(Y), d, out);
  return K;
}

Array gradient_combination(const PriorKernel& kernel, const py::object& x_, const py::object& X_,
                           const py::object& alpha_) {
  const Array X = points(X_), x = doubles(x_, "x", 1, X.shape(1)),
              alpha = doubles_like(alpha_, "alpha", X.shape(0));
  const auto d = static_cast<std::size_t>(X.shape(1));
  kernel.require_dim(d);
  Array out = vector(d);
  double* to = out.mutable_data();
  const py::gil_scoped_release nogil;
  kernel.gradient_combination(x.data(), X.data(), rows(X), d, alpha.data(), to);
  return out;
}

}  // namespace

PriorKernel prior_kernel(const py::list& kernels, double scale) {
  std::vector<PriorKernel::Part> parts;
  for (const py::handle& kernel : kernels)
    if (py::isinstance<Network>(kernel)) {
      parts.emplace_back(std::shared_ptr<const Network>(kernel.cast<NetworkPtr>()));
    } else {
      const auto [depth, weight, bias, ntk] =
          kernel.cast<std::tuple<std::size_t, double, double, bool>>();
      parts.emplace_back(arc_cosine(depth, weight, bias, ntk));
    }
  return {std::move(parts), positive(scale, "scale")};
}

void bind_region_posterior(py::module_& m) {
  py::class_<PriorKernel>(m, "PriorKernel", "The mean of kernels over a scale.")
      .def(py::init(&prior_kernel), "kernels"_a, "scale"_a)
      .def("gram", &prior_gram, "X"_a, "Y"_a = py::none())
      .def("gradient_combination", &gradient_combination, "x"_a, "X"_a, "alpha"_a);
  py::class_<RegionPosterior>(m, "RegionPosterior",
                              "The posterior at every candidate of a region, over noise levels.")
      .def(py::init(&of_points), "X"_a, "depth"_a, "weight_variance"_a, "bias_variance"_a, "ntk"_a,
           "scale"_a, "nuggets"_a, "capacity"_a = 0, "replaceable"_a = false)
      .def_static("of_kernels", &of_kernels, "X"_a, "kernels"_a, "scale"_a, "nuggets"_a,
                  "capacity"_a = 0, "replaceable"_a = false)
      .def_static("of_gram", &of_gram, "K"_a, "nuggets"_a, "capacity"_a = 0)
      .def("__len__", [](const RegionPosterior& r) { return locked(r, [&] { return r.size(); }); })
      .def_property_readonly("columns", &RegionPosterior::columns)
      .def("append", &append, "column"_a, "y"_a, "noise"_a = 0.0)
      .def("revise", &revise, "i"_a, "y"_a, "noise"_a = 0.0)
      .def(
          "rescore",
          [](RegionPosterior& r, const py::object& y_) {
            const Array y = doubles(y_, "y", 1);
            for (std::size_t i = 0; i < rows(y); ++i) checked_score(y.data()[i], "y");
            locked(r, [&] { r.rescore(y.data(), rows(y)); });
          },
          "y"_a)
      .def(
          "exclude",
          [](RegionPosterior& r, py::ssize_t column) {
            const std::size_t at = checked_index(column, r.columns(), "column");
            locked(r, [&] { r.exclude(at); });
          },
          "column"_a)
      .def(
          "include",
          [](RegionPosterior& r, py::ssize_t column) {
            const std::size_t at = checked_index(column, r.columns(), "column");
            locked(r, [&] { r.include(at); });
          },
          "column"_a)
      .def(
          "excluded",
          [](const RegionPosterior& r, py::ssize_t column) {
            const std::size_t at = checked_index(column, r.columns(), "column");
            return locked(r, [&] { return r.excluded(at); });
          },
          "column"_a)
      .def("replace", &replace, "columns"_a, "X"_a)
      .def("extend", &extend, "X"_a)
      .def("observed", [](const RegionPosterior& r) { return r.observed(); })
      .def("gram",
           [](RegionPosterior& r) {
             Array K = matrix(r.columns(), r.columns());
             double* out = K.mutable_data();
             locked(r, [&] { r.copy_gram(out); });
             return K;
           })
      .def(
          "alpha",
          [](const RegionPosterior& r, py::ssize_t level) {
            const std::size_t at = checked_index(level, r.levels(), "level");
            Array out = vector(r.size());
            double* to = out.mutable_data();
            locked(r, [&] { r.alpha(at, to); });
            return out;
          },
          "level"_a)
      .def("propose", &propose, "pending"_a, "incumbent"_a, "power"_a = 1, "center"_a = 0,
           "nearest"_a = std::numeric_limits<py::ssize_t>::max())
      .def("posterior", &posterior)
      .def("shares",
           [](const RegionPosterior& r) {
             Array weight = vector(r.levels()), amplitude = vector(r.levels());
             double *to_weight = weight.mutable_data(), *to_amplitude = amplitude.mutable_data();
             locked(r, [&] { r.shares(to_weight, to_amplitude); });
             return py::make_tuple(weight, amplitude);
           })
      .def(
          "propagate",
          [](const RegionPosterior& r, py::ssize_t level, const py::object& residuals_) {
            const std::size_t at = checked_index(level, r.levels(), "level");
            const Array residuals = doubles(residuals_, "residuals", 1);
            Array out = vector(r.columns());
            double* to = out.mutable_data();
            locked(r, [&] { r.propagate(at, residuals.data(), rows(residuals), to); });
            return out;
          },
          "level"_a, "residuals"_a);
}

}  // namespace zopo
