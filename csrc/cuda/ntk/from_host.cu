// The kernel on a device from host memory to host memory: copy in, run the operations of
// cuda/ntk/ntk.hpp, copy out. Bound by the copies: over PCIe at 50 GB/s K of 8192 points takes 10
// ms, its computation 1 ms.
#include "cuda/linalg/gemm.cuh"
#include "cuda/ntk/network.cuh"
#include "cuda/ntk/ntk.hpp"

namespace zopo {
namespace {

constexpr cudaStream_t kStream = nullptr;  // calls from several threads serialise

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

void NtkOnHost::gram(const void* X, Precision precision_x, std::size_t n, const void* Y,
                     Precision precision_y, std::size_t m, GramPrecision precision, void* K) const {
  const DeviceGuard guard(ordinal);
  const std::size_t number = precision == GramPrecision::Float64 ? sizeof(double) : sizeof(float);
  const std::size_t bytes = n * (Y ? m : n) * number;
  const auto points = [&](const void* from, Precision of, std::size_t count) {
    Buffer<unsigned char> to(count * net.dim() * precision_bytes(of), kStream);
    copy(to.data(), from, to.size(), kStream);
    return to;
  };
  const auto left = points(X, precision_x, n), right = points(Y, precision_y, Y ? m : 0);
  const Buffer<unsigned char> out(bytes, kStream);
  // An empty Y has no device pointer, but is not a missing Y: skip the call.
  if (bytes)
    ntk_gram(net, left.data(), precision_x, n, right.data(), precision_y, m, precision, out.data(),
             kStream);
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

void gemm_on_host(int ordinal, const ProductOnHost& p, const double* A, const double* B,
                  double* C) {
  const DeviceGuard guard(ordinal);
  const std::size_t of_a = (p.transpose_a ? p.k : p.m) * p.lda,
                    of_b = (p.transpose_b ? p.n : p.k) * p.ldb, of_c = p.m * p.n;
  const Buffer<double> a = to_device(A, p.batch * of_a), b = to_device(B, p.batch * of_b),
                       c = to_device(C, p.batch * of_c);
  const auto number = [](std::size_t size) { return static_cast<int>(size); };
  const auto stride = [](std::size_t size) { return static_cast<std::int64_t>(size); };
  gemm({.m = number(p.m),
        .n = number(p.n),
        .k = number(p.k),
        .A = a.data(),
        .lda = stride(p.lda),
        .B = b.data(),
        .ldb = stride(p.ldb),
        .C = c.data(),
        .ldc = stride(p.n),
        .transpose_a = p.transpose_a,
        .transpose_b = p.transpose_b,
        .add = p.add,
        .lower_a = p.lower_a,
        .lower_c = p.lower_c,
        .batch = number(p.batch),
        .stride_a = stride(of_a),
        .stride_b = stride(of_b),
        .stride_c = stride(of_c)},
       kStream);
  copy(C, c.data(), p.batch * of_c * sizeof(double), kStream);
  synchronize(kStream);
}

}  // namespace zopo
