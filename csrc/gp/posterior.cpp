// Posterior of the CPU engine at many points. Blocks of points share each pass over the
// observations as products of small matrices; a lone point is a row against them. Threads split the
// points. The CUDA twins are cuda/gp/posterior.cu (one point) and cuda/gp/posterior_many.cu.
#include <algorithm>
#include <cmath>

#include "base/parallel.hpp"
#include "gp/cpu_engine.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr std::size_t kBlock = 48;    // points a block
constexpr std::size_t kMinBlock = 8;  // a block of fewer points is evaluated point by point
using Column = Doubles;

// Transpose A (rows, cols), leading dimension lda, into T (cols, rows).
void transpose(const double* A, std::size_t lda, std::size_t rows, std::size_t cols, double* T) {
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < cols; ++j) T[j * rows + i] = A[i * lda + j];
}

// Arrays derived from the observations that all blocks share.
struct Observed {
  std::vector<Column> D;  // D_l(X)^T (width[l + 1], n), l < layers
  Column last;            // sum_i alpha_i h_L(X_i)

  explicit Observed(const Fit& fit) {
    const auto& net = fit.net;
    const std::size_t L = net.layers(), S = net.hidden(), n = fit.points.n;
    for (std::size_t l = 1; l <= L; ++l) {
      auto& T = D.emplace_back(net.width(l) * n);
      transpose(fit.points.D + net.offset(l), S, n, net.width(l), T.data());
    }
    last.assign(net.width(L), 0.0);
    simd().matvec_transposed(fit.points.h + net.offset(L), S, n, net.width(L), fit.alpha,
                             last.data());
  }
};

class Block {
 public:
  Block(const Fit& fit, const Observed& seen, const PosteriorOut& out)
      : fit_(fit), seen_(seen), out_(out) {}

  void at(const double* X, std::size_t begin, std::size_t q);

 private:
  void one(PointsView x, std::size_t i);
  void moments(PointsView x, std::size_t begin);
  void gradients(PointsView x, std::size_t begin);
  double uncertainty(PointsView x, const double* gamma);
  void variance_gradient(PointsView x, double* out);

  const Fit& fit_;
  const Observed& seen_;
  const PosteriorOut& out_;
  Column h_, D_, K_, gamma_, r_, v_, next_, PS_, W_, work_;
  Linearization at_;
};

void Block::at(const double* X, std::size_t begin, std::size_t q) {
  const auto& net = fit_.net;
  h_.resize(q * net.hidden());
  D_.resize(q * net.hidden());
  ntk_features(net, X, q, h_.data(), D_.data());
  const PointsView x = {q, X, h_.data(), D_.data()};
  const auto row = [&](std::size_t i) {
    return PointsView{1, X + i * net.dim(), h_.data() + i * net.hidden(),
                      D_.data() + i * net.hidden()};
  };
  if (out_.variance_gradient)
    for (std::size_t i = 0; i < q; ++i)
      variance_gradient(row(i), out_.variance_gradient + (begin + i) * net.dim());
  if (q < kMinBlock) {
    for (std::size_t i = 0; i < q; ++i) one(row(i), begin + i);
    return;
  }
  if (out_.mean || out_.variance) moments(x, begin);
  if (out_.gradient) gradients(x, begin);
  if (out_.uncertainty) {
    const std::size_t n = fit_.points.n;
    K_.resize(n);
    gamma_.resize((net.layers() + 1) * n);
    for (std::size_t i = 0; i < q; ++i) {
      ntk_row(net, row(i), fit_.points, K_.data(), gamma_.data());
      out_.uncertainty[begin + i] = uncertainty(row(i), gamma_.data());
    }
  }
}

void Block::one(PointsView x, std::size_t i) {
  const auto& net = fit_.net;
  const auto& isa = simd();
  const std::size_t n = fit_.points.n, d = net.dim();
  K_.resize(n);
  gamma_.resize((net.layers() + 1) * n);
  ntk_row(net, x, fit_.points, K_.data(), gamma_.data());
  if (out_.mean) out_.mean[i] = isa.dot(K_.data(), fit_.alpha, n);
  if (out_.gradient)
    ntk_gradient_mean(net, x, fit_.points, gamma_.data(), fit_.alpha, out_.gradient + i * d);
  if (out_.uncertainty) out_.uncertainty[i] = uncertainty(x, gamma_.data());
  if (out_.variance) {
    double prior;
    ntk_diag(net, x, &prior);
    isa.solve_lower(fit_.C, fit_.ldc, n, K_.data());
    out_.variance[i] = std::max(0.0, prior - isa.dot(K_.data(), K_.data(), n));
  }
}

