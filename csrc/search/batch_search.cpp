// Control flow of the batch search (search/batch_search.hpp).
#include "search/batch_search.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.hpp"

namespace zopo {

template <class Device>
BatchSearch<Device>::BatchSearch(std::vector<ModelInputs> models,
                                 std::vector<SearchSettings> settings, SearchRules rules,
                                 int ordinal)
    : rules_(std::move(rules)), searches_(with_sizes(models)), models_(std::move(models), ordinal) {
  for (std::size_t b = 0; b < settings.size(); ++b) {
    Search& s = searches_[b];
    s.set = std::move(settings[b]);
    s.queue = s.set.initial;
    s.noise = (std::isnan(s.set.noise) ? 1e-2 : s.set.noise) * s.set.scale;
  }
}

template <class Device>
std::vector<typename BatchSearch<Device>::Search> BatchSearch<Device>::with_sizes(
    const std::vector<ModelInputs>& models) {
  std::vector<Search> searches(models.size());
  for (std::size_t b = 0; b < models.size(); ++b) {
    searches[b].m = models[b].m;
    searches[b].taken.assign((models[b].m + 63) / 64, 0);
  }
  return searches;
}

// Run `body` once: an error half-way through a batch leaves some searches advanced and others not.
template <class Device>
template <class Body>
void BatchSearch<Device>::whole(Body&& body) {
  if (broken_)
    throw DeviceError(
        "an earlier call to this batch failed half-way and left the batch inconsistent; rebuild it "
        "with from_state()");
  broken_ = true;
  body();
  broken_ = false;
}

template <class Device>
double BatchSearch<Device>::Search::variance(const SearchRules& rules) const {
  return std::max(noise, rules.min_noise * set.scale);
}

template <class Device>
bool BatchSearch<Device>::Search::can_offer() const {
  // The budget is at most the pool's size, and only indices that were asked are told.
  return asked < set.budget;
}

template <class Device>
bool BatchSearch<Device>::done(std::size_t search) const {
  const Search& s = searches_[search];
  return s.pending < 0 && !s.can_offer();
}

template <class Device>
std::int64_t BatchSearch<Device>::from_queue(Search& s) const {
  while (s.queue_at < s.queue.size()) {
    const std::int64_t index = s.queue[s.queue_at++];
    if (!s.is_taken(index)) return index;
  }
  return -1;
}

// Same rule as the gradient search (zopo_fast/search/gradient.py): explore when the uncertainty is
// above its quantile over the last steps.
template <class Device>
bool BatchSearch<Device>::explores(Search& s, double uncertainty) const {
  auto& ranked = s.ranked;
  bool yes = false;
  if (ranked.size() >= rules_.min_history && s.set.exploration > 0) {
    const double at = s.set.exploration_quantile * static_cast<double>(ranked.size() - 1);
    yes = uncertainty > ranked[static_cast<std::size_t>(at)];
  }
  if (s.window.size() == rules_.history) {
    ranked.erase(std::lower_bound(ranked.begin(), ranked.end(), s.window[s.window_at]));
    s.window[s.window_at] = uncertainty;
    s.window_at = (s.window_at + 1) % rules_.history;
  } else {
    s.window.push_back(uncertainty);
  }
  ranked.insert(std::upper_bound(ranked.begin(), ranked.end(), uncertainty), uncertainty);
  return yes;
}

template <class Device>
void BatchSearch<Device>::ask(std::span<const std::int64_t> which, std::int64_t* out) {
  for (const auto b : which)
    if (searches_[static_cast<std::size_t>(b)].pending >= 0)
      throw IndexError("ask: study " + std::to_string(b) + " waits for the score of prompt " +
                       std::to_string(searches_[static_cast<std::size_t>(b)].pending) +
                       "; tell it first, or leave the study out");
  whole([&] { offer(which, out); });
}

template <class Device>
void BatchSearch<Device>::offer(std::span<const std::int64_t> which, std::int64_t* out) {
  std::vector<std::size_t> stepping, asking;  // searches, and their positions in `out`
  for (std::size_t i = 0; i < which.size(); ++i) {
    const auto b = static_cast<std::size_t>(which[i]);
    Search& s = searches_[b];
    out[i] = s.can_offer() ? from_queue(s) : -1;
    if (!s.can_offer() || out[i] >= 0) continue;
    s.designing = false;
    stepping.push_back(b);
    asking.push_back(i);
  }
  follow(stepping);

  std::vector<typename Models::Nearest> around, radii;
  std::vector<std::size_t> exploring;  // positions in `out`, in the order of `around`
  std::vector<typename Models::Step> steps;
  std::vector<std::size_t> walking;
  for (std::size_t k = 0; k < stepping.size(); ++k) {
    const std::size_t b = stepping[k];
    Search& s = searches_[b];
    if (explores(s, models_.relative_uncertainty(b))) {
      around.push_back({b, s.center, s.set.exploration, true, {}});
      exploring.push_back(asking[k]);
    } else {
      if (!s.radii.contains(s.center))
        radii.push_back({b, s.center, s.set.neighbors + 1, false, {}});  // the center counts too
      steps.push_back({b, 0.0, -1});
      walking.push_back(asking[k]);
    }
  }
  if (!around.empty() || !radii.empty()) {
    const std::size_t explorations = around.size();
    around.insert(around.end(), radii.begin(), radii.end());
    models_.nearest(around);
    for (std::size_t k = 0; k < around.size(); ++k) {
      Search& s = searches_[around[k].search];
      const auto& found = around[k].found;
      if (k < explorations) {
        s.queue.clear();
        for (const Neighbor& n : found) s.queue.push_back(n.index);
        s.queue_at = 0;
        out[exploring[k]] = from_queue(s);
      } else {
        s.radii[s.center] = std::sqrt(found.back().distance);
      }
    }
  }
  for (auto& step : steps) {
    const Search& s = searches_[step.search];
    step.length = s.set.step * s.radii.at(s.center);
  }
  if (!steps.empty()) models_.step(steps);
  for (std::size_t k = 0; k < steps.size(); ++k) out[walking[k]] = steps[k].index;

  for (std::size_t i = 0; i < which.size(); ++i) {
    if (out[i] < 0) continue;
    const auto b = static_cast<std::size_t>(which[i]);
    Search& s = searches_[b];
    s.pending = out[i];
    ++s.asked;
    const auto at = static_cast<std::size_t>(out[i]);
    s.taken[at / 64] |= std::uint64_t{1} << (at % 64);
    models_.take(b, out[i]);
  }
}

template <class Device>
void BatchSearch<Device>::tell(const std::int64_t* index, const double* score) {
  for (std::size_t b = 0; b < size(); ++b) {
    if (index[b] == -1) continue;
    if (searches_[b].pending < 0 || index[b] != searches_[b].pending)
      throw IndexError("tell: study " + std::to_string(b) + " got prompt " +
                       std::to_string(index[b]) +
                       (searches_[b].pending < 0
                            ? std::string(", but waits for none")
                            : ", but waits for prompt " + std::to_string(searches_[b].pending)) +
                       "; tell the prompt that ask() returned");
    if (!std::isfinite(score[b]))
      throw ArrayError("scores: NaN or infinity for study " + std::to_string(b));
  }
  whole([&] { record(index, score); });
}

template <class Device>
void BatchSearch<Device>::record(const std::int64_t* index, const double* score) {
  std::vector<std::size_t> told;
  for (std::size_t b = 0; b < size(); ++b) {
    if (index[b] == -1) continue;
    Search& s = searches_[b];
    s.pending = -1;
    s.index.push_back(index[b]);
    s.score.push_back(score[b]);
    if (s.center < 0 || score[b] > s.center_score) {
      s.center = index[b];
      s.center_score = score[b];
    }
    if (s.designing && s.queue_at == s.queue.size()) s.designing = false;
    if (!s.designing) told.push_back(b);
  }
  follow(told);
}

template <class Device>
void BatchSearch<Device>::follow(std::span<const std::size_t> which) {
  append_missing(which);
  std::vector<std::size_t> due;
  for (const std::size_t b : which) {
    const Search& s = searches_[b];
    const std::size_t n = s.index.size();
    // The gradient search has the same condition, 16 (expected - n) >= n. There `expected` can be
    // less than n, here it cannot, so the unsigned difference is safe.
    if (n >= s.refresh_at && (s.choice < 0 || 16 * (s.set.expected - n) >= n)) due.push_back(b);
  }
  if (!due.empty()) refresh(due);
  std::vector<typename Models::Center> moves;
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    if (s.model_center == s.center) continue;
    moves.push_back({b, s.center});
    s.model_center = s.center;
  }
  if (!moves.empty()) models_.center(moves);
}

