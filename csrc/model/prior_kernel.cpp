// Covariance of a search's prior (model/prior_kernel.hpp). The closed form follows
// zopo_fast/gp/infinite_ntk.py: 1 - cos t and 1 + cos t pass from layer to layer instead of the
// cosine, which would cost half the digits of a small angle.
#include "model/prior_kernel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr double kNear = 1e-3;        // 1 - cos below which the difference of two vectors gives it
constexpr double kPairWork = 1e2;     // multiply-adds that the layers of one pair are worth
constexpr double kSmallAngle = 0.03;  // below which a series replaces sin t - t cos t
constexpr double kRounding = 8 * std::numeric_limits<double>::epsilon();

// Angle of two vectors at one layer, with the normalised arc-cosine kernels of order 1, 1 - lost,
// and of order 0.
struct Angle {
  double sine, lost, order0;

  Angle(double versine, double opposite) {
    const double low = std::sqrt(versine), high = std::sqrt(opposite);
    const double t = 2 * std::atan2(low, high);
    sine = low * high;
    double cubic = sine - t * (1 - versine);
    if (t < kSmallAngle) {
      const double square = t * t;
      cubic = t * square / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54)));
    }
    lost = versine - cubic / std::numbers::pi;
    order0 = 1 - t / std::numbers::pi;
  }
};

// A pair of points at one layer: 1 - cos t, 1 + cos t, the norms and r - q.
struct Pair {
  double versine, opposite, r, q, difference;

  void next_layer(double half, double b, double lost) {
    if (b == 0) {
      const double scale = std::sqrt(half);
      versine = lost, r *= scale, q *= scale, difference *= scale;
    } else {
      const double r_next = std::sqrt(half * r * r + b), q_next = std::sqrt(half * q * q + b);
      const double product = half * r * q, product_next = r_next * q_next;
      const double apart = half * b * difference * difference / (product_next + product + b);
      versine = (apart + product * lost) / product_next;
      difference *= half * (r + q) / (r_next + q_next);
      r = r_next, q = q_next;
    }
    opposite = 2 - versine;
  }
};

double ratio(double above, double below) { return below != 0 ? above / below : 0.0; }

// Direction and norm of (sqrt(w/d) x, sqrt(b)); the last coordinate of the direction is `last`.
struct Direction {
  double factor, norm, last;

  Direction(const ArcCosine& kernel, const double* x, std::size_t d)
      : factor(std::sqrt(kernel.weight_variance / static_cast<double>(d))) {
    norm = std::sqrt(factor * factor * simd().dot(x, x, d) + kernel.bias_variance);
    last = norm > 0 ? std::sqrt(kernel.bias_variance) / norm : 0.0;
    factor = norm > 0 ? factor / norm : factor;  // now of the direction
  }
};

double closed_form_of(const ArcCosine& kernel, Pair p) {
  const double half = kernel.weight_variance / 2, b = kernel.bias_variance;
  double T = kernel.ntk ? p.r * p.q * (1 - p.versine) : 0.0;
  for (std::size_t l = 0; l < kernel.depth; ++l) {
    const Angle angle(p.versine, p.opposite);
    const double Q = 0.5 * p.r * p.q * (1 - angle.lost);
    T = half * angle.order0 * T + (kernel.ntk ? 2 * half * Q + b : Q);
    p.next_layer(half, b, angle.lost);
  }
  return T;
}

