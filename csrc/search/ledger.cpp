// Book-keeping of one search (search/ledger.hpp).
#include "search/ledger.hpp"

#include <algorithm>

namespace zopo {
namespace {

constexpr std::size_t kMaxReserved = 1024;  // observations to reserve memory for

bool holds(const std::vector<std::int64_t>& list, std::int64_t i) {
  return std::find(list.begin(), list.end(), i) != list.end();
}

}  // namespace

bool all_equal(const Doubles& scores) {
  const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
  return *low == *high;
}

std::size_t Observations::best_position() const {
  return static_cast<std::size_t>(std::max_element(score.begin(), score.end()) - score.begin());
}

Ledger::Ledger(std::size_t m, std::size_t budget) : m_(m), budget_(budget), free_(m) {
  seen_.position.assign(m, -1);
  taken_.assign((m + 63) / 64, 0);
  const std::size_t expected = std::min(budget, kMaxReserved);
  seen_.index.reserve(expected);
  seen_.score.reserve(expected);
  seen_.noise.reserve(expected);
  partial_.reserve(expected);
  pending_.reserve(16);
  log_.reserve(2 * expected);
  asked_.reserve(expected);
}

bool Ledger::is_pending(std::int64_t i) const { return holds(pending_, i); }

bool Ledger::is_set_aside(std::int64_t i) const { return holds(set_aside_, i); }

std::pair<std::int64_t, double> Ledger::best() const {
  std::int64_t best = -1;
  double score = kNotStated;
  for (const bool partial : {false, true}) {
    for (std::size_t k = 0; k < seen_.size(); ++k)
      if (partial_[k] == partial && (best < 0 || seen_.score[k] > score)) {
        best = seen_.index[k];
        score = seen_.score[k];
      }
    if (best >= 0) break;
  }
  return {best, score};
}

void Ledger::take(std::int64_t i) {
  if (taken(i)) return;
  taken_[static_cast<std::size_t>(i) / 64] |= std::uint64_t{1}
                                              << (static_cast<std::size_t>(i) % 64);
  --free_;
}

void Ledger::offer(std::int64_t i) {
  std::erase(set_aside_, i);
  take(i);
  pending_.push_back(i);
  ++counted_;
}

Ledger::Told Ledger::record(std::int64_t i, double score, double noise, bool final) {
  const std::int32_t at = seen_.at(i);
  const bool is_new = at < 0;
  if (!is_new && !partial_[static_cast<std::size_t>(at)])
    return seen_.score_of(i) == score ? Told::Known : Told::Conflict;
  log_.push_back({Call::Tell, final, i, score, noise, 0, 0});
  if (is_new) {
    seen_.position[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(seen_.size());
    seen_.index.push_back(i);
    seen_.score.push_back(score);
    seen_.noise.push_back(noise);
    partial_.push_back(!final);
    take(i);
    std::erase(set_aside_, i);
  } else {
    seen_.score[static_cast<std::size_t>(at)] = score;
    seen_.noise[static_cast<std::size_t>(at)] = noise;
    partial_[static_cast<std::size_t>(at)] = !final;
  }
  if (final) std::erase(pending_, i);
  return is_new ? Told::New : Told::Replaced;
}

void Ledger::discard(std::int64_t i) {
  log_.push_back({Call::Discard, false, i, 0.0, 0.0, 0, 0});
  std::erase(pending_, i);
  --counted_;
  if (!seen_.contains(i)) set_aside_.push_back(i);
}

void Ledger::grow(std::size_t m, std::size_t budget) {
  log_.push_back({Call::Add, false, static_cast<std::int64_t>(m - m_), 0.0, 0.0, 0, 0});
  free_ += m - m_;
  m_ = m;
  budget_ = budget;
  seen_.position.resize(m, -1);
  taken_.resize((m + 63) / 64, 0);
}

void Ledger::log_ask(std::int64_t limit, std::span<const std::int64_t> asked) {
  log_.push_back({Call::Ask, false, limit, 0.0, 0.0, asked_.size(), asked.size()});
  asked_.insert(asked_.end(), asked.begin(), asked.end());
}

}  // namespace zopo
