// Empirical neural tangent kernel of a small ReLU network, in closed form, and its derivatives.
//
//   f(x) = W_L h_L + b_L,  h_0 = x,  a_l = W_{l-1} h_{l-1} + b_{l-1},  h_l = relu(a_l)
//   D_L = 1,  D_l = (D_{l+1} W_{l+1}) o 1[a_{l+1} > 0]           (df / d pre-activation l + 1)
//   J_0 = I,  J_{l+1} = diag(1[a_{l+1} > 0]) W_l J_l             (dh_l / dx)
//   k(x, x')                       = sum_{l=0..L} (h_l(x).h_l(x') + 1) (D_l(x).D_l(x'))
//   dk(x, x') / dx                 = sum_l (D_l(x).D_l(x')) J_l(x)^T h_l(x')
//   d^2 k(x, x') / dx dx' at x'= x = sum_l |D_l(x)|^2 J_l(x)^T J_l(x)
//
// The kernel is that of Jacot et al. 2018. The closed form follows from the chain rule over weights
// and biases and needs no Jacobian of the parameters; zopo_fast/gp/reference.py has it in NumPy.
// Functions here run on the CPU and take host pointers. cuda/ntk/ntk.hpp overloads them for a
// device, with a stream as the last argument.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

// Weights of the network and the products of them that all calls share. Immutable.
class Network {
 public:
  // weights[l] is (width[l + 1], width[l]) row-major, the last one (1, width[L]); biases[l] is
  // (width[l + 1],).
  Network(std::vector<std::size_t> width, std::vector<Doubles> weights,
          std::vector<Doubles> biases);

  std::size_t dim() const { return width_[0]; }
  std::size_t layers() const { return width_.size() - 1; }
  std::size_t hidden() const { return hidden_; }  // sum of the hidden widths
  std::size_t width(std::size_t l) const { return width_[l]; }
  const std::vector<std::size_t>& widths() const { return width_; }
  // Position of h_l (l >= 1) and of D_{l-1} within a point's row of hidden() numbers.
  std::size_t offset(std::size_t l) const { return offset_[l]; }
  const double* weight(std::size_t l) const { return weights_[l].data(); }
  // W_l^T (width[l], width[l + 1]), l < layers: the right factor when features of many points are
  // computed.
  const double* transposed(std::size_t l) const { return transposed_[l].data(); }
  const double* bias(std::size_t l) const { return biases_[l].data(); }
  const double* first_gram() const { return first_gram_.data(); }  // W_0 W_0^T (width[1], width[1])

  // Copies of the weights in device memory, by device ordinal; created at first use.
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

// Points with their features: x (n, d); h (n, hidden) holds h_1..h_L, D (n, hidden) D_0..D_{L-1}.
struct PointsView {
  std::size_t n;
  const double* x;
  const double* h;
  const double* D;
};

// Growing arrays behind a PointsView.
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

// Compute h and D (n, hidden) of the points X (n, d); with `first`, also X W_0^T (n, width[1]).
void ntk_features(const Network& net, const double* X, std::size_t n, double* h, double* D,
                  double* first = nullptr);

// Fill K (a.n, b.n), leading dimension ldk. With `lower`, entries right of the diagonal are left
// unspecified.
void ntk_gram(const Network& net, PointsView a, PointsView b, bool lower, double* K,
              std::size_t ldk);

// Fill K (n, m) from points without features, X (n, d) and Y (m, d). Features are computed within
// the same parallel section, so that no more threads are started than for one operation. A null Y
// means Y = X; K is then symmetric.
void ntk_gram_points(const Network& net, const double* X, std::size_t n, const double* Y,
                     std::size_t m, double* K);

// Compute k(x_i, x_i), (n,).
void ntk_diag(const Network& net, PointsView a, double* out);

// Evaluate one point against many: k (n,), and gamma (layers + 1, n) with gamma_li =
// D_l(x).D_l(X_i) and a last row of ones. With `inner` (n,) = x.X_i given, X.x and point.x are not
// read.
void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner = nullptr);

// Compute sum_i alpha_i dk(x, X_i)/dx = sum_l J_l(x)^T sum_i alpha_i gamma_li h_l(X_i), (d,).
void ntk_gradient_mean(const Network& net, PointsView point, PointsView X, const double* gamma,
                       const double* alpha, double* out);

// The network linearised at a point, J_l = B_l W_0 with a column of B_l for each first-layer unit
// that is active there. Gives the trace of the gradient's covariance without any (d, d) or (n, d)
// matrix.
struct Linearization {
  std::vector<std::size_t> on;  // active first-layer units
  std::size_t a = 0;            // their number, padded to a multiple of eight
  std::vector<Doubles> B;       // [l - 2]: (width[l], a), l = 2..layers
  Doubles first_gram;           // W_0 W_0^T of the active units, (a, a)
  Doubles weight;               // |D_l|^2, l = 0..layers
  double prior_trace = 0.0;     // tr d^2 k(x, x') / dx dx' at x' = x
  Doubles work;                 // scratch
};
void ntk_linearize(const Network& net, PointsView point, Linearization& at);

// Compute the remainder P (n, a), leading dimension ldp, in
// G = dk(x, X)/dx = diag(gamma_0) X + P W_0[on].
void ntk_remainder(const Network& net, const Linearization& at, PointsView X, const double* gamma,
                   double* P, std::size_t ldp, Doubles& work);

// Compute G = dk(x, X)/dx, (n, d).
void ntk_gradient_rows(const Network& net, const Linearization& at, PointsView X,
                       const double* gamma, double* G);

// Compute d^2 k(x, x') / dx dx' at x' = x, sum_l |D_l|^2 J_l^T J_l, (d, d).
void ntk_gradient_prior(const Network& net, const Linearization& at, double* out);

// Compute out_i = sum_j weight_ij dk(x_i, y_j)/dx_i, (n, d). This is the gradient by X of a
// function of gram(X, Y) whose gradient by the Gram matrix is weight (n, m).
void ntk_gram_gradient(const Network& net, const double* X, std::size_t n, const double* Y,
                       std::size_t m, const double* weight, double* out);

}  // namespace zopo
