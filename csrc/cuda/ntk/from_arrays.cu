// The kernel from device arrays to device arrays: allocates features and results around the
// operations of cuda/ntk/ntk.hpp and cuda/ntk/gram_gradient.cu. No kernels of its own.
#include "cuda/ntk/from_arrays.hpp"

#include <algorithm>

#include "cuda/ntk/gram_gradient.cuh"
#include "cuda/ntk/network.cuh"

namespace zopo {
namespace {

// Features of points that are on the device already.
struct Featured {
  Buffer<double> features;
  PointsView view;

  Featured(const Network& net, const double* X, std::size_t n, StreamHandle stream)
      : features(2 * n * net.hidden(), static_cast<cudaStream_t>(stream)) {
    view = {n, X, features.data(), features.data() + n * net.hidden()};
    if (n)
      ntk_features(net, X, Precision::Double, n, features.data(),
                   features.data() + n * net.hidden(), Precision::Double, nullptr, stream);
  }
};

}  // namespace

DeviceArray gram_of_arrays(const Network& net, const DeviceArray& X, const DeviceArray* Y,
                           GramPrecision precision, StreamHandle stream) {
  const std::size_t n = X.shape[0], m = Y ? Y->shape[0] : n;
  DeviceArray K = device_array(
      {n, m}, precision == GramPrecision::Float64 ? Precision::Double : Precision::Single,
      X.ordinal, stream);
  const DeviceGuard guard(X.ordinal);
  if (K.size())
    ntk_gram(net, X.data, X.precision, n, Y ? Y->data : nullptr, Y ? Y->precision : X.precision, m,
             precision, K.data, stream);
  return K;
}

DeviceArray diag_of_arrays(const Network& net, const DeviceArray& X, StreamHandle stream) {
  const std::size_t n = X.shape[0];
  DeviceArray out = device_array({n}, Precision::Double, X.ordinal, stream);
  const DeviceGuard guard(X.ordinal);
  if (n) ntk_diag(net, Featured(net, X.doubles(), n, stream).view, out.mutable_doubles(), stream);
  return out;
}

DeviceArray gradient_of_arrays(const Network& net, const DeviceArray& x, const DeviceArray& X,
                               StreamHandle stream) {
  const std::size_t n = X.shape[0];
  DeviceArray G = device_array({n, net.dim()}, Precision::Double, X.ordinal, stream);
  const DeviceGuard guard(X.ordinal);
  if (n == 0) return G;
  const Featured point(net, x.doubles(), 1, stream), others(net, X.doubles(), n, stream);
  const Buffer<double> gamma((net.layers() + 1) * n, static_cast<cudaStream_t>(stream));
  ntk_row(net, point.view, others.view, nullptr, gamma.data(), nullptr, stream);
  ntk_gradient_rows(net, point.view, others.view, gamma.data(), G.mutable_doubles(), stream);
  return G;
}

DeviceArray gram_gradient_of_arrays(const Network& net, const DeviceArray& X, const DeviceArray& Y,
                                    const DeviceArray& weight, StreamHandle stream) {
  constexpr std::size_t kWorkspace = std::size_t{1} << 24;  // numbers: 128 MB
  const std::size_t n = X.shape[0], m = Y.shape[0], d = net.dim(), S = net.hidden();
  DeviceArray out = device_array({n, d}, Precision::Double, X.ordinal, stream);
  const DeviceGuard guard(X.ordinal);
  if (n == 0) return out;
  const auto copy_of_network = cuda_network(net);
  const NetworkView& view = copy_of_network->view;
  const Featured left(net, X.doubles(), n, stream), right(net, Y.doubles(), m, stream);
  const std::size_t chunk =
      std::clamp<std::size_t>(kWorkspace / gram_gradient_work(view, 1, m), 1, n);
  const Buffer<double> work(gram_gradient_work(view, chunk, m), static_cast<cudaStream_t>(stream));
  for (std::size_t from = 0; from < n; from += chunk)
    gram_gradient(view,
                  {.x = {std::min(chunk, n - from), left.view.x + from * d, left.view.h + from * S,
                         left.view.D + from * S},
                   .y = right.view,
                   .weight = weight.doubles() + from * m,
                   .own = 0.0,
                   .out = out.mutable_doubles() + from * d,
                   .work = work.data()},
                  static_cast<cudaStream_t>(stream));
  return out;
}

}  // namespace zopo