// Compute mean k_x^T alpha and variance k(x, x) - |C^-1 k_x|^2, with a column of K (n, q) per
// point.
void Block::moments(PointsView x, std::size_t begin) {
  const auto& isa = simd();
  const std::size_t n = fit_.points.n, q = x.n;
  K_.resize(n * q);
  ntk_gram(fit_.net, fit_.points, x, false, K_.data(), q);
  if (out_.mean) {
    std::fill_n(out_.mean + begin, q, 0.0);
    isa.matvec_transposed(K_.data(), q, n, q, fit_.alpha, out_.mean + begin);
  }
  if (!out_.variance) return;
  double* variance = out_.variance + begin;
  ntk_diag(fit_.net, x, variance);
  isa.solve_lower_rows(fit_.C, fit_.ldc, n, K_.data(), q, q);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < q; ++j) variance[j] -= K_[i * q + j] * K_[i * q + j];
  for (std::size_t j = 0; j < q; ++j) variance[j] = std::max(0.0, variance[j]);
}

// Compute sum_l J_l(x)^T r_l with r_l = sum_i alpha_i gamma_li h_l(X_i): the r_l are matrix
// products; the chain J_l = diag(1[h_l > 0]) W_{l-1} J_{l-1} then runs backwards.
void Block::gradients(PointsView x, std::size_t begin) {
  const auto& net = fit_.net;
  const auto& isa = simd();
  const std::size_t L = net.layers(), S = net.hidden(), n = fit_.points.n, d = net.dim(), q = x.n;
  double* gradient = out_.gradient + begin * d;
  v_.resize(q * net.width(L));
  for (std::size_t j = 0; j < q; ++j)
    std::copy(seen_.last.begin(), seen_.last.end(), v_.begin() + j * net.width(L));
  gamma_.resize(q * n);
  for (std::size_t l = L; l >= 1; --l) {
    const std::size_t w = net.width(l), below = net.width(l - 1);
    const double* active = x.h + net.offset(l);
    for (std::size_t j = 0; j < q; ++j)
      for (std::size_t u = 0; u < w; ++u)
        if (!(active[j * S + u] > 0.0)) v_[j * w + u] = 0.0;
    // gamma_{l-1} (q, n) = D_{l-1}(x).D_{l-1}(X), times alpha
    isa.gemm(q, n, w, x.D + net.offset(l), S, seen_.D[l - 1].data(), n, gamma_.data(), n, false);
    for (std::size_t j = 0; j < q; ++j)
      for (std::size_t i = 0; i < n; ++i) gamma_[j * n + i] *= fit_.alpha[i];
    next_.resize(q * below);
    double* to = l == 1 ? gradient : next_.data();
    isa.gemm(q, below, w, v_.data(), w, net.weight(l - 1), below, to, below, false);
    const double* h = l == 1 ? fit_.points.x : fit_.points.h + net.offset(l - 1);
    isa.gemm(q, below, n, gamma_.data(), n, h, l == 1 ? d : S, to, below, true);
    v_.swap(next_);
  }
}

// Compute the trace of the gradient covariance at one point, from gamma as ntk_row() fills it.
double Block::uncertainty(PointsView x, const double* gamma) {
  const auto& net = fit_.net;
  const auto& isa = simd();
  const std::size_t n = fit_.points.n, d = net.dim(), w = net.width(1);
  ntk_linearize(net, x, at_);
  if (!fit_.explained) {
    PS_.resize(n * d);
    ntk_gradient_rows(net, at_, fit_.points, gamma, PS_.data());
    isa.solve_lower_rows(fit_.C, fit_.ldc, n, PS_.data(), d, d);
    return std::max(0.0, at_.prior_trace - isa.dot(PS_.data(), PS_.data(), n * d));
  }
  const std::size_t a = at_.a, on = at_.on.size();
  PS_.resize(n * 2 * a);
  ntk_remainder(net, at_, fit_.points, gamma, PS_.data(), 2 * a, work_);
  for (std::size_t i = 0; i < n; ++i) {
    double* cS = PS_.data() + i * 2 * a + a;
    for (std::size_t j = 0; j < on; ++j) cS[j] = gamma[i] * fit_.explained->S[i * w + at_.on[j]];
    std::fill(cS + on, cS + a, 0.0);
  }
  isa.solve_lower_rows(fit_.C, fit_.ldc, n, PS_.data(), 2 * a, 2 * a);
  W_.resize(n * a);
  isa.gemm(n, a, a, PS_.data(), 2 * a, at_.first_gram.data(), a, W_.data(), a, false);
  work_.resize(std::max(work_.size(), n));
  isa.matvec(fit_.explained->H.data(), n, n, n, gamma, work_.data());
  double explained = isa.dot(gamma, work_.data(), n);
  for (std::size_t i = 0; i < n; ++i) {
    const double* T = PS_.data() + i * 2 * a;
    explained += isa.dot(T, W_.data() + i * a, a) + 2.0 * isa.dot(T, T + a, a);
  }
  return std::max(0.0, at_.prior_trace - explained);
}

