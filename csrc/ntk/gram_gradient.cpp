// Gradient of a function of a Gram matrix by its points (ntk/ntk.hpp), one row at a time; threads
// split the rows. The CUDA twin is cuda/ntk/gram_gradient.cu.
#include "base/parallel.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

void ntk_gram_gradient(const Network& net, const double* X, std::size_t n, const double* Y,
                       std::size_t m, const double* weight, double* out) {
  const std::size_t d = net.dim(), S = net.hidden();
  Doubles features(2 * S * (n + m));
  double *h = features.data(), *D = h + S * n, *hY = D + S * n, *DY = hY + S * m;
  ntk_features(net, X, n, h, D);
  ntk_features(net, Y, m, hY, DY);
  const PointsView right = {m, Y, hY, DY};
  const double work = static_cast<double>(n) * static_cast<double>(m) *
                      (static_cast<double>(d) + 3.0 * static_cast<double>(S));
  parallel_ranges(n, work, [&](std::size_t begin, std::size_t end) {
    // Only gamma is needed. Passing zeros for x.y, which k alone needs, skips computing it.
    const Doubles none(m, 0.0);
    Doubles k(m), gamma((net.layers() + 1) * m);
    for (std::size_t i = begin; i < end; ++i) {
      const PointsView x = {1, X + i * d, h + i * S, D + i * S};
      ntk_row(net, x, right, k.data(), gamma.data(), none.data());
      ntk_gradient_mean(net, x, right, gamma.data(), weight + i * m, out + i * d);
    }
  });
}

}  // namespace zopo
