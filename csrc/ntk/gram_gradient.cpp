// The derivative of functions of a Gram matrix with respect to its points: a row at a time, threads
// split the rows.
#include "base/parallel.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

template <>
void ntk_gram_gradient<Cpu>(const Network& net, const double* X, std::size_t n, const double* Y,
                            std::size_t m, const double* weight, double* out) {
  const std::size_t d = net.dim(), S = net.hidden();
  Doubles features(2 * S * (n + m));
  double *h = features.data(), *D = h + S * n, *hY = D + S * n, *DY = hY + S * m;
  ntk_features<Cpu>(net, X, n, h, D);
  ntk_features<Cpu>(net, Y, m, hY, DY);
  const PointsView right = {m, Y, hY, DY};
  const double work = static_cast<double>(n) * static_cast<double>(m) *
                      (static_cast<double>(d) + 3.0 * static_cast<double>(S));
  parallel_ranges(n, work, [&](std::size_t begin, std::size_t end) {
    // Of the row only gamma is wanted: x.y, which k alone needs, is not computed.
    const Doubles none(m, 0.0);
    Doubles k(m), gamma((net.layers() + 1) * m);
    for (std::size_t i = begin; i < end; ++i) {
      const PointsView x = {1, X + i * d, h + i * S, D + i * S};
      ntk_row<Cpu>(net, x, right, k.data(), gamma.data(), none.data());
      ntk_gradient_mean<Cpu>(net, x, right, gamma.data(), weight + i * m, out + i * d);
    }
  });
}

}  // namespace zopo
