// Covariance of a search's prior: the mean over closed-form kernels of infinitely wide networks and
// tangent kernels of finite ones, over a scale. In double precision. CPU only.
#pragma once

#include <cstddef>
#include <memory>
#include <variant>
#include <vector>

#include "base/aligned.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

// Closed-form infinite-width kernel, as zopo_fast/gp/infinite_ntk.py defines it.
struct ArcCosine {
  std::size_t depth;
  double weight_variance, bias_variance;
  bool ntk;  // parametrisation: "ntk" if true, else "standard"
};

class PriorKernel {
 public:
  using Part = std::variant<ArcCosine, std::shared_ptr<const Network>>;

  PriorKernel(std::vector<Part> parts, double scale);

  // The closed form, if it is the only part; else null.
  const ArcCosine* closed_form() const;
  double scale() const { return scale_; }
  // Throw ArrayError unless every network takes points of d dimensions.
  void require_dim(std::size_t d) const;

  // Compute K_ij = k(X_i, Y_j), (n, m), from X (n, d) and Y (m, d). The error of a closed form is
  // about 1e-13 of sqrt(K_ii K_jj). Entries that exceed double precision are not finite.
  void gram(const double* X, std::size_t n, const double* Y, std::size_t m, std::size_t d,
            double* K) const;
  // Compute sum_i alpha_i dk(x, X_i)/dx, (d,), without the term of a closed form's cusp where x and
  // X_i have the same direction.
  void gradient_combination(const double* x, const double* X, std::size_t n, std::size_t d,
                            const double* alpha, double* out) const;

 private:
  std::vector<Part> parts_;
  double scale_;
};

}  // namespace zopo