// Append observations to the models. A near-duplicate carries less information than its noise says:
// retry it with ten times the noise.
template <class Device>
void BatchSearch<Device>::append_missing(std::span<const std::size_t> which) {
  std::vector<typename Models::Append> items;
  std::vector<double> factor(size(), 1.0);
  for (;;) {
    items.clear();
    for (const std::size_t b : which) {
      const Search& s = searches_[b];
      if (s.modelled == s.index.size()) continue;
      items.push_back(
          {b, s.index[s.modelled], s.score[s.modelled], s.variance(rules_) * factor[b], false});
    }
    if (items.empty()) return;
    models_.append(items);
    for (const auto& item : items) {
      if (item.done) {
        ++searches_[item.search].modelled;
        factor[item.search] = 1.0;
      } else {
        factor[item.search] *= 10.0;
      }
    }
  }
}

template <class Device>
void BatchSearch<Device>::refresh(std::span<const std::size_t> which) {
  std::vector<std::size_t> choosing;
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    const std::size_t n = s.index.size();
    s.refresh_at = 4 * n;
    double mean = 0.0, variance = 0.0;
    for (const double y : s.score) mean += y / static_cast<double>(n);
    for (const double y : s.score) variance += (y - mean) * (y - mean) / static_cast<double>(n);
    // Scores whose squares overflow count as equal.
    if (!std::isnan(s.set.noise) || !(variance > 0.0) || !std::isfinite(variance) ||
        n > rules_.max_refresh)
      continue;
    s.standardised.resize(n);
    for (std::size_t i = 0; i < n; ++i)
      s.standardised[i] = (s.score[i] - mean) / std::sqrt(variance);
    choosing.push_back(b);
  }
  choose_noise(choosing);
  std::vector<typename Models::Refit> refits;
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    s.model_center = -1;
    s.noises.assign(s.modelled, s.variance(rules_));
    refits.push_back({b, s.score.data(), s.noises.data(), s.modelled});
  }
  models_.refit(refits);
  for (const auto& refit : refits) searches_[refit.search].modelled = refit.left;
  append_missing(which);
}

