// CPU engine of the tangent kernel (ntk/ntk.hpp): the network, the features of points, and the
// kernel with its derivatives. The CUDA twin is cuda/ntk/ (network.cu, features.cu, gram.cu,
// ntk.cu).
#include <algorithm>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "ntk/ntk.hpp"
#include "simd/simd.hpp"

namespace zopo {

Network::Network(std::vector<std::size_t> width, std::vector<Doubles> weights,
                 std::vector<Doubles> biases)
    : width_(std::move(width)), weights_(std::move(weights)), biases_(std::move(biases)) {
  offset_.assign(width_.size(), 0);
  for (std::size_t l = 1; l < width_.size(); ++l) {
    offset_[l] = hidden_;
    hidden_ += width_[l];
  }
  for (std::size_t l = 0; l < layers(); ++l) {
    const std::size_t in = width_[l], out = width_[l + 1];
    auto& T = transposed_.emplace_back(in * out);
    for (std::size_t i = 0; i < out; ++i)
      for (std::size_t j = 0; j < in; ++j) T[j * out + i] = weights_[l][i * in + j];
  }
  const std::size_t w = width_[1], d = width_[0];
  first_gram_.resize(w * w);
  for (std::size_t i = 0; i < w; ++i)
    simd().matvec(weight(0), d, w, d, weight(0) + i * d, first_gram_.data() + i * w);
}

void Points::append(const Network& net, const double* X, std::size_t count) {
  x.insert(x.end(), X, X + count * net.dim());
  h.resize((n + count) * net.hidden());
  D.resize((n + count) * net.hidden());
  ntk_features(net, X, count, h.data() + n * net.hidden(), D.data() + n * net.hidden());
  n += count;
}

void Points::erase(const Network& net, std::size_t i) {
  const auto drop = [i](Doubles& v, std::size_t row) {
    v.erase(v.begin() + i * row, v.begin() + (i + 1) * row);
  };
  drop(x, net.dim());
  drop(h, net.hidden());
  drop(D, net.hidden());
  --n;
}

void Points::truncate(const Network& net, std::size_t count) {
  x.resize(count * net.dim());
  h.resize(count * net.hidden());
  D.resize(count * net.hidden());
  n = count;
}

void ntk_features(const Network& net, const double* X, std::size_t n, double* h, double* D,
                  double* first) {
  const std::size_t L = net.layers(), S = net.hidden();
  const auto& isa = simd();
  const double work = static_cast<double>(n) * net.dim() * net.width(1);
  parallel_ranges(n, work, [&](std::size_t begin, std::size_t end) {
    const std::size_t rows = end - begin;
    const double* in = X + begin * net.dim();
    std::size_t ldin = net.dim();
    for (std::size_t l = 1; l <= L; ++l) {
      const std::size_t w = net.width(l);
      double* out = h + begin * S + net.offset(l);
      isa.gemm(rows, w, net.width(l - 1), in, ldin, net.transposed(l - 1), w, out, S, false);
      const double* bias = net.bias(l - 1);
      for (std::size_t i = 0; i < rows; ++i) {
        double* a = out + i * S;
        if (first && l == 1) std::copy_n(a, w, first + (begin + i) * w);
        for (std::size_t j = 0; j < w; ++j) a[j] = std::max(a[j] + bias[j], 0.0);
      }
      in = out;
      ldin = S;
    }
    // D_{l-1} is stored at offset(l). D_L = 1, so D_{L-1} is the output row of weights, gated.
    for (std::size_t l = L; l >= 1; --l) {
      const std::size_t w = net.width(l);
      double* out = D + begin * S + net.offset(l);
      if (l < L)
        isa.gemm(rows, w, net.width(l + 1), D + begin * S + net.offset(l + 1), S, net.weight(l), w,
                 out, S, false);
      const double *active = h + begin * S + net.offset(l), *last = net.weight(L);
      for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < w; ++j)
          out[i * S + j] = active[i * S + j] > 0.0 ? (l < L ? out[i * S + j] : last[j]) : 0.0;
    }
  });
}

namespace {

// Owner of the pointer arrays that a GramOperand refers to.
struct Operand {
  std::vector<const double*> h, D;
  std::vector<std::size_t> ldh;
  GramOperand view;