// K += share k(X_i, Y_j)
void add_gram(const ArcCosine& kernel, double share, const double* X, std::size_t n,
              const double* Y, std::size_t m, std::size_t d, double* K) {
  std::vector<Direction> left, right;
  left.reserve(n);
  right.reserve(m);
  for (std::size_t i = 0; i < n; ++i) left.emplace_back(kernel, X + i * d, d);
  for (std::size_t j = 0; j < m; ++j) right.emplace_back(kernel, Y + j * d, d);
  const double work =
      static_cast<double>(n) * static_cast<double>(m) * (static_cast<double>(d) + kPairWork);
  parallel_ranges(n, work, [&](std::size_t begin, std::size_t end) {
    Doubles products(m);
    for (std::size_t i = begin; i < end; ++i) {
      const double* x = X + i * d;
      const Direction& u = left[i];
      simd().matvec(Y, d, m, d, x, products.data());
      for (std::size_t j = 0; j < m; ++j) {
        const double* y = Y + j * d;
        const Direction& v = right[j];
        const double cosine = u.factor * v.factor * products[j] + u.last * v.last;
        double versine = std::max(1 - cosine, 0.0), opposite = std::max(1 + cosine, 0.0);
        const bool same = versine < kNear, reverse = opposite < kNear;
        if (same || reverse) {
          const double sign = same ? -1.0 : 1.0, ends = u.last + sign * v.last;
          double square = ends * ends;
          for (std::size_t k = 0; k < d; ++k) {
            const double step = u.factor * x[k] + sign * v.factor * y[k];
            square += step * step;
          }
          (same ? versine : opposite) = square / 2;
        }
        versine = std::min(versine, 2.0);
        K[i * m + j] +=
            share * closed_form_of(kernel, {versine, opposite, u.norm, v.norm, u.norm - v.norm});
      }
    }
  });
}

// out += share sum_i alpha_i dk(x, X_i)/dx: forward through the layers, by the norm r of the first
// one and by its angle t. dt/dx = -factor tangent / r with a unit vector `tangent`, or 0.
void add_gradient(const ArcCosine& kernel, double share, const double* x, const double* X,
                  std::size_t n, std::size_t d, const double* alpha, double* out) {
  const double half = kernel.weight_variance / 2, b = kernel.bias_variance;
  const double factor = std::sqrt(kernel.weight_variance / static_cast<double>(d));
  const Direction u(kernel, x, d);
  if (u.norm == 0) return;
  const double own = kernel.ntk ? kernel.weight_variance : 1.0;
  Doubles apart(d), sum(d, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    const double* X_i = X + i * d;
    const Direction v(kernel, X_i, d);
    if (v.norm == 0) continue;  // k is 0 for every x
    Pair p{0.0, 0.0, u.norm, v.norm, 0.0};
    double squares = 0.0, step_square = 0.0;
    for (std::size_t k = 0; k < d; ++k) {
      const double step = factor * (X_i[k] - x[k]);
      squares += step * factor * (X_i[k] + x[k]);
      step_square += step * step;
    }
    p.difference = -squares / (p.r + p.q);
    // apart = v/|v| - u/|u|, from the difference v - u
    const double shift = p.difference / p.q, last = shift * u.last;
    double versine = last * last, opposite = (last + 2 * u.last) * (last + 2 * u.last);
    for (std::size_t k = 0; k < d; ++k) {
      const double unit = u.factor * x[k];
      apart[k] = factor * (X_i[k] - x[k]) / p.q + shift * unit;
      versine += apart[k] * apart[k];
      opposite += (apart[k] + 2 * unit) * (apart[k] + 2 * unit);
    }
    p.versine = std::min(versine / 2, 2.0);
    p.opposite = std::min(opposite / 2, 2.0);
    // On a line through 0 the angle is 0 or pi up to rounding: the remainder is noise.
    const double noise = kRounding * kRounding * step_square / (p.q * p.q);
    if (2 * p.versine <= noise) p.versine = 0.0;
    if (2 * p.opposite <= std::max(noise, kRounding * kRounding)) p.opposite = 0.0;

    const double cosine = 1 - p.versine, first_versine = p.versine;
    double sine = std::sqrt(p.versine * p.opposite);
    const double first_sine = sine;
    double T = 0.0, T_r = 0.0, T_t = 0.0, angle_r = 0.0, angle_t = 1.0, norm_r = 1.0;
    if (kernel.ntk) T = p.r * p.q * cosine, T_r = p.q * cosine, T_t = -p.r * p.q * sine;
    for (std::size_t l = 0; l < kernel.depth; ++l) {
      const Angle angle(p.versine, p.opposite);
      const double slope = -angle.order0 * angle.sine;  // derivative of 1 - lost by the angle
      T_r = half * (angle.order0 * T_r - angle_r * T / std::numbers::pi) +
            own * p.q / 2 * ((1 - angle.lost) * norm_r + p.r * slope * angle_r);
      T_t = half * (angle.order0 * T_t - angle_t * T / std::numbers::pi) +
            own * p.r * p.q / 2 * slope * angle_t;
      T = half * angle.order0 * T + own * p.r * p.q / 2 * (1 - angle.lost) + (kernel.ntk ? b : 0);
      const Pair before = p;
      p.next_layer(half, b, angle.lost);
      sine = std::sqrt(p.versine * p.opposite);
      const double below = p.r * p.q * sine;
      const double by_angle = ratio(-half * before.r * before.q * slope, below);
      const double by_norm =
          half * b / (p.r * p.r) * ratio(before.difference + before.q * angle.lost, below);
      angle_r = by_angle * angle_r + by_norm * norm_r;
      angle_t *= by_angle;
      norm_r *= half * before.r / p.r;
    }
    // The tangent is (apart + versine u) / sine.
    const double by_tangent = -alpha[i] * ratio(T_t / u.norm, first_sine);
    const double by_unit = (alpha[i] * T_r + by_tangent * first_versine) * u.factor;
    for (std::size_t k = 0; k < d; ++k) sum[k] += by_unit * x[k] + by_tangent * apart[k];
  }
  for (std::size_t k = 0; k < d; ++k) out[k] += share * factor * sum[k];
}

