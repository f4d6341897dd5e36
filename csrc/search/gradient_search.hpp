// State machines of gradient searches, the paper's local steps in float64, for any number of searches
// at once and written once for all devices.
//
// Each step starts at the best prompt so far, follows the gradient of the posterior mean, and is
// projected to the nearest free candidate. Where the gradient is more uncertain than in most of the
// last steps, the nearest neighbours are scored instead (uncertainty-informed local exploration,
// arXiv 2403.02993, sec. 4.3). Pending candidates count as observed at their expected scores: they
// leave the gradient unchanged and reduce its uncertainty around them.
//
// The unit of the kernel is its mean diagonal over the pool. The unit of a stated noise is the
// variance of the scores at the last choice of the noise level. The level is chosen by marginal
// likelihood at the first step and whenever the number of observations has quadrupled, unless the
// run is about to end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "model/batch_models.hpp"
#include "search/ledger.hpp"

namespace zopo {

struct GradientSettings {
  std::size_t expected = 0;  // budget before it was clipped to the pool
  std::size_t neighbors = 0, exploration = 0;
  double step = 0.0, exploration_quantile = 0.0;
  double noise = kNotStated;  // share of the signal's variance; NaN: chosen by marginal likelihood
  double scale = 1.0;         // mean diagonal of the kernel over the pool
};

template <class Device>
class GradientSearch {
 public:
  // One of each for a search; the ledgers must outlive this object. `initial` are proposed first.
  GradientSearch(std::vector<ModelInputs> models, std::vector<GradientSettings> settings,
                 std::vector<std::vector<std::int64_t>> initial,
                 const std::vector<const Ledger*>& ledgers, int ordinal);

  struct Told {
    std::size_t search;
    std::int64_t index;
    bool final, replaced;
  };

  // Write the next candidate of each of these searches to out (which.size(),): an initial one, one
  // of an exploration round, or the end of a step. Only while one is free.
  void propose(std::span<const std::size_t> which, std::int64_t* out);
  // Process changes that the ledgers have recorded: a prompt that is no longer free, scores, a
  // larger pool.
  void on_take(std::size_t search, std::int64_t index) { models_.take(search, index); }
  void on_tell(std::span<const Told> told);
  void on_add(std::size_t search, ModelInputs model, std::size_t budget);

  // Return the share of the gradient's prior uncertainty at the center that the data have not
  // removed; NaN while the initial prompts are being scored.
  double uncertainty(std::size_t search) {
    return searches_[search].model_center >= 0 ? models_.relative_uncertainty(search, {}, 0.0)
                                               : kNotStated;
  }

 private:
  struct Search {
    GradientSettings set;
    const Ledger* ledger;
    std::vector<std::int64_t> queue;  // initial candidates, later those of an exploration round
    std::size_t queue_at = 0;
    bool designing = true;        // until all initial scores are known, or the first step
    std::int64_t center = -1;     // the best prompt so far
    std::int64_t radius_of = -1;  // center whose neighbourhood has this radius
    double radius = 0.0;
    // Relative gradient uncertainty at the last steps: as a ring, and sorted.
    std::vector<double> window, ranked;
    std::size_t window_at = 0;
    // State of the model.
    std::size_t budget, modelled = 0, refresh_at = 1;
    std::int64_t model_center = -1, choice = -1;
    bool has_changes = false;  // in the scores of observations that the model already has
    double noise = 0.0, score_variance = 1.0;
    double retry = 1.0;  // factor of the next observation's noise, after a near-duplicate
    Doubles standardised, noises;

    const Observations& seen() const { return ledger->seen(); }
    double variance(std::size_t k) const;
    std::int64_t from_queue();
    bool explores(double uncertainty);
    bool is_due() const;
  };
  using Models = BatchModels<Device>;

  void walk(std::span<const std::size_t> which, std::int64_t* out);
  // Bring the models of these searches up to date with what was told, and move their centers.
  void follow(std::span<const std::size_t> which);
  void append_missing(std::span<const std::size_t> which);
  void refit(std::span<const std::size_t> which);
  void refresh(std::span<const std::size_t> which);
  void choose_noise(std::span<const std::size_t> which);

  std::vector<Search> searches_;
  Models models_;
  // Scratch, kept so that a step allocates nothing.
  std::vector<std::size_t> stepping_, following_, due_, changed_;
  std::vector<std::size_t> place_, exploring_, walking_;  // positions in the output
  std::vector<std::int64_t> pending_;
  std::vector<typename Models::Append> appends_;
  std::vector<typename Models::Center> moves_;
  std::vector<typename Models::Radius> radii_;
  std::vector<typename Models::Step> steps_;
};

}  // namespace zopo