  Operand(const Network& net, PointsView p) {
    const std::size_t L = net.layers();
    h.push_back(p.x);
    ldh.push_back(net.dim());
    for (std::size_t l = 1; l <= L; ++l) {
      h.push_back(p.h + net.offset(l));
      ldh.push_back(net.hidden());
      D.push_back(p.D + net.offset(l));
    }
    view = {p.n, L, net.widths().data(), h.data(), ldh.data(), D.data(), net.hidden()};
  }
};

// Propagate r_L, given in `v` (width[L],), back to the first hidden layer; `v` (width[1],) is then
// sum_{l >= 1} of the part of J_l(x)^T r_l to the left of W_0. After each product with W_l,
// add(l, v) adds the term r_l of that layer.
template <class Add>
void backpropagate(const Network& net, const double* h, Doubles& v, Doubles& next, Add&& add) {
  for (std::size_t l = net.layers(); l >= 1; --l) {
    const double* active = h + net.offset(l);
    for (std::size_t j = 0; j < net.width(l); ++j)
      if (!(active[j] > 0.0)) v[j] = 0.0;
    if (l == 1) return;
    next.assign(net.width(l - 1), 0.0);
    simd().matvec_transposed(net.weight(l - 1), net.width(l - 1), net.width(l), net.width(l - 1),
                             v.data(), next.data());
    add(l - 1, next.data());
    v.swap(next);
  }
}

// Scratch array of one operation. Arrays of up to kMaxKept numbers are kept by the thread, one for
// each simultaneous use, because touching fresh pages costs more than filling them.
enum class Use { Panels, Left, Right };
template <Use use>
class Scratch {
 public:
  explicit Scratch(std::size_t size) : own_(size > kMaxKept ? size : 0) {
    if (size <= kMaxKept && kept().size() < size) kept().resize(size);
    data_ = size > kMaxKept ? own_.data() : kept().data();
  }
  double* data() const { return data_; }

 private:
  static constexpr std::size_t kMaxKept = std::size_t{1} << 19;
  static Doubles& kept() {
    static thread_local Doubles numbers;
    return numbers;
  }
  Doubles own_;
  double* data_;
};

double gram_work(const Network& net, std::size_t n, std::size_t m) {
  return static_cast<double>(n) * static_cast<double>(m) *
         static_cast<double>(net.dim() + 2 * net.hidden());
}

void gram_product(const Network& net, const Operand& left, const Operand& right,
                  const double* packed, bool lower, double* K, std::size_t ldk) {
  const auto& isa = simd();
  const auto rows = [&](std::size_t begin, std::size_t end) {
    isa.gram_rows(left.view, right.view, packed, begin, end, lower, K, ldk);
  };
  constexpr std::size_t kChunk = 32;
  parallel_chunks(left.view.n, kChunk, gram_work(net, left.view.n, right.view.n), rows);
}

std::size_t gram_panels(std::size_t n) { return (n + simd().gram_panel - 1) / simd().gram_panel; }

}  // namespace

void ntk_gram(const Network& net, PointsView a, PointsView b, bool lower, double* K,
              std::size_t ldk) {
  const Operand left(net, a), right(net, b);
  const auto& isa = simd();
  const Scratch<Use::Panels> packed(isa.gram_pack_size(right.view));
  double* panels = packed.data();
  parallel_ranges(
      gram_panels(b.n), gram_work(net, 1, b.n),
      [&](std::size_t begin, std::size_t end) { isa.gram_pack(right.view, begin, end, panels); });
  gram_product(net, left, right, panels, lower, K, ldk);
}

void ntk_gram_points(const Network& net, const double* X, std::size_t n, const double* Y,
                     std::size_t m, double* K) {
  const bool symmetric = Y == nullptr;
  const std::size_t S = net.hidden(), d = net.dim();
  const auto& isa = simd();
  const Scratch<Use::Left> mine(2 * n * S);
  const Scratch<Use::Right> theirs(symmetric ? 0 : 2 * m * S);
  double *h = mine.data(), *h_right = symmetric ? h : theirs.data();
  const Operand left(net, {n, X, h, h + n * S});
  const Operand right(net, {m, symmetric ? X : Y, h_right, h_right + m * S});
  const Scratch<Use::Panels> packed(isa.gram_pack_size(right.view));
  double* panels = packed.data();
  // Each part computes the features of its rows and of its panels' points, and packs its panels.
  const std::size_t count = gram_panels(m), panel = isa.gram_panel;
  if (count == 0) return;
  const double work = static_cast<double>((symmetric ? 0 : n) + m) * static_cast<double>(d) *
                      static_cast<double>(net.width(1));
  parallel_ranges(count, work, [&](std::size_t begin, std::size_t end) {
    const std::size_t first = begin * panel, last = std::min(m, end * panel);
    ntk_features(net, right.view.h[0] + first * d, last - first, h_right + first * S,
                 h_right + (m + first) * S);
    isa.gram_pack(right.view, begin, end, panels);
    if (symmetric) return;
    const std::size_t from = n * begin / count, to = n * end / count;
    ntk_features(net, X + from * d, to - from, h + from * S, h + (n + from) * S);
  });
  gram_product(net, left, right, panels, symmetric, K, m);
  if (!symmetric) return;
  constexpr std::size_t kBlock = 32;  // mirror the triangle in blocks that fit into the cache
  for (std::size_t I = 0; I < n; I += kBlock)
    for (std::size_t J = 0; J <= I; J += kBlock)
      for (std::size_t i = I; i < std::min(n, I + kBlock); ++i)
        for (std::size_t j = J; j < std::min(i, J + kBlock); ++j) K[j * n + i] = K[i * n + j];
}