// k is symmetric, so dk(x, x)/dx is twice the derivative by the first argument. G^T A^-1 k_x is the
// gradient of a mean whose alpha is A^-1 k_x.
void Block::variance_gradient(PointsView x, double* out) {
  const auto& net = fit_.net;
  const std::size_t n = fit_.points.n, d = net.dim();
  K_.resize(std::max<std::size_t>(n, 1));
  gamma_.resize((net.layers() + 1) * std::max<std::size_t>(n, 1));
  work_.resize(std::max(work_.size(), d));
  ntk_row(net, x, fit_.points, K_.data(), gamma_.data());
  simd().solve_lower(fit_.C, fit_.ldc, n, K_.data());
  simd().solve_lower_transposed(fit_.C, fit_.ldc, n, K_.data());
  ntk_gradient_mean(net, x, fit_.points, gamma_.data(), K_.data(), work_.data());
  ntk_row(net, x, x, K_.data(), gamma_.data());
  const double one = 1.0;
  ntk_gradient_mean(net, x, x, gamma_.data(), &one, out);
  for (std::size_t j = 0; j < d; ++j) out[j] = 2.0 * (out[j] - work_[j]);
}

}  // namespace

void posterior_points(const Fit& fit, const double* X, std::size_t q, const PosteriorOut& out) {
  const std::size_t n = fit.points.n, d = fit.net.dim();
  const Observed seen(fit);
  const std::size_t blocks = (q + kBlock - 1) / kBlock;
  const double features = static_cast<double>(d + 2 * fit.net.hidden());
  const double solves = static_cast<double>(out.uncertainty         ? 40 * n
                                            : out.variance_gradient ? 3 * n
                                                                    : n);
  const double work = static_cast<double>(q) * static_cast<double>(n) * (features + solves);
  parallel_ranges(blocks, work, [&](std::size_t begin, std::size_t end) {
    Block block(fit, seen, out);
    for (std::size_t b = begin; b < end; ++b) {
      const std::size_t from = b * kBlock;
      block.at(X + from * d, from, std::min(kBlock, q - from));
    }
  });
}

Explained explain(const Network& net, PointsView points, const double* C, std::size_t ldc) {
  const auto& isa = simd();
  const std::size_t n = points.n, d = net.dim(), w = net.width(1);
  Explained out;
  out.H.resize(n * n);
  out.S.resize(n * w);
  // Transpose C^-1 and X, so that A^-1 = C^-T C^-1 and X X^T are products of rows.
  Column inverse(n * n, 0.0), left(n * n), XT(d * n);
  for (std::size_t i = 0; i < n; ++i) inverse[i * n + i] = 1.0;
  isa.solve_lower_rows(C, ldc, n, inverse.data(), n, n);
  transpose(inverse.data(), n, n, n, left.data());
  transpose(points.x, d, n, d, XT.data());
  const double N = static_cast<double>(n);
  parallel_ranges(n, N * N * (N + static_cast<double>(d)), [&](std::size_t begin, std::size_t end) {
    const std::size_t rows = end - begin;
    Column inner(rows * n);
    double* H = out.H.data() + begin * n;
    isa.gemm(rows, n, n, left.data() + begin * n, n, inverse.data(), n, H, n, false);
    isa.gemm(rows, n, d, points.x + begin * d, d, XT.data(), n, inner.data(), n, false);
    for (std::size_t k = 0; k < rows * n; ++k) H[k] *= inner[k];
    isa.gemm(rows, w, d, points.x + begin * d, d, net.transposed(0), w, out.S.data() + begin * w, w,
             false);
  });
  return out;
}

}  // namespace zopo
