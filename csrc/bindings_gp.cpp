// The Gaussian process.
#include <algorithm>
#include <string>

#include "bindings.hpp"
#include "gp.hpp"

namespace zopo {
namespace {

using Gp = GaussianProcess<Cpu>;

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

// Mean and variance with their gradients.
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

Array gp_gradient_covariance(const Gp& gp, const py::object& x_) {
  const std::size_t d = gp.network().dim();
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(d));
  Array out = matrix(d, d);
  double* p = out.mutable_data();
  locked(gp, [&] { gp.gradient_covariance(x.data(), p); });
  return out;
}

}  // namespace

void bind_gp(py::module_& m) {
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
      .def("derivatives", &gp_derivatives, "x"_a)
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
}

}  // namespace zopo