void ntk_diag(const Network& net, PointsView a, double* out) {
  const auto& isa = simd();
  for (std::size_t i = 0; i < a.n; ++i) {
    const double* x = a.x + i * net.dim();
    double total = 0.0, inner = isa.dot(x, x, net.dim());
    for (std::size_t l = 1; l <= net.layers(); ++l) {
      const double* h = a.h + i * net.hidden() + net.offset(l);
      const double* D = a.D + i * net.hidden() + net.offset(l);
      total += (inner + 1.0) * isa.dot(D, D, net.width(l));
      inner = isa.dot(h, h, net.width(l));
    }
    out[i] = total + inner + 1.0;
  }
}

void ntk_row(const Network& net, PointsView point, PointsView X, double* k, double* gamma,
             const double* inner) {
  const auto& isa = simd();
  const std::size_t L = net.layers(), S = net.hidden(), n = X.n;
  for (std::size_t l = 1; l <= L; ++l)
    isa.matvec(X.D + net.offset(l), S, n, net.width(l), point.D + net.offset(l),
               gamma + (l - 1) * n);
  if (inner)
    std::copy_n(inner, n, k);
  else
    isa.matvec(X.x, net.dim(), n, net.dim(), point.x, k);
  for (std::size_t i = 0; i < n; ++i) k[i] = (k[i] + 1.0) * gamma[i];
  double* product = gamma + L * n;  // scratch: the last row of gamma is set to ones at the end
  for (std::size_t l = 1; l <= L; ++l) {
    isa.matvec(X.h + net.offset(l), S, n, net.width(l), point.h + net.offset(l), product);
    if (l < L)
      for (std::size_t i = 0; i < n; ++i) k[i] += (product[i] + 1.0) * gamma[l * n + i];
    else
      for (std::size_t i = 0; i < n; ++i) k[i] += product[i] + 1.0;
  }
  std::fill_n(gamma + L * n, n, 1.0);
}

void ntk_gradient_mean(const Network& net, PointsView point, PointsView X, const double* gamma,
                       const double* alpha, double* out) {
  const auto& isa = simd();
  const std::size_t L = net.layers(), S = net.hidden(), n = X.n;
  Doubles beta(n), v(net.width(L), 0.0), next;
  const auto add = [&](std::size_t l, double* r) {
    for (std::size_t i = 0; i < n; ++i) beta[i] = alpha[i] * gamma[l * n + i];
    isa.matvec_transposed(X.h + net.offset(l), S, n, net.width(l), beta.data(), r);
  };
  add(L, v.data());
  backpropagate(net, point.h, v, next, add);
  std::fill_n(out, net.dim(), 0.0);
  isa.matvec_transposed(net.weight(0), net.dim(), net.width(1), net.dim(), v.data(), out);
  for (std::size_t i = 0; i < n; ++i) beta[i] = alpha[i] * gamma[i];
  isa.matvec_transposed(X.x, net.dim(), n, net.dim(), beta.data(), out);
}

