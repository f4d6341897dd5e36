// State machines of gradient searches (search/gradient_search.hpp).
#include "search/gradient_search.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace zopo {
namespace {

// Noise levels to choose from, as shares of the kernel's mean diagonal: 10^-3 to 10, over the whole
// grid the first time, later by hill climbing from the last choice.
constexpr std::int64_t kGrid = 17;
double grid_noise(std::int64_t at) { return std::pow(10.0, -3.0 + 0.25 * static_cast<double>(at)); }

constexpr std::size_t kMaxRefresh = 1024;  // observations beyond which the choice, O(n^3), stands
constexpr double kMinNoise = 1e-6, kMaxNoise = 1e12;  // of a stated noise, in the kernel's unit
constexpr double kFirstNoise = 1e-2;                  // until the first choice
constexpr std::size_t kHistory = 50;    // steps in the running quantile of the uncertainty
constexpr std::size_t kMinHistory = 5;  // steps before the quantile is used

}  // namespace

template <class Device>
GradientSearch<Device>::GradientSearch(std::vector<ModelInputs> models,
                                       std::vector<GradientSettings> settings,
                                       std::vector<std::vector<std::int64_t>> initial,
                                       const std::vector<const Ledger*>& ledgers, int ordinal)
    : searches_(models.size()), models_(std::move(models), ordinal) {
  for (std::size_t b = 0; b < searches_.size(); ++b) {
    Search& s = searches_[b];
    s.set = settings[b];
    s.ledger = ledgers[b];
    s.queue = std::move(initial[b]);
    s.budget = s.set.expected;
    s.noise = (std::isnan(s.set.noise) ? kFirstNoise : s.set.noise) * s.set.scale;
    s.window.reserve(kHistory);
    s.ranked.reserve(kHistory + 1);
  }
}

template <class Device>
double GradientSearch<Device>::Search::variance(std::size_t k) const {
  const double stated = seen().noise[k];
  const double v = std::isnan(stated) ? noise : stated / score_variance * set.scale;
  return std::min(std::max(v, kMinNoise * set.scale), kMaxNoise * set.scale);
}

template <class Device>
std::int64_t GradientSearch<Device>::Search::from_queue() {
  while (queue_at < queue.size()) {
    const std::int64_t index = queue[queue_at++];
    if (!ledger->taken(index)) return index;
  }
  return -1;
}

// A fixed threshold would depend on the network's initialisation; a running quantile does not.
template <class Device>
bool GradientSearch<Device>::Search::explores(double uncertainty) {
  bool yes = false;
  if (ranked.size() >= kMinHistory && set.exploration > 0) {
    const double at = set.exploration_quantile * static_cast<double>(ranked.size() - 1);
    yes = uncertainty > ranked[static_cast<std::size_t>(at)];
  }
  if (window.size() == kHistory) {
    ranked.erase(std::lower_bound(ranked.begin(), ranked.end(), window[window_at]));
    window[window_at] = uncertainty;
    window_at = (window_at + 1) % kHistory;
  } else {
    window.push_back(uncertainty);
  }
  ranked.insert(std::upper_bound(ranked.begin(), ranked.end(), uncertainty), uncertainty);
  return yes;
}

// The choice of the noise pays off in later steps: skip it when fewer than n / 16 of them are left.
template <class Device>
bool GradientSearch<Device>::Search::is_due() const {
  const std::size_t n = seen().size(), left = budget > n ? budget - n : 0;
  return n >= refresh_at && (choice < 0 || 16 * left >= n);
}

// ---- proposals ----------------------------------------------------------------------------------

template <class Device>
void GradientSearch<Device>::propose(std::span<const std::size_t> which, std::int64_t* out) {
  stepping_.clear();
  place_.clear();
  std::vector<typename Models::Nearest> first;  // of searches without a score
  std::vector<std::size_t> waiting;
  for (std::size_t i = 0; i < which.size(); ++i) {
    Search& s = searches_[which[i]];
    out[i] = s.from_queue();
    if (out[i] >= 0) continue;
    if (s.seen().size() == 0) {  // all initial scores are pending
      const auto& pending = s.ledger->pending();
      first.push_back({which[i], pending.empty() ? -1 : pending.front(), 1, true, {}});
      waiting.push_back(i);
      continue;
    }
    s.designing = false;
    stepping_.push_back(which[i]);
    place_.push_back(i);
  }
  if (!first.empty()) models_.nearest(first);
  for (std::size_t k = 0; k < first.size(); ++k) out[waiting[k]] = first[k].found.front().index;
  if (!stepping_.empty()) walk(stepping_, out);
}

