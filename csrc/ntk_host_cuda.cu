// The kernel on a device from host memory to host memory: copies in, the operations of
// ntk_cuda.hpp, copies out. Bound by the copies: over PCIe at 50 GB/s, K of 8192 points takes 10 ms
// and its computation 1.
#include "cuda_network.cuh"
#include "ntk_cuda.hpp"

namespace zopo {
namespace {

constexpr cudaStream_t kStream = nullptr;  // calls from several threads take turns

Buffer<double> to_device(const double* from, std::size_t size) {
  Buffer<double> to(size, kStream);
  copy(to.data(), from, size * sizeof(double), kStream);
  return to;
}

// Points on the device, with their features.
struct Featured {
  Buffer<double> x, features;
  PointsView view;

  Featured(const Network& net, const double* X, std::size_t n)
      : x(to_device(X, n * net.dim())), features(2 * n * net.hidden(), kStream) {
    view = {n, x.data(), features.data(), features.data() + n * net.hidden()};
    ntk_features(net, x.data(), Precision::Double, n, features.data(),
                 features.data() + n * net.hidden(), Precision::Double, nullptr, kStream);
  }
};

}  // namespace

void NtkOnHost::gram(const double* X, std::size_t n, const double* Y, std::size_t m,
                     GramPrecision precision, void* K) const {
  const DeviceGuard guard(ordinal);
  const std::size_t number = precision == GramPrecision::Float64 ? sizeof(double) : sizeof(float);
  const std::size_t bytes = n * (Y ? m : n) * number;
  const Buffer<double> left = to_device(X, n * net.dim());
  const Buffer<double> right = to_device(Y, Y ? m * net.dim() : 0);
  const Buffer<unsigned char> out(bytes, kStream);
  // An empty Y lies nowhere on the device, and is no missing Y.
  if (bytes)
    ntk_gram(net, left.data(), Precision::Double, n, right.data(), Precision::Double, m, precision,
             out.data(), kStream);
  copy(K, out.data(), bytes, kStream);
  synchronize(kStream);
}

void NtkOnHost::diag(const double* X, std::size_t n, double* out) const {
  const DeviceGuard guard(ordinal);
  const Featured points(net, X, n);
  const Buffer<double> result(n, kStream);
  ntk_diag(net, points.view, result.data(), kStream);
  copy(out, result.data(), n * sizeof(double), kStream);
  synchronize(kStream);
}

void NtkOnHost::gradient(const double* x, const double* X, std::size_t n, double* G) const {
  const DeviceGuard guard(ordinal);
  const Featured point(net, x, 1), others(net, X, n);
  const Buffer<double> gamma((net.layers() + 1) * n, kStream), result(n * net.dim(), kStream);
  ntk_row(net, point.view, others.view, nullptr, gamma.data(), nullptr, kStream);
  ntk_gradient_rows(net, point.view, others.view, gamma.data(), result.data(), kStream);
  copy(G, result.data(), result.size() * sizeof(double), kStream);
  synchronize(kStream);
}

double NtkOnHost::gradient_prior_trace(const double* x) const {
  const DeviceGuard guard(ordinal);
  const Featured point(net, x, 1);
  const Buffer<double> result(1, kStream);
  ntk_gradient_prior_trace(net, point.view, result.data(), kStream);
  double trace = 0.0;
  copy(&trace, result.data(), sizeof trace, kStream);
  synchronize(kStream);
  return trace;
}

}  // namespace zopo