void ntk_linearize(const Network& net, PointsView point, Linearization& at) {
  const auto& isa = simd();
  const std::size_t L = net.layers(), w = net.width(1);
  at.on.clear();
  for (std::size_t j = 0; j < w; ++j)
    if (point.h[net.offset(1) + j] > 0.0) at.on.push_back(j);
  const std::size_t on = at.on.size(), a = at.a = (on + 7) / 8 * 8;
  at.first_gram.assign(a * a, 0.0);
  for (std::size_t i = 0; i < on; ++i)
    for (std::size_t j = 0; j < on; ++j)
      at.first_gram[i * a + j] = net.first_gram()[at.on[i] * w + at.on[j]];

  // |J_l|^2 = tr(B_l W_0 W_0^T B_l^T), where B_1 is the identity on the active units.
  at.weight.assign(L + 1, 1.0);
  for (std::size_t l = 0; l < L; ++l) {
    const double* D = point.D + net.offset(l + 1);
    at.weight[l] = isa.dot(D, D, net.width(l + 1));
  }
  at.prior_trace = at.weight[0] * static_cast<double>(net.dim());
  double norm = 0.0;
  for (std::size_t i = 0; i < on; ++i) norm += at.first_gram[i * a + i];
  at.prior_trace += at.weight[1] * norm;
  at.B.resize(L - 1);
  for (std::size_t l = 2; l <= L; ++l) {
    const std::size_t rows = net.width(l), inner = net.width(l - 1);
    auto& B = at.B[l - 2];
    B.assign(rows * a, 0.0);
    if (l == 2)
      for (std::size_t j = 0; j < rows; ++j)
        for (std::size_t i = 0; i < on; ++i) B[j * a + i] = net.weight(1)[j * inner + at.on[i]];
    else
      isa.gemm(rows, a, inner, net.weight(l - 1), inner, at.B[l - 3].data(), a, B.data(), a, false);
    for (std::size_t j = 0; j < rows; ++j)
      if (!(point.h[net.offset(l) + j] > 0.0)) std::fill_n(B.data() + j * a, a, 0.0);
    at.work.resize(std::max(at.work.size(), rows * a));
    isa.gemm(rows, a, a, B.data(), a, at.first_gram.data(), a, at.work.data(), a, false);
    at.prior_trace += at.weight[l] * isa.dot(B.data(), at.work.data(), rows * a);
  }
}

void ntk_remainder(const Network& net, const Linearization& at, PointsView X, const double* gamma,
                   double* P, std::size_t ldp, Doubles& work) {
  const std::size_t n = X.n, a = at.a, on = at.on.size(), S = net.hidden();
  for (std::size_t i = 0; i < n; ++i) {
    const double* h = X.h + i * S + net.offset(1);
    for (std::size_t j = 0; j < on; ++j) P[i * ldp + j] = gamma[n + i] * h[at.on[j]];
    std::fill(P + i * ldp + on, P + i * ldp + a, 0.0);
  }
  work.resize(std::max(work.size(), n * a));
  for (std::size_t l = 2; l <= net.layers(); ++l) {
    simd().gemm(n, a, net.width(l), X.h + net.offset(l), S, at.B[l - 2].data(), a, work.data(), a,
                false);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < on; ++j) P[i * ldp + j] += gamma[l * n + i] * work[i * a + j];
  }
}

void ntk_gradient_rows(const Network& net, const Linearization& at, PointsView X,
                       const double* gamma, double* G) {
  const auto& isa = simd();
  const std::size_t d = net.dim(), a = at.a;
  Doubles P(X.n * a), work;
  ntk_remainder(net, at, X, gamma, P.data(), a, work);
  for (std::size_t i = 0; i < X.n; ++i) {
    double* row = G + i * d;
    for (std::size_t j = 0; j < d; ++j) row[j] = gamma[i] * X.x[i * d + j];
    for (std::size_t j = 0; j < at.on.size(); ++j)
      isa.axpy(d, P[i * a + j], net.weight(0) + at.on[j] * d, row);
  }
}

// With J_l = B_l W and W the active rows of W_0, the prior is
// |D_0|^2 I + W^T (sum_l |D_l|^2 B_l^T B_l) W.
void ntk_gradient_prior(const Network& net, const Linearization& at, double* out) {
  const auto& isa = simd();
  const std::size_t d = net.dim(), a = at.a, on = at.on.size();
  Doubles Q(a * a, 0.0), W(a * d, 0.0), WT(d * a, 0.0), QW(a * d);
  for (std::size_t i = 0; i < on; ++i) Q[i * a + i] = at.weight[1];
  for (std::size_t l = 2; l <= net.layers(); ++l)
    for (std::size_t r = 0; r < net.width(l); ++r) {
      const double* B = at.B[l - 2].data() + r * a;
      for (std::size_t i = 0; i < on; ++i) isa.axpy(a, at.weight[l] * B[i], B, Q.data() + i * a);
    }
  for (std::size_t i = 0; i < on; ++i)
    for (std::size_t j = 0; j < d; ++j)
      WT[j * a + i] = W[i * d + j] = net.weight(0)[at.on[i] * d + j];
  isa.gemm(a, d, a, Q.data(), a, W.data(), d, QW.data(), d, false);
  isa.gemm(d, d, a, WT.data(), a, QW.data(), d, out, d, false);
  for (std::size_t j = 0; j < d; ++j) out[j * d + j] += at.weight[0];
}

}  // namespace zopo