// Explore, or step along the gradient; `place_` are the positions in `out`.
template <class Device>
void GradientSearch<Device>::walk(std::span<const std::size_t> which, std::int64_t* out) {
  follow(which);
  std::vector<typename Models::Nearest> around;
  radii_.clear();
  exploring_.clear();
  walking_.clear();
  steps_.clear();
  for (std::size_t k = 0; k < which.size(); ++k) {
    const std::size_t b = which[k];
    Search& s = searches_[b];
    pending_.clear();
    for (const std::int64_t i : s.ledger->pending())
      if (!s.seen().contains(i)) pending_.push_back(i);
    if (s.explores(models_.relative_uncertainty(b, pending_, s.noise))) {
      around.push_back({b, s.center, s.set.exploration, true, {}});
      exploring_.push_back(place_[k]);
    } else {
      if (s.radius_of != s.center) radii_.push_back({b, s.center, s.set.neighbors, 0.0});
      steps_.push_back({b, 0.0, -1});
      walking_.push_back(place_[k]);
    }
  }
  if (!around.empty()) models_.nearest(around);
  for (std::size_t k = 0; k < around.size(); ++k) {
    Search& s = searches_[around[k].search];
    s.queue.clear();
    for (const Neighbor& n : around[k].found) s.queue.push_back(n.index);
    s.queue_at = 0;
    out[exploring_[k]] = s.from_queue();
  }
  if (!radii_.empty()) models_.radius(radii_);
  for (const auto& item : radii_) {
    searches_[item.search].radius_of = item.candidate;
    searches_[item.search].radius = item.value;
  }
  for (auto& step : steps_) {
    const Search& s = searches_[step.search];
    step.length = s.set.step * s.radius;
  }
  if (!steps_.empty()) models_.step(steps_);
  for (std::size_t k = 0; k < steps_.size(); ++k) out[walking_[k]] = steps_[k].index;
}

// ---- changes ------------------------------------------------------------------------------------

template <class Device>
void GradientSearch<Device>::on_tell(std::span<const Told> told) {
  following_.clear();
  for (const Told& item : told) {
    Search& s = searches_[item.search];
    models_.take(item.search, item.index);
    if (s.center < 0 || s.seen().score_of(item.index) > s.seen().score_of(s.center))
      s.center = item.index;
    else if (item.index == s.center)  // a partial score that was replaced by a lower one
      s.center = s.seen().index[s.seen().best_position()];
    if (item.replaced) s.has_changes = true;
    if (s.designing && s.queue_at == s.queue.size() && s.ledger->pending().empty())
      s.designing = false;
    // Update the model now to keep the next ask fast, unless that refits it anyway.
    if (!s.designing && !s.has_changes) following_.push_back(item.search);
  }
  if (!following_.empty()) follow(following_);
}

template <class Device>
void GradientSearch<Device>::on_add(std::size_t search, ModelInputs model, std::size_t budget) {
  Search& s = searches_[search];
  models_.replace(search, std::move(model));
  for (std::size_t i = 0; i < s.ledger->size(); ++i)
    if (s.ledger->taken(static_cast<std::int64_t>(i)))
      models_.take(search, static_cast<std::int64_t>(i));
  s.budget = budget;
  s.radius_of = -1;
  s.modelled = 0;
  s.model_center = -1;
}

// ---- the models ---------------------------------------------------------------------------------

template <class Device>
void GradientSearch<Device>::follow(std::span<const std::size_t> which) {
  changed_.clear();
  for (const std::size_t b : which)
    if (std::exchange(searches_[b].has_changes, false)) changed_.push_back(b);
  if (!changed_.empty()) refit(changed_);
  append_missing(which);
  due_.clear();
  for (const std::size_t b : which)
    if (searches_[b].is_due()) due_.push_back(b);
  if (!due_.empty()) refresh(due_);
  moves_.clear();
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    if (s.model_center == s.center) continue;
    moves_.push_back({b, s.center});
    s.model_center = s.center;
  }
  if (!moves_.empty()) models_.center(moves_);
}

// Append observations to the models. A near-duplicate carries less information than its noise says:
// retry it with ten times the noise.
template <class Device>
void GradientSearch<Device>::append_missing(std::span<const std::size_t> which) {
  for (;;) {
    appends_.clear();
    for (const std::size_t b : which) {
      const Search& s = searches_[b];
      if (s.modelled == s.seen().size()) continue;
      appends_.push_back({b, s.seen().index[s.modelled], s.seen().score[s.modelled],
                          s.variance(s.modelled) * s.retry, false});
    }
    if (appends_.empty()) return;
    models_.append(appends_);
    for (const auto& item : appends_) {
      Search& s = searches_[item.search];
      if (item.done) ++s.modelled;
      s.retry = item.done ? 1.0 : 10.0 * s.retry;
    }
  }
}

