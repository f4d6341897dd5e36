// Bindings of the network and of its tangent kernel on the CPU (ntk/ntk.hpp).
#include "ntk/ntk.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "bindings/bindings.hpp"

namespace zopo {
namespace {

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

// The caller's points, not copied, with their features.
struct Featured {
  std::unique_ptr<double[]> features;
  PointsView view;

  Featured(const Network& net, const Array& X) {
    const std::size_t size = rows(X) * net.hidden();
    features = std::make_unique_for_overwrite<double[]>(2 * size);
    view = {rows(X), X.data(), features.get(), features.get() + size};
    ntk_features(net, X.data(), rows(X), features.get(), features.get() + size);
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
  ntk_gram_points(*net, X.data(), n, symmetric ? nullptr : Y.data(), m, out);
  return K;
}

Array diag(const NetworkPtr& net, const py::object& X_) {
  const Array X = doubles(X_, "X", 2, static_cast<py::ssize_t>(net->dim()));
  Array out = vector(rows(X));
  double* p = out.mutable_data();
  const py::gil_scoped_release nogil;
  ntk_diag(*net, Featured(*net, X).view, p);
  return out;
}

Array gradient(const NetworkPtr& net, const py::object& x_, const py::object& X_) {
  const auto d = static_cast<py::ssize_t>(net->dim());
  const Array x = doubles(x_, "x", 1, d), X = doubles(X_, "X", 2, d);
  const std::size_t n = rows(X);
  Array G = matrix(n, net->dim());
  double* out = G.mutable_data();
  const py::gil_scoped_release nogil;
  Points point;
  point.append(*net, x.data(), 1);
  const Featured others(*net, X);
  Doubles k(n), gamma((net->layers() + 1) * n);
  ntk_row(*net, point.view(), others.view, k.data(), gamma.data());
  Linearization at;
  ntk_linearize(*net, point.view(), at);
  ntk_gradient_rows(*net, at, others.view, gamma.data(), out);
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
  ntk_gram_gradient(*net, X.data(), rows(X), Y.data(), rows(Y), weight.data(), p);
  return out;
}

double gradient_prior_trace(const NetworkPtr& net, const py::object& x_) {
  const Array x = doubles(x_, "x", 1, static_cast<py::ssize_t>(net->dim()));
  Points point;
  point.append(*net, x.data(), 1);
  Linearization at;
  ntk_linearize(*net, point.view(), at);
  return at.prior_trace;
}

}  // namespace

void bind_ntk(py::module_& m) {
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
}

}  // namespace zopo
