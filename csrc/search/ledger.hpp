// Book-keeping of one search: its observations, and the prompts that are free, pending or set aside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/aligned.hpp"

namespace zopo {

inline constexpr double kNotStated = std::numeric_limits<double>::quiet_NaN();

// Return true if all scores are equal. Their deviation does not tell: their mean may be rounded.
bool all_equal(const Doubles& scores);

// Scored prompts in order of arrival; a repeated partial score keeps its position.
struct Observations {
  std::vector<std::int64_t> index;
  Doubles score, noise;                // latest score; its variance, NaN where not stated
  std::vector<std::int32_t> position;  // of each prompt of the pool; -1 for none

  std::size_t size() const { return index.size(); }
  std::int32_t at(std::int64_t i) const { return position[static_cast<std::size_t>(i)]; }
  bool contains(std::int64_t i) const { return at(i) >= 0; }
  double score_of(std::int64_t i) const { return score[static_cast<std::size_t>(at(i))]; }
  // Return the position of the highest score, the first one among equals.
  std::size_t best_position() const;
};

class Ledger {
 public:
  // Outcome of a tell: a new observation, a score that replaces a partial one, the known final score
  // again, or another final score for a prompt that has one (nothing is recorded).
  enum class Told { New, Replaced, Known, Conflict };
  enum class Call : std::uint8_t { Ask, Tell, Discard, Add };
  // A call that changed the search. `asked` are the prompts of an ask.
  struct Entry {
    Call call;
    bool final;
    std::int64_t
        index;  // of a tell or discard; number of prompts added; limit of an ask, -1 for none
    double score, noise;
    std::size_t begin, count;  // of the prompts of an ask in asked()
  };

  Ledger(std::size_t m, std::size_t budget);

  std::size_t size() const { return m_; }
  std::size_t budget() const { return budget_; }
  std::size_t counted() const { return counted_; }  // asked and not discarded
  const Observations& seen() const { return seen_; }
  const std::vector<std::int64_t>& pending() const { return pending_; }  // in order of asking
  bool is_pending(std::int64_t i) const;
  bool has_free() const { return free_ > 0; }
  bool taken(std::int64_t i) const {
    return taken_[static_cast<std::size_t>(i) / 64] >> (static_cast<std::size_t>(i) % 64) & 1;
  }
  bool can_offer() const { return counted_ < budget_ && (free_ > 0 || !set_aside_.empty()); }
  bool done() const { return pending_.empty() && !can_offer(); }
  // Return the best prompt and its score, the first of equals; any final score beats a partial one.
  // -1 before a score.
  std::pair<std::int64_t, double> best() const;

  // Take a prompt and make it pending.
  void offer(std::int64_t i);
  // Return the prompt that was set aside first. Only when no other is free.
  std::int64_t next_set_aside() const { return set_aside_.front(); }
  bool is_set_aside(std::int64_t i) const;
  Told record(std::int64_t i, double score, double noise, bool final);
  // Return a pending prompt without a score; a partial score stays an observation.
  void discard(std::int64_t i);
  void grow(std::size_t m, std::size_t budget);

  void log_ask(std::int64_t limit, std::span<const std::int64_t> asked);
  const std::vector<Entry>& log() const { return log_; }
  std::span<const std::int64_t> asked(const Entry& entry) const {
    return {asked_.data() + entry.begin, entry.count};
  }

 private:
  void take(std::int64_t i);

  std::size_t m_, budget_, free_, counted_ = 0;
  Observations seen_;
  std::vector<std::uint64_t> taken_;
  std::vector<std::int64_t> pending_;
  std::vector<std::int64_t> set_aside_;  // discarded; offered again when nothing else is left
  std::vector<bool> partial_;            // by observation
  std::vector<Entry> log_;
  std::vector<std::int64_t> asked_;
};

}  // namespace zopo
