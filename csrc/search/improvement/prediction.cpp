// Predictions of the default search (search/improvement/improvement_search.hpp).
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.hpp"
#include "search/improvement/improvement_search.hpp"

namespace zopo {

double ImprovementSearch::incumbent_score() const {
  const Doubles& scores = ledger_.seen().score;
  return std::isnan(best_exact_) ? *std::max_element(scores.begin(), scores.end()) : best_exact_;
}

void ImprovementSearch::predict(double* mean, double* variance, bool latent) const {
  model_->predict(mean, variance, latent);
  for (std::size_t c = 0; c < member_.size(); ++c) transform_.invert(mean[c], variance[c]);
}

void ImprovementSearch::predict_at(const void* Z, std::size_t n, const Doubles& trend, double* mean,
                                   double* variance, bool latent) const {
  const std::size_t d = pool_->dim(), width = d + trends_;
  if (trend.size() != n * trends_)
    throw ArrayError("trend: expected the trends of all " + std::to_string(n) + " points");
  Doubles X(n * width);
  for (std::size_t i = 0; i < n; ++i) {
    double* point = X.data() + i * width;
    pool_->standardise(Z, i, point);
    for (std::size_t j = 0; j < d; ++j) point[j] *= settings_.factor[j];
    std::copy_n(trend.data() + i * trends_, trends_, point + d);
  }
  const Doubles observed = points(std::span(ledger_.seen().index).first(size_));
  model_->predict_at(observed.data(), X.data(), n, mean, variance, latent);
  for (std::size_t i = 0; i < n; ++i) transform_.invert(mean[i], variance[i]);
}

}  // namespace zopo