// Replace the scores and noises of the observations that the models have.
template <class Device>
void GradientSearch<Device>::refit(std::span<const std::size_t> which) {
  std::vector<typename Models::Refit> items;
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    s.model_center = -1;
    s.noises.resize(s.modelled);
    for (std::size_t k = 0; k < s.modelled; ++k) s.noises[k] = s.variance(k);
    items.push_back({b, s.seen().score.data(), s.noises.data(), s.modelled});
  }
  models_.refit(items);
  for (const auto& item : items) searches_[item.search].modelled = item.left;
}

template <class Device>
void GradientSearch<Device>::refresh(std::span<const std::size_t> which) {
  std::vector<std::size_t> choosing;
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    const Doubles& score = s.seen().score;
    const std::size_t n = score.size();
    s.refresh_at = 4 * n;
    double mean = 0.0, variance = 0.0;
    for (const double y : score) mean += y / static_cast<double>(n);
    for (const double y : score) variance += (y - mean) * (y - mean) / static_cast<double>(n);
    if (!std::isfinite(variance) || all_equal(score)) variance = 0.0;  // such scores count as equal
    s.score_variance = variance > 0.0 ? variance : 1.0;
    if (!std::isnan(s.set.noise) || !(variance > 0.0) || n > kMaxRefresh) continue;
    s.standardised.resize(n);
    for (std::size_t i = 0; i < n; ++i) s.standardised[i] = (score[i] - mean) / std::sqrt(variance);
    choosing.push_back(b);
  }
  choose_noise(choosing);
  refit(which);
  append_missing(which);
}

// Choose the noise of maximal marginal likelihood: the whole grid at first, later a climb from the
// last choice; ties go to the first.
template <class Device>
void GradientSearch<Device>::choose_noise(std::span<const std::size_t> which) {
  std::vector<Doubles> known(which.size());  // likelihoods by grid point; NaN: not computed yet
  std::vector<typename Models::Likelihood> items;
  std::vector<std::pair<std::size_t, std::int64_t>> places;
  const auto want = [&](std::size_t k, std::int64_t at) {
    if (at < 0 || at >= kGrid || !std::isnan(known[k][static_cast<std::size_t>(at)])) return;
    const Search& s = searches_[which[k]];
    items.push_back({which[k], s.standardised.data(), grid_noise(at) * s.set.scale, 0.0});
    places.emplace_back(k, at);
  };
  const auto answer = [&] {
    if (!items.empty()) models_.log_likelihood(items);
    for (std::size_t i = 0; i < items.size(); ++i)
      known[places[i].first][static_cast<std::size_t>(places[i].second)] = items[i].value;
    items.clear();
    places.clear();
  };
  std::vector<std::size_t> climbing;
  for (std::size_t k = 0; k < which.size(); ++k) {
    known[k].assign(kGrid, kNotStated);
    if (searches_[which[k]].choice >= 0)
      climbing.push_back(k);
    else
      for (std::int64_t at = 0; at < kGrid; ++at) want(k, at);
  }
  answer();
  for (std::size_t k = 0; k < which.size(); ++k) {
    Search& s = searches_[which[k]];
    if (s.choice < 0)
      s.choice = std::max_element(known[k].begin(), known[k].end()) - known[k].begin();
  }
  while (!climbing.empty()) {
    for (const std::size_t k : climbing) {
      const std::int64_t best = searches_[which[k]].choice;
      for (const std::int64_t at : {best, best - 1, best + 1}) want(k, at);
    }
    answer();
    std::erase_if(climbing, [&](std::size_t k) {
      std::int64_t& choice = searches_[which[k]].choice;
      const std::int64_t best = choice;
      for (const std::int64_t at : {best - 1, best + 1})
        if (at >= 0 && at < kGrid &&
            known[k][static_cast<std::size_t>(at)] > known[k][static_cast<std::size_t>(choice)])
          choice = at;
      return choice == best;
    });
  }
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    s.noise = grid_noise(s.choice) * s.set.scale;
  }
}

template class GradientSearch<Cpu>;
#ifdef ZOPO_HAS_CUDA
template class GradientSearch<Cuda>;
#endif

}  // namespace zopo
