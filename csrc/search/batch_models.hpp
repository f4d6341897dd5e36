// The models of many independent searches: for each study a pool of candidates and the posterior
// mean's gradient at its center (see search/local_gradient.hpp), every operation on any number of studies
// at once. The search itself is in search/batch_search.hpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "ntk/ntk.hpp"
#include "pool/pool.hpp"

namespace zopo {

// What a study is made of. `data` (m, d) is the caller's, for as long as the models live.
struct StudyModel {
  std::shared_ptr<const Network> net;
  const void* data;
  Precision precision;
  std::size_t m, d;
  Doubles mean, inverse_scale;  // (d,)
  std::size_t capacity;         // observations to make room for
};

template <class Device>
class StudyModels {
 public:
  struct Append {
    std::size_t study;
    std::int64_t candidate;
    double y, noise;
    bool done;  // out: false when the pivot was rounding noise; nothing has changed then
  };
  struct Center {
    std::size_t study;
    std::int64_t candidate;
  };
  struct Step {
    std::size_t study;
    double length;
    std::int64_t index;  // out: the nearest free candidate; -1: none is free
  };
  struct Nearest {
    std::size_t study;
    std::int64_t candidate;  // nearest to this one
    std::size_t k;
    bool available_only;
    std::vector<Neighbor> found;  // out: nearest first, at most k
  };
  struct Likelihood {
    std::size_t study;
    const double* y;  // standardised scores of all observations
    double noise;
    double value;  // out
  };
  struct Refit {
    std::size_t study;
    const double *y, *noise;  // of all observations
    std::size_t left;         // out: how many could be kept
  };

  StudyModels(std::vector<StudyModel> models, int ordinal);
  ~StudyModels();
  StudyModels(StudyModels&&) noexcept;

  // Each study at most once in a call, but for log_likelihood. What they do is said in
  // search/local_gradient.hpp and pool/pool.hpp.
  void append(std::span<Append> items);
  void center(std::span<const Center> items);
  void refit(std::span<Refit> items);
  void log_likelihood(std::span<Likelihood> items);
  void step(std::span<Step> items);
  void nearest(std::span<Nearest> items);
  void take(std::size_t study, std::int64_t candidate);
  // At the center, of what was appended so far.
  double relative_uncertainty(std::size_t study) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zopo