// Choose the noise of maximal marginal likelihood: the whole grid at first, later a climb from the
// last choice; ties go to the first.
template <class Device>
void BatchSearch<Device>::choose_noise(std::span<const std::size_t> which) {
  const auto points = static_cast<std::int64_t>(rules_.noise_grid.size());
  std::vector<Doubles> known(which.size());  // likelihoods by grid point; NaN: not computed yet
  std::vector<typename Models::Likelihood> items;
  std::vector<std::pair<std::size_t, std::int64_t>> places;
  const auto want = [&](std::size_t k, std::int64_t at) {
    if (at < 0 || at >= points || !std::isnan(known[k][static_cast<std::size_t>(at)])) return;
    const Search& s = searches_[which[k]];
    const auto grid = rules_.noise_grid[static_cast<std::size_t>(at)];
    items.push_back({which[k], s.standardised.data(), grid * s.set.scale, 0.0});
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
    known[k].assign(rules_.noise_grid.size(), std::numeric_limits<double>::quiet_NaN());
    if (searches_[which[k]].choice >= 0)
      climbing.push_back(k);
    else
      for (std::int64_t at = 0; at < points; ++at) want(k, at);
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
        if (at >= 0 && at < points &&
            known[k][static_cast<std::size_t>(at)] > known[k][static_cast<std::size_t>(choice)])
          choice = at;
      return choice == best;
    });
  }
  for (const std::size_t b : which) {
    Search& s = searches_[b];
    s.noise = rules_.noise_grid[static_cast<std::size_t>(s.choice)] * s.set.scale;
  }
}

template class BatchSearch<Cpu>;
#ifdef ZOPO_HAS_CUDA
template class BatchSearch<Cuda>;
#endif

}  // namespace zopo
