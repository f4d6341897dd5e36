// The kernel on a CUDA device, from NumPy arrays to NumPy arrays.
#include "bindings_ntk_cuda.hpp"
#include "bindings.hpp"
#include "cuda_device.hpp"

namespace zopo {

GramPrecision gram_precision(const std::string& name) {
  if (name == "float64") return GramPrecision::Float64;
  if (name == "float32") return GramPrecision::Float32;
  if (name == "tf32x3") return GramPrecision::Tf32x3;
  throw ConfigError("precision '" + name + "': expected 'float64', 'float32' or 'tf32x3'");
}

namespace {

Array points(const Network& net, const py::object& X, const char* name) {
  return doubles(X, name, 2, static_cast<py::ssize_t>(net.dim()));
}
Array point(const Network& net, const py::object& x) {
  return doubles(x, "x", 1, static_cast<py::ssize_t>(net.dim()));
}

py::array cuda_gram(const NetworkPtr& net, const py::object& X_, const py::object& Y_,
                    const std::string& precision_, int ordinal) {
  const GramPrecision precision = gram_precision(precision_);
  const Array X = points(*net, X_, "X");
  const bool symmetric = Y_.is_none();
  const Array Y = symmetric ? X : points(*net, Y_, "Y");
  require_cuda(ordinal);
  const bool wide = precision == GramPrecision::Float64;
  py::array K(wide ? py::dtype::of<double>() : py::dtype::of<float>(), {X.shape(0), Y.shape(0)});
  void* out = K.mutable_data();
  const py::gil_scoped_release nogil;
  NtkOnHost{*net, ordinal}.gram(X.data(), rows(X), symmetric ? nullptr : Y.data(), rows(Y),
                                precision, out);
  return K;
}

Array cuda_diag(const NetworkPtr& net, const py::object& X_, int ordinal) {
  const Array X = points(*net, X_, "X");
  require_cuda(ordinal);
  Array out = vector(rows(X));
  double* p = out.mutable_data();
  const py::gil_scoped_release nogil;
  NtkOnHost{*net, ordinal}.diag(X.data(), rows(X), p);
  return out;
}

Array cuda_gradient(const NetworkPtr& net, const py::object& x_, const py::object& X_,
                    int ordinal) {
  const Array x = point(*net, x_), X = points(*net, X_, "X");
  require_cuda(ordinal);
  Array G = matrix(rows(X), net->dim());
  double* out = G.mutable_data();
  const py::gil_scoped_release nogil;
  NtkOnHost{*net, ordinal}.gradient(x.data(), X.data(), rows(X), out);
  return G;
}

double cuda_gradient_prior_trace(const NetworkPtr& net, const py::object& x_, int ordinal) {
  const Array x = point(*net, x_);
  require_cuda(ordinal);
  const py::gil_scoped_release nogil;
  return NtkOnHost{*net, ordinal}.gradient_prior_trace(x.data());
}

}  // namespace

void bind_ntk_cuda(py::module_& m) {
  m.def("cuda_gram", &cuda_gram, "network"_a, "X"_a, "Y"_a, "precision"_a, "ordinal"_a);
  m.def("cuda_diag", &cuda_diag, "network"_a, "X"_a, "ordinal"_a);
  m.def("cuda_gradient", &cuda_gradient, "network"_a, "x"_a, "X"_a, "ordinal"_a);
  m.def("cuda_gradient_prior_trace", &cuda_gradient_prior_trace, "network"_a, "x"_a, "ordinal"_a);
}

}  // namespace zopo
