// Ask/tell search for many independent searches at once, one prompt at a time each, written once
// for all devices. It makes the decisions of the gradient search (zopo_fast/search/gradient.py) in
// the same order, so that every search proposes what a search of its own would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "search/batch_models.hpp"

namespace zopo {

// Constants of the search, with the values of zopo_fast/search/gradient.py.
struct SearchRules {
  Doubles noise_grid;       // noise levels to choose from, as shares of the signal
  std::size_t max_refresh;  // the choice of noise is final beyond this number of observations
  double min_noise;         // noise of a score said to be exact, as a share of the signal
  std::size_t history;      // steps that the quantile of the uncertainty covers
  std::size_t min_history;  // steps before the quantile decides anything
};

struct SearchSettings {
  std::size_t budget;                 // total number of prompts to ask, at most the pool's size
  std::size_t expected;               // the budget before it was clipped to the pool
  std::vector<std::int64_t> initial;  // prompts asked first
  std::size_t neighbors, exploration;
  double step, exploration_quantile;
  double noise;  // share of the signal's variance; NaN: chosen by marginal likelihood
  double scale;  // mean diagonal of the kernel over the pool: the unit of noise
};

template <class Device>
class BatchSearch {
 public:
  BatchSearch(std::vector<ModelInputs> models, std::vector<SearchSettings> settings,
              SearchRules rules, int ordinal);

  std::size_t size() const { return searches_.size(); }
  std::size_t pool_size(std::size_t search) const { return searches_[search].m; }
  // Return whether the search has spent its budget or its pool and nothing is pending.
  bool done(std::size_t search) const;
  std::int64_t pending(std::size_t search) const { return searches_[search].pending; }
  // Return the best prompt so far and its score, the first of equals; -1 before any score.
  std::int64_t best(std::size_t search) const { return searches_[search].center; }
  double score_of_best(std::size_t search) const { return searches_[search].center_score; }
  // Return the told prompts and their scores, in order.
  const std::vector<std::int64_t>& told(std::size_t search) const {
    return searches_[search].index;
  }
  const Doubles& scores(std::size_t search) const { return searches_[search].score; }
  // Return the share of the gradient's prior uncertainty at the center that the data have not
  // removed; NaN while the initial prompts are being scored.
  double uncertainty(std::size_t search) const {
    const bool modelled = searches_[search].model_center >= 0;
    return modelled ? models_.relative_uncertainty(search)
                    : std::numeric_limits<double>::quiet_NaN();
  }

  // Write the next prompt of each of these searches to out (which.size(),); -1 where a search is
  // done. IndexError when a search still waits for a score. A failure of the models (out of memory,
  // device lost) leaves the object unusable; later calls say so.
  void ask(std::span<const std::int64_t> which, std::int64_t* out);
  // Record scores. index (size(),) holds the prompts that were asked and are now scored, -1 where
  // nothing is told. IndexError, with nothing changed, for a prompt that is not pending.
  void tell(const std::int64_t* index, const double* score);

  std::mutex& mutex() const { return mutex_; }

 private:
  struct Search {
    SearchSettings set;
    std::size_t m = 0;
    std::vector<std::uint64_t> taken;
    std::vector<std::int64_t> index;  // observed prompts, in order
    Doubles score;
    std::int64_t pending = -1;
    std::size_t asked = 0, queue_at = 0;
    std::vector<std::int64_t> queue;
    bool designing = true;
    std::int64_t center = -1;  // the best prompt so far
    double center_score = 0.0;
    std::unordered_map<std::int64_t, double> radii;  // by center
    // Relative gradient uncertainty at the last steps: as a ring, and sorted.
    std::vector<double> window, ranked;
    std::size_t window_at = 0;
    // State of the model.
    std::size_t modelled = 0;
    std::int64_t model_center = -1, choice = -1;
    double noise = 0.0;
    std::size_t refresh_at = 1;
    Doubles standardised, noises;

    bool is_taken(std::int64_t i) const {
      return taken[static_cast<std::size_t>(i) / 64] >> (static_cast<std::size_t>(i) % 64) & 1;
    }
    double variance(const SearchRules& rules) const;
    bool can_offer() const;
  };
  using Models = BatchModels<Device>;

  static std::vector<Search> with_sizes(const std::vector<ModelInputs>& models);
  template <class Body>
  void whole(Body&& body);
  void offer(std::span<const std::int64_t> which, std::int64_t* out);
  void record(const std::int64_t* index, const double* score);
  std::int64_t from_queue(Search& s) const;
  bool explores(Search& s, double uncertainty) const;
  // Bring the models of these searches up to date with what was told, and move their centers.
  void follow(std::span<const std::size_t> which);
  void append_missing(std::span<const std::size_t> which);
  void refresh(std::span<const std::size_t> which);
  void choose_noise(std::span<const std::size_t> which);

  SearchRules rules_;
  std::vector<Search> searches_;
  Models models_;
  bool broken_ = false;
  mutable std::mutex mutex_;
};

}  // namespace zopo