void add_gradient(const Network& net, double share, const double* x, const double* X, std::size_t n,
                  const double* alpha, double* out) {
  Points point, points;
  point.append(net, x, 1);
  points.append(net, X, n);
  Doubles k(n), gamma((net.layers() + 1) * n), sum(net.dim());
  ntk_row(net, point.view(), points.view(), k.data(), gamma.data());
  ntk_gradient_mean(net, point.view(), points.view(), gamma.data(), alpha, sum.data());
  for (std::size_t j = 0; j < net.dim(); ++j) out[j] += share * sum[j];
}

}  // namespace

PriorKernel::PriorKernel(std::vector<Part> parts, double scale)
    : parts_(std::move(parts)), scale_(scale) {
  if (parts_.empty()) throw ArrayError("kernels: expected at least one");
}

const ArcCosine* PriorKernel::closed_form() const {
  return parts_.size() == 1 ? std::get_if<ArcCosine>(&parts_[0]) : nullptr;
}

void PriorKernel::require_dim(std::size_t d) const {
  for (const Part& of : parts_)
    if (const auto* net = std::get_if<std::shared_ptr<const Network>>(&of);
        net && (*net)->dim() != d)
      throw ArrayError("X: the kernel is of dimension " + std::to_string((*net)->dim()) +
                       ", the points have " + std::to_string(d));
}

void PriorKernel::gram(const double* X, std::size_t n, const double* Y, std::size_t m,
                       std::size_t d, double* K) const {
  const double share = 1.0 / (scale_ * static_cast<double>(parts_.size()));
  std::fill_n(K, n * m, 0.0);
  Doubles part;
  for (const Part& of : parts_)
    if (const auto* closed = std::get_if<ArcCosine>(&of)) {
      add_gram(*closed, share, X, n, Y, m, d, K);
    } else {
      part.resize(n * m);
      const bool symmetric = X == Y && n == m;
      ntk_gram_points(*std::get<std::shared_ptr<const Network>>(of), X, n, symmetric ? nullptr : Y,
                      m, part.data());
      for (std::size_t i = 0; i < n * m; ++i) K[i] += share * part[i];
    }
}

void PriorKernel::gradient_combination(const double* x, const double* X, std::size_t n,
                                       std::size_t d, const double* alpha, double* out) const {
  const double share = 1.0 / (scale_ * static_cast<double>(parts_.size()));
  std::fill_n(out, d, 0.0);
  for (const Part& of : parts_)
    if (const auto* closed = std::get_if<ArcCosine>(&of))
      add_gradient(*closed, share, x, X, n, d, alpha, out);
    else
      add_gradient(*std::get<std::shared_ptr<const Network>>(of), share, x, X, n, alpha, out);
}

}  // namespace zopo
