// Bindings of the kernel on a CUDA device, from NumPy arrays to NumPy arrays.
#include "bindings/cuda_ntk.hpp"
#include "bindings/bindings.hpp"
#include "cuda/runtime/device.hpp"

namespace zopo {

GramPrecision gram_precision(const std::string& name) {
  if (name == "float64") return GramPrecision::Float64;
  if (name == "float32") return GramPrecision::Float32;
  if (name == "tf32x3") return GramPrecision::Tf32x3;
  throw ConfigError("precision: expected 'float64', 'float32' or 'tf32x3', got '" + name + "'");
}

namespace {

Array points(const Network& net, const py::object& X, const char* name) {
  return doubles(X, name, 2, static_cast<py::ssize_t>(net.dim()));
}
// Return an array of any precision.
py::array embeddings(const Network& net, const py::object& X, const char* name) {
  const py::array a = contiguous(X, name);
  const Precision precision = precision_of(a, name);
  if (a.ndim() != 2 || a.shape(1) != static_cast<py::ssize_t>(net.dim()))
    throw ArrayError(std::string(name) + ": expected (n, " + std::to_string(net.dim()) +
                     "), got shape " + shape_of(a));
  require_finite(a.data(), precision, static_cast<std::size_t>(a.size()), name);
  return a;
}
Array point(const Network& net, const py::object& x) {
  return doubles(x, "x", 1, static_cast<py::ssize_t>(net.dim()));
}

py::array cuda_gram(const NetworkPtr& net, const py::object& X_, const py::object& Y_,
                    const std::string& precision_, int ordinal) {
  const GramPrecision precision = gram_precision(precision_);
  const py::array X = embeddings(*net, X_, "X");
  const bool symmetric = Y_.is_none();
  const py::array Y = symmetric ? X : embeddings(*net, Y_, "Y");
  require_cuda(ordinal);
  const bool wide = precision == GramPrecision::Float64;
  py::array K(wide ? py::dtype::of<double>() : py::dtype::of<float>(), {X.shape(0), Y.shape(0)});
  void* out = K.mutable_data();
  const Precision of_x = precision_of(X, "X"), of_y = precision_of(Y, "Y");
  const auto n = static_cast<std::size_t>(X.shape(0)), m = static_cast<std::size_t>(Y.shape(0));
  const py::gil_scoped_release nogil;
  NtkOnHost{*net, ordinal}.gram(X.data(), of_x, n, symmetric ? nullptr : Y.data(), of_y, m,
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

// Compute C (batch, m, n) += op(A) op(B), for tests and benchmarks. With `lower_a`, entries right
// of A's diagonal may be NaN. k, the columns of op(A), may be less than the arrays have.
Array cuda_gemm(const py::object& A_, const py::object& B_, const py::object& C_, std::size_t k,
                bool transpose_a, bool transpose_b, bool add, bool lower_a, bool lower_c,
                int ordinal) {
  const auto matrices = [](const py::object& object, const char* name) {
    const py::array a = contiguous(object, name);
    if (!py::isinstance<Array>(a) || a.ndim() != 3)
      throw ArrayError(std::string(name) + ": expected float64 with three dimensions");
    return py::reinterpret_borrow<Array>(a);
  };
  const auto size = [](const Array& a, int axis) {
    return static_cast<std::size_t>(a.shape(axis));
  };
  const Array A = matrices(A_, "A"), B = matrices(B_, "B"), C = matrices(C_, "C");
  const ProductOnHost p{size(C, 1),  size(C, 2),  k,   size(A, 2), size(B, 2), size(C, 0),
                        transpose_a, transpose_b, add, lower_a,    lower_c};
  const bool fits = size(A, 0) == p.batch && size(B, 0) == p.batch &&
                    size(A, 1) == (transpose_a ? k : p.m) && p.lda >= (transpose_a ? p.m : k) &&
                    size(B, 1) == (transpose_b ? p.n : k) && p.ldb >= (transpose_b ? k : p.n) &&
                    (!lower_a || p.m == k);
  if (!fits)
    throw ArrayError("A, B, C: incompatible shapes " + shape_of(A) + ", " + shape_of(B) + " and " +
                     shape_of(C) + " for k = " + std::to_string(k));
  require_cuda(ordinal);
  Array out({C.shape(0), C.shape(1), C.shape(2)}, C.data());
  double* to = out.mutable_data();
  const py::gil_scoped_release nogil;
  gemm_on_host(ordinal, p, A.data(), B.data(), to);
  return out;
}

}  // namespace

void bind_cuda_ntk(py::module_& m) {
  m.def("cuda_gram", &cuda_gram, "network"_a, "X"_a, "Y"_a, "precision"_a, "ordinal"_a);
  m.def("cuda_diag", &cuda_diag, "network"_a, "X"_a, "ordinal"_a);
  m.def("cuda_gradient", &cuda_gradient, "network"_a, "x"_a, "X"_a, "ordinal"_a);
  m.def("cuda_gradient_prior_trace", &cuda_gradient_prior_trace, "network"_a, "x"_a, "ordinal"_a);
  m.def("cuda_gemm", &cuda_gemm, "A"_a, "B"_a, "C"_a, "k"_a, "transpose_a"_a, "transpose_b"_a,
        "add"_a, "lower_a"_a, "lower_c"_a, "ordinal"_a);
}

}  // namespace zopo
