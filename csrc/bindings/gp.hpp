// Binding of a Gaussian process, shared by its devices (bindings/gp.cpp, bindings/cuda_models.cpp).
#pragma once

#include <algorithm>
#include <string>

#include "bindings/bindings.hpp"
#include "gp/gaussian_process.hpp"

namespace zopo {

template <class Gp>
void gp_append(Gp& gp, const py::object& X_, const py::object& y_, const py::object& noise_) {
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(gp.network().dim()));
  const Array y = doubles_like(y_, "y", X.shape(0)), noise = variances(noise_, X.shape(0));
  locked(gp, [&] { gp.append(X.data(), y.data(), noise.data(), rows(X)); });
}

template <class Gp>
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

// Mean and variance alone, for scoring many candidates.
template <class Gp>
py::tuple gp_predict(const Gp& gp, const py::object& X_) {
  const Array X = doubles(X_, "x", 2, static_cast<py::ssize_t>(gp.network().dim()));
  Array mean = vector(rows(X)), variance = vector(rows(X));
  const PosteriorOut out = {mean.mutable_data(), variance.mutable_data(), nullptr, nullptr};
  locked(gp, [&] { gp.posterior(X.data(), rows(X), out); });
  return py::make_tuple(mean, variance);
}

// Mean and variance with their gradients.
template <class Gp>
py::tuple gp_derivatives(const Gp& gp, const py::object& X_) {
  const std::size_t d = gp.network().dim();
  const Array X = doubles(X_, "x", 2, static_cast<py::ssize_t>(d));
  const std::size_t q = rows(X);
  Array mean = vector(q), variance = vector(q), slope = matrix(q, d), variance_slope = matrix(q, d);
  const PosteriorOut out = {mean.mutable_data(), variance.mutable_data(), slope.mutable_data(),
                            nullptr, variance_slope.mutable_data()};
  locked(gp, [&] { gp.posterior(X.data(), q, out); });
  return py::make_tuple(mean, variance, slope, variance_slope);
}

template <class Gp>
Array gp_gradient_covariance(const Gp& gp, const py::object& x_) {
  const std::size_t d = gp.network().dim();
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(d));
  Array out = matrix(d, d);
  double* p = out.mutable_data();
  locked(gp, [&] { gp.gradient_covariance(x.data(), p); });
  return out;
}

template <class Gp, class Make, class... Extra>
void bind_process(py::module_& m, const char* name, const char* doc, Make make,
                  const Extra&... extra) {
  py::class_<Gp>(m, name, doc)
      .def(py::init(make), "network"_a, extra...)
      .def("__len__", [](const Gp& gp) { return locked(gp, [&] { return gp.size(); }); })
      .def_property_readonly("jitter",
                             [](const Gp& gp) { return locked(gp, [&] { return gp.jitter(); }); })
      .def("append", &gp_append<Gp>, "X"_a, "y"_a, "noise"_a)
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
      .def("posterior", &gp_posterior<Gp>, "x"_a)
      .def("predict", &gp_predict<Gp>, "x"_a)
      .def("derivatives", &gp_derivatives<Gp>, "x"_a)
      .def("gradient_covariance", &gp_gradient_covariance<Gp>, "x"_a)
      .def("log_marginal_likelihood",
           [](const Gp& gp) { return locked(gp, [&] { return gp.log_marginal_likelihood(); }); })
      .def("state", [](const Gp& gp) {
        const GpState state = locked(gp, [&] { return gp.state(); });
        const std::size_t n = state.y.size();
        Array X = matrix(n, gp.network().dim());
        std::copy(state.X.begin(), state.X.end(), X.mutable_data());
        return py::make_tuple(X, Array(n, state.y.data()), Array(n, state.noise.data()));
      });
}

}  // namespace zopo
