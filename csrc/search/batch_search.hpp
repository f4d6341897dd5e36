// Many searches side by side: the control flow of zopo_fast/local_search.py and surrogate.py for
// studies that are asked and told one prompt at a time each, written once over the device. The same
// decisions in the same order, so that every study proposes what a search of its own would.
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

// What the rules of the search are made of; the values are those of surrogate.py and
// local_search.py.
struct SearchRules {
  Doubles noise_grid;       // shares of the signal that the marginal likelihood chooses from
  std::size_t max_refresh;  // beyond so many observations the choice stands
  double min_noise;         // share of the signal; of a score said to be exact
  std::size_t history;      // steps that the quantile of the uncertainty looks back on
  std::size_t min_history;  // steps before it decides anything
};

struct StudySettings {
  std::size_t budget;                 // prompts asked in all, not more than there are
  std::size_t expected;               // the budget before it was clipped to the pool
  std::vector<std::int64_t> initial;  // asked first
  std::size_t neighbors, exploration;
  double step, exploration_quantile;
  double noise;  // share of the signal's variance; NaN: by marginal likelihood
  double scale;  // mean diagonal of the kernel over the pool: the unit of noise
};

template <class Device>
class Studies {
 public:
  Studies(std::vector<StudyModel> models, std::vector<StudySettings> settings, SearchRules rules,
          int ordinal);

  std::size_t size() const { return studies_.size(); }
  std::size_t pool_size(std::size_t study) const { return studies_[study].m; }
  // Whether its budget or its pool is spent and nothing is pending.
  bool done(std::size_t study) const;
  std::int64_t pending(std::size_t study) const { return studies_[study].pending; }
  // Position of the best score in the order of telling, first of equals; -1: none yet.
  std::int64_t best(std::size_t study) const { return studies_[study].center; }
  double score_of_best(std::size_t study) const { return studies_[study].center_score; }
  // What was told, in order.
  const std::vector<std::int64_t>& told(std::size_t study) const { return studies_[study].index; }
  const Doubles& scores(std::size_t study) const { return studies_[study].score; }
  // Share of the derivative's prior uncertainty at the study's center that the data have not
  // removed; NaN while its first prompts are being scored.
  double uncertainty(std::size_t study) const {
    const bool modelled = studies_[study].model_center >= 0;
    return modelled ? models_.relative_uncertainty(study)
                    : std::numeric_limits<double>::quiet_NaN();
  }

  // The next prompt of each of these studies, out (which.size(),): -1 where it is done. Each has to
  // have been told the one before: IndexError. A failure of the models themselves (out of memory,
  // device lost) leaves the object unusable; it says so then.
  void ask(std::span<const std::int64_t> which, std::int64_t* out);
  // index (size(),): what was asked and is now scored, -1 where nothing is told. IndexError and
  // nothing changed for anything but what is pending.
  void tell(const std::int64_t* index, const double* score);

  std::mutex& mutex() const { return mutex_; }

 private:
  struct Study {
    StudySettings set;
    std::size_t m = 0;
    std::vector<std::uint64_t> taken;
    std::vector<std::int64_t> index;  // observed, in order
    Doubles score;
    std::int64_t pending = -1;
    std::size_t asked = 0, queue_at = 0;
    std::vector<std::int64_t> queue;
    bool designing = true;
    std::int64_t center = -1;  // the best prompt so far
    double center_score = 0.0;
    std::unordered_map<std::int64_t, double> radii;  // by center
    // Relative gradient uncertainty at the last steps, a ring in order, and sorted.
    std::vector<double> window, ranked;
    std::size_t window_at = 0;
    // The model.
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
  using Models = StudyModels<Device>;

  static std::vector<Study> with_sizes(const std::vector<StudyModel>& models);
  template <class Body>
  void whole(Body&& body);
  void offer(std::span<const std::int64_t> which, std::int64_t* out);
  void record(const std::int64_t* index, const double* score);
  std::int64_t from_queue(Study& s) const;
  bool explores(Study& s, double uncertainty) const;
  // Takes what was told into the models of these studies, and moves their centers.
  void follow(std::span<const std::size_t> which);
  void append_missing(std::span<const std::size_t> which);
  void refresh(std::span<const std::size_t> which);
  void choose_noise(std::span<const std::size_t> which);

  SearchRules rules_;
  std::vector<Study> studies_;
  Models models_;
  bool broken_ = false;
  mutable std::mutex mutex_;
};

}  // namespace zopo
