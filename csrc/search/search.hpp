// Ask/tell searches over pools of candidates: one, or any number advanced together. Every search has
// a book of its calls (search/ledger.hpp) and a state machine: expected improvement or posterior
// samples (search/improvement/improvement_search.hpp), steps along the gradient (search/gradient_search.hpp), or
// one outside this class, which says what to offer.
//
// A search is deterministic in the order of its calls, whatever the other searches, the device and
// the number of threads. Improvement searches run on the CPU; threads split them. Gradient searches
// run on `Device`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "search/gradient_search.hpp"
#include "search/improvement/improvement_search.hpp"
#include "search/ledger.hpp"

namespace zopo {

// Embeddings (m, d), owned by the caller while the search lives, and the moments, (d,) both, that
// standardise them.
struct PoolInputs {
  const void* data;
  Precision precision;
  std::size_t m, d;
  Doubles mean, inverse_scale;
  Doubles trend = {};  // (m, trends) of a pool that grows, where the search has learnt trends
};

struct SearchInputs {
  enum class Kind { Improvement, Gradient, Outside };
  Kind kind;
  PoolInputs pool;
  std::size_t budget;                 // prompts to ask in total, at most m
  std::vector<std::int64_t> initial;  // asked first
  std::size_t capacity;               // observations to reserve memory for
  WeightedKernels kernels;            // of an improvement search
  ImprovementSettings improvement;
  std::shared_ptr<const Network> net;  // kernel of a gradient search
  GradientSettings gradient;
};

template <class Device>
class Search {
 public:
  Search(std::vector<SearchInputs> inputs, int ordinal);

  std::size_t size() const { return studies_.size(); }
  const Ledger& ledger(std::size_t search) const { return studies_[search].ledger(); }
  // Return the state machine of an improvement search; null for others.
  const ImprovementSearch* improvement(std::size_t search) const {
    return studies_[search].improvement.get();
  }
  // Return the relative uncertainty of the gradient at the best prompt of a gradient search; NaN for
  // others, and while the initial prompts are being scored.
  double uncertainty(std::size_t search);

  // Write the next prompt of each of these searches to out (which.size(),); -1 where none can be
  // offered. A search occurs once. The caller logs the asks. DeviceError, with nothing changed,
  // where a search on a CUDA device has pending prompts.
  void ask(std::span<const std::size_t> which, std::int64_t* out);
  // Offer a given prompt, which is free or, when none is free, set aside; return whether ask() would
  // have offered the same. IndexError, with nothing changed, for another prompt.
  bool ask_for(std::size_t search, std::int64_t index);
  // Offer a prompt that a state machine outside has chosen.
  void offer(std::size_t search, std::int64_t index) { studies_[search].ledger().offer(index); }
  void log_ask(std::size_t search, std::int64_t limit, std::span<const std::int64_t> asked) {
    studies_[search].ledger().log_ask(limit, asked);
  }

  struct Score {
    std::size_t search;
    std::int64_t index;
    double score, noise;  // noise NaN: not stated
    bool final;
    Ledger::Told told;  // out
  };
  // Record scores; a search occurs once.
  void tell(std::span<Score> scores);
  void discard(std::size_t search, std::int64_t index);
  // Continue a search in a larger pool with the same first candidates.
  void add(std::size_t search, PoolInputs pool, std::size_t budget);

  // Add trends (m, trends) to the prior of an improvement search, and ask `initial` first; before
  // the first call. ArrayError, with nothing changed, for another search.
  void learn(std::size_t search, Doubles trend, std::size_t trends,
             std::vector<std::int64_t> initial);

  std::mutex& mutex() const { return mutex_; }

 private:
  struct Study {
    SearchInputs::Kind kind;
    std::unique_ptr<Ledger> book;  // at a constant address
    std::unique_ptr<ImprovementSearch> improvement;
    std::size_t gradient = 0;  // number among the gradient searches
    // What add() needs again.
    std::shared_ptr<const Network> net;
    std::size_t capacity = 0;

    Ledger& ledger() const { return *book; }
  };

  template <class Body>
  void whole(Body&& body);
  void require_answerable(std::span<const std::size_t> which) const;
  void propose(std::span<const std::size_t> which, std::int64_t* out);
  void commit(std::size_t search, std::int64_t index);
  template <class Body>
  void each_improvement(std::span<const std::size_t> which, Body&& body);

  std::vector<Study> studies_;
  std::unique_ptr<GradientSearch<Device>> gradient_;
  bool broken_ = false;
  // Scratch, kept so that a step allocates nothing.
  std::vector<std::size_t> asking_, place_, improving_, numbers_, stepping_;
  std::vector<std::int64_t> found_, steps_;
  std::vector<typename GradientSearch<Device>::Told> told_;
  mutable std::mutex mutex_;
};

}  // namespace zopo
