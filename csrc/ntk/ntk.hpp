// The empirical neural tangent kernel of a small ReLU network, in closed form.
//
//   f(x) = W_L h_L + b_L,  h_0 = x,  a_l = W_{l-1} h_{l-1} + b_{l-1},  h_l = relu(a_l)
//   D_L = 1,  D_l = (D_{l+1} W_{l+1}) o 1[a_{l+1} > 0]           (df / d pre-activation l + 1)
//   k(x, x') = sum_{l=0..L} (h_l(x).h_l(x') + 1) (D_l(x).D_l(x'))
//
// Jacot et al. 2018 for the kernel; the closed form follows from the chain rule over weights and
// biases and needs no Jacobian of the parameters.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/aligned.hpp"
#include "base/device.hpp"

namespace zopo {

// Weights of the network, immutable after construction.
class Network {
 public:
  // weights[l]: (width[l + 1], width[l]) row-major, the last (1, width[L]); biases[l]: (width[l +
  // 1],).
  Network(std::vector<std::size_t> width, std::vector<Doubles> weights,
          std::vector<Doubles> biases);

  std::size_t dim() const { return width_[0]; }
  std::size_t layers() const { return width_.size() - 1; }
  std::size_t hidden() const { return hidden_; }  // sum of the hidden widths
  std::size_t width(std::size_t l) const { return width_[l]; }
  const std::vector<std::size_t>& widths() const { return width_; }
  // Where h_l (l >= 1) and D_{l-1} start within a point's row of hidden() numbers.
  std::size_t offset(std::size_t l) const { return offset_[l]; }
  const double* weight(std::size_t l) const { return weights_[l].data(); }
  // W_l^T (width[l], width[l + 1]), l < layers: what features multiply by, many points at a time.
  const double* transposed(std::size_t l) const { return transposed_[l].data(); }
  const double* bias(std::size_t l) const { return biases_[l].data(); }
  const double* first_gram() const { return first_gram_.data(); }  // W_0 W_0^T (width[1], width[1])

  // What an engine keeps of the weights on a device, by its ordinal; made at first use.
  struct Copies {
    std::mutex mutex;
    std::map<int, std::shared_ptr<const void>> on_device;
  };
  Copies& copies() const { return *copies_; }

 private:
  std::vector<std::size_t> width_, offset_;
  std::size_t hidden_ = 0;
  std::vector<Doubles> weights_, biases_, transposed_;
  Doubles first_gram_;
  std::shared_ptr<Copies> copies_ = std::make_shared<Copies>();
};

// Points with their features: x (n, d); h (n, hidden) = h_1..h_L; D (n, hidden) = D_0..D_{L-1}.
struct PointsView {
  std::size_t n;
  const double* x;
  const double* h;
  const double* D;
};

// Growing storage behind a PointsView.
template <class Device>
struct Points {
  std::size_t n = 0;
  Doubles x, h, D;

  PointsView view() const { return {n, x.data(), h.data(), D.data()}; }
  PointsView row(const Network& net, std::size_t i) const {
    return {1, x.data() + i * net.dim(), h.data() + i * net.hidden(), D.data() + i * net.hidden()};
  }
  void append(const Network& net, const double* X, std::size_t count);
  void erase(const Network& net, std::size_t i);
  void truncate(const Network& net, std::size_t count);
};

// h, D (n, hidden) of the points X (n, d); with `first`, also X W_0^T (n, width[1]).
template <class Device>
void ntk_features(const Network& net, const double* X, std::size_t n, double* h, double* D,
                  double* first = nullptr);

// K (a.n, b.n) with leading dimension ldk; with `lower`, entries right of the diagonal are
// unspecified.
template <class Device>
void ntk_gram(const Network& net, PointsView a, PointsView b, bool lower, double* K,
              std::size_t ldk);

// The same from the points alone, X (n, d) and Y (m, d): features on the way, no more threads
// started than for one operation. Y null: Y = X, and K is symmetric.
template <class Device>
void ntk_gram_points(const Network& net, const double* X, std::size_t n, const double* Y,
                     std::size_t m, double* K);

// k(x_i, x_i), (n,).
template <class Device>
void ntk_diag(const Network& net, PointsView a, double* out);

// One point against many: k (n,), and gamma (layers + 1, n) = D_l(x).D_l(X_i), the last row ones.
// With `inner` (n,) = x.X_i given, X.x and point.x are not read.
template <class Device>
void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner = nullptr);

// sum_i alpha_i dk(x, X_i)/dx = sum_l J_l(x)^T sum_i alpha_i gamma_li h_l(X_i), (d,).
template <class Device>
void ntk_gradient_mean(const Network& net, PointsView point, PointsView X, const double* gamma,
                       const double* alpha, double* out);

// The network linearised at a point, for the trace of its derivative's covariance without (d, d) or
// (n, d) matrices: J_l = B_l W_0, B_l with a column for each first-layer unit that is on there.
struct Linearization {
  std::vector<std::size_t> on;  // those units
  std::size_t a = 0;            // their number, padded to whole groups of eight
  std::vector<Doubles> B;       // [l - 2]: (width[l], a), l = 2..layers
  Doubles first_gram;           // W_0 W_0^T of those units, (a, a)
  Doubles weight;               // |D_l|^2, l = 0..layers
  double prior_trace = 0.0;     // tr d^2 k(x, x') / dx dx' at x' = x
  Doubles work;
};
template <class Device>
void ntk_linearize(const Network& net, PointsView point, Linearization& at);

// P (n, a) with leading dimension ldp: G = dk(x, X)/dx = diag(gamma_0) X + P W_0[on].
template <class Device>
void ntk_remainder(const Network& net, const Linearization& at, PointsView X, const double* gamma,
                   double* P, std::size_t ldp, Doubles& work);

// G (n, d) itself.
template <class Device>
void ntk_gradient_rows(const Network& net, const Linearization& at, PointsView X,
                       const double* gamma, double* G);

// d^2 k(x, x') / dx dx' at x' = x: sum_l |D_l|^2 J_l^T J_l (d, d).
template <class Device>
void ntk_gradient_prior(const Network& net, const Linearization& at, double* out);

// out_i = sum_j weight_ij dk(x_i, y_j)/dx_i, (n, d): the derivative with respect to X of a function
// of gram(X, Y) whose derivative with respect to that is weight (n, m).
template <class Device>
void ntk_gram_gradient(const Network& net, const double* X, std::size_t n, const double* Y,
                       std::size_t m, const double* weight, double* out);

}  // namespace zopo
