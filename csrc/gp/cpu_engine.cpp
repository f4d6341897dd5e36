// CPU engine of the Gaussian process (gp/engine.hpp). The CUDA twin is cuda/gp/engine.cu.
#include "gp/cpu_engine.hpp"

#include <algorithm>

#include "simd/simd.hpp"

namespace zopo {

void GpEngine<Cpu>::add(const double* X, const double* y, const double* noise, std::size_t count) {
  points_.append(*net_, X, count);
  y_.insert(y_.end(), y, y + count);
  noise_.insert(noise_.end(), noise, noise + count);
  stale();
}

bool GpEngine<Cpu>::extend(std::size_t from, double jitter) {
  const std::size_t n = size(), count = n - from;
  Doubles K(count * n);
  if (count == 1) {  // the usual step: one row needs no packing
    Doubles gamma((net_->layers() + 1) * n);
    ntk_row(*net_, points_.row(*net_, from), points_.view(), K.data(), gamma.data());
  } else {
    const auto all = points_.view();
    const PointsView added = {count, all.x + from * net_->dim(), all.h + from * net_->hidden(),
                              all.D + from * net_->hidden()};
    ntk_gram(*net_, added, all, false, K.data(), n);
  }
  return factorise(factor_, from, n, K.data(), n, noise_.data(), jitter);
}

// Append rows [from, to) of K + diag(noise) + jitter I to the factor; row i of K is at
// K + (i - from) ldk. On failure the factor is back at `from` rows.
bool GpEngine<Cpu>::factorise(Cholesky& factor, std::size_t from, std::size_t to, const double* K,
                              std::size_t ldk, const double* noise, double jitter) {
  for (std::size_t i = from; i < to; ++i) {
    const double* row = K + (i - from) * ldk;
    if (!factor.append(row, row[i] + noise[i] + jitter)) {
      factor.truncate(from);
      return false;
    }
  }
  return true;
}

GpEngine<Cpu>::Gram GpEngine<Cpu>::gram() const {
  const std::size_t n = size();
  Gram K(n * n);
  ntk_gram(*net_, points_.view(), points_.view(), true, K.data(), n);
  return K;
}

double GpEngine<Cpu>::mean_diagonal(const Gram& K) const {
  const std::size_t n = size();
  double mean = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += K[i * n + i] / static_cast<double>(n);
  return mean;
}

bool GpEngine<Cpu>::refactor(const Gram& K, double jitter) {
  Cholesky fresh;
  if (!factorise(fresh, 0, size(), K.data(), size(), noise_.data(), jitter)) return false;
  factor_ = std::move(fresh);
  stale();
  return true;
}

void GpEngine<Cpu>::truncate(std::size_t n) {
  factor_.truncate(std::min(n, factor_.size()));
  points_.truncate(*net_, n);
  y_.resize(n);
  noise_.resize(n);
  stale();
}

void GpEngine<Cpu>::remove(std::size_t i) {
  factor_.remove(i);
  points_.erase(*net_, i);
  y_.erase(y_.begin() + i);
  noise_.erase(noise_.begin() + i);
  stale();
}

void GpEngine<Cpu>::set_targets(const double* y) {
  y_.assign(y, y + size());
  alpha_stale_ = true;
}

const double* GpEngine<Cpu>::alpha() {
  if (alpha_stale_) {
    alpha_ = y_;
    factor_.solve_lower(alpha_.data());
    factor_.solve_lower_transposed(alpha_.data());
    alpha_stale_ = false;
  }
  return alpha_.data();
}

const Explained& GpEngine<Cpu>::explained() {
  if (explained_stale_) {
    explained_ = explain(*net_, points_.view(), factor_.data(), factor_.stride());
    explained_stale_ = false;
  }
  return explained_;
}

void GpEngine<Cpu>::posterior(const double* X, std::size_t q, const PosteriorOut& out) {
  const std::size_t n = size(), d = net_->dim();
  // explained() costs about n^3 + n^2 d in all, a point without it n^2 d / 2. The choice depends
  // on sizes alone, so that the same call gives the same bits.
  const bool shared = out.uncertainty && n > 0 && (n <= 2 * d || q * d > 2 * n);
  const Fit fit = {*net_,          points_.view(),
                   factor_.data(), factor_.stride(),
                   alpha(),        shared ? &explained() : nullptr};
  posterior_points(fit, X, q, out);
}

void GpEngine<Cpu>::gradient_covariance(const double* x, double* out) {
  const std::size_t n = size(), d = net_->dim();
  Doubles h(net_->hidden()), D(net_->hidden());
  ntk_features(*net_, x, 1, h.data(), D.data());
  const PointsView point = {1, x, h.data(), D.data()};
  Linearization at;
  ntk_linearize(*net_, point, at);
  ntk_gradient_prior(*net_, at, out);
  Doubles k(n), gamma((net_->layers() + 1) * n), G(n * d);
  ntk_row(*net_, point, points_.view(), k.data(), gamma.data());
  ntk_gradient_rows(*net_, at, points_.view(), gamma.data(), G.data());
  factor_.solve_lower_rows(G.data(), d, d);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < d; ++j)
      simd().axpy(d, -G[i * d + j], G.data() + i * d, out + j * d);
}

double GpEngine<Cpu>::fit() { return size() ? simd().dot(y_.data(), alpha(), size()) : 0.0; }

}  // namespace zopo
