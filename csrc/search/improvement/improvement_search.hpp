// State machine of the default search: expected improvement, or a posterior sample, over a region of
// the pool under an infinite-width kernel. CPU only.
//
// A pool of at most `region` candidates is one region. In a larger pool the region holds the observed
// prompts and the free candidates nearest to the best prompt, and to a point shifted from it along
// the gradient of the posterior mean (the derivative step of arXiv 2403.02993). When its center
// moves, members that stay are kept and the others are replaced over the next calls, nearest first,
// so that no call is much slower than the rest.
//
// If the model sees the scores mostly as noise, only a trust region around the best prompt is
// considered (search/trust_region.hpp). Pending candidates enter the model as fantasised scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/region_posterior.hpp"
#include "pool/pool.hpp"
#include "search/ledger.hpp"
#include "search/neighborhood.hpp"
#include "search/score_transform.hpp"
#include "search/thompson_sampler.hpp"
#include "search/trust_region.hpp"

namespace zopo {

// A kernel of the model, on coordinates times `weights` (d,); none: on the coordinates. `linear` is the
// factor of the last trends (ImprovementSettings::linear).
struct WeightedKernel {
  PriorKernel kernel;
  Doubles weights;
  double linear = 0.0;
};
using WeightedKernels = std::vector<WeightedKernel>;

struct ImprovementSettings {
  bool thompson = false;  // sample the posterior instead of the expected improvement
  RandomKey seed{};       // of the samples
  std::size_t region = 0, patience = 0, capacity = 0;
  int power = 1;
  double emphasis = 0.0, step = 0.0;
  Doubles nuggets;  // variances of the model's misfit, as shares of the signal's
  Doubles factor;   // (d,) from the pool's standardised coordinates to those of the kernel
  // Number of trends, the last ones, that describe a candidate and stay when the pool grows. Each
  // kernel adds linear^2 t(x)^T t(y) of them, with a factor of its own.
  std::size_t linear = 0;
};

class ImprovementSearch {
 public:
  // `ledger` must outlive this object. `initial` are proposed first.
  // The model averages over several kernels by their evidence; a posterior sample takes one.
  // `trend` are the first trends (m, settings.linear).
  ImprovementSearch(std::unique_ptr<Pool<Cpu>> pool, Doubles trend, WeightedKernels kernels,
                    ImprovementSettings settings, std::vector<std::int64_t> initial,
                    const Ledger& ledger);

  // Return the next candidate: an initial one, or the most promising one of the region. Only while
  // one is free.
  std::int64_t propose();
  // Process a change that the ledger has recorded: a pending candidate, a score (`replaced`: of an
  // observation that had a partial one), a larger pool with its first candidates unchanged.
  void on_ask(std::int64_t index);
  void on_tell(std::int64_t index, bool final, bool replaced);
  void on_add(std::unique_ptr<Pool<Cpu>> pool, Doubles trend);

  // Add trends (m, trends) to the prior, and propose `initial` first; before any other call.
  void learn(Doubles trend, std::size_t trends, std::vector<std::int64_t> initial);
  std::size_t trends() const { return trends_; }

  // Members of the region, -1 at columns without one, and their posterior; the trust region.
  const std::vector<std::int64_t>& members() const { return member_; }
  const RegionPosterior* model() const { return model_.get(); }
  const TrustRegion& trust() const { return trust_; }
  // Compute mean and variance of the scores of all members as the other scores predict them
  // (RegionPosterior::predict), (members,). Only with a model.
  void predict(double* mean, double* variance, bool latent) const;
  // Compute the same of candidates outside the pool, (n,), from their embeddings Z (n, d), of the pool's
  // precision, and their trends (n, trends).
  void predict_at(const void* Z, std::size_t n, const Doubles& trend, double* mean,
                  double* variance, bool latent) const;
  const Pool<Cpu>& pool() const { return *pool_; }
  // Return the score to improve on: the best exact score, or else the best score. Only with a score.
  double incumbent_score() const;

  // Multiply-adds of a call, for the split over threads.
  double work() const;

 private:
  std::int64_t next();
  std::int64_t sample();
  // ---- the model
  void sync();
  void build();
  void refresh();
  void revise(std::size_t k);
  double noise(std::size_t k) const;
  void exclude(std::int64_t index);
  // ---- the region of a larger pool
  bool is_whole_pool() const { return pool_->size() <= settings_.region; }
  std::int32_t column_of(std::int64_t index) const {
    return column_of_[static_cast<std::size_t>(index)];
  }
  void coordinates(const std::int64_t* index, std::size_t n, double* out) const;
  Doubles points(std::span<const std::int64_t> index) const;
  std::vector<double> distances(const std::vector<std::int64_t>& index) const;
  void project();
  void choose();
  bool direction(Doubles& out) const;
  std::vector<std::int64_t> inside() const;
  void move(std::size_t limit);
  void admit(std::size_t limit);
  void place(std::span<const std::int64_t> index, std::span<const std::size_t> columns);
  void require_column(std::int64_t index);
  void grow(std::size_t count);

  std::unique_ptr<Pool<Cpu>> pool_;
  WeightedKernels kernels_;
  ImprovementSettings settings_;
  const Ledger& ledger_;
  Doubles trend_;           // (m, trends)
  std::size_t trends_ = 0;  // functions of unknown coefficient in the prior
  ScoreTransform transform_;
  TrustRegion trust_;
  std::vector<std::int64_t> queue_;  // initial candidates not proposed yet, from queue_at_ on
  std::size_t queue_at_ = 0;
  bool designing_ = true;  // until all initial scores are known, or the first proposal beyond them
  bool tracking_ = false;  // true once the trust region follows the scores
  double best_exact_;      // the best final score without noise; NaN for none
  std::unique_ptr<RegionPosterior> model_;
  std::optional<ThompsonSampler> sampler_;
  std::vector<std::int64_t> member_;     // candidate at each column, -1 for none
  std::vector<std::int32_t> column_of_;  // of each candidate, -1 for none
  std::size_t size_ = 0;                 // observations in the model
  std::size_t refresh_at_ = 0;           // number of observations at which the units are updated
  std::vector<bool> is_revised_;         // by observation: its score or noise has changed
  bool has_revised_ = false;
  Doubles noises_, values_;                   // noise of each observation in the model; scratch
  std::vector<std::int64_t> pending_;         // scratch
  bool moved_ = false;                        // the center has moved since the region was chosen
  std::optional<Neighborhood> neighborhood_;  // of a pool larger than a region
  std::vector<std::int64_t> near_;            // candidates chosen for the region, nearest first
  std::vector<std::int64_t> incoming_;        // of these, not members yet; the next one last
};

}  // namespace zopo
