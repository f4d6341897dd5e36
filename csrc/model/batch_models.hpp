// Models of many independent searches: each has a pool of candidates and the posterior mean's
// gradient at its center (model/local_gradient.hpp). Every operation takes any number of searches
// at once. search/gradient_search.hpp has the control flow. CPU members are defined in
// model/batch_models.cpp, CUDA members in cuda/model/batch_models.cu.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned.hpp"
#include "ntk/ntk.hpp"
#include "pool/pool.hpp"

namespace zopo {

// Inputs of one search's model. The caller owns `data` (m, d) and keeps it while the models live.
struct ModelInputs {
  std::shared_ptr<const Network> net;
  const void* data;
  Precision precision;
  std::size_t m, d;
  Doubles mean, inverse_scale;  // (d,)
  std::size_t capacity;         // number of observations to reserve memory for
};

template <class Device>
class BatchModels {
 public:
  struct Append {
    std::size_t search;
    std::int64_t candidate;
    double y, noise;
    bool done;  // out: false, with nothing changed, when the pivot was rounding noise
  };
  struct Center {
    std::size_t search;
    std::int64_t candidate;
  };
  struct Step {
    std::size_t search;
    double length;
    std::int64_t index;  // out: the nearest free candidate, -1 when none is free
  };
  struct Nearest {
    std::size_t search;
    std::int64_t candidate;  // the query; -1 for the origin
    std::size_t k;
    bool available_only;
    std::vector<Neighbor> found;  // out: at most k, nearest first
  };
  struct Radius {
    std::size_t search;
    std::int64_t candidate;
    std::size_t k;
    double value;  // out: distance to the k-th nearest neighbour, or to the farthest candidate
  };
  struct Likelihood {
    std::size_t search;
    const double* y;  // standardised scores of all observations
    double noise;
    double value;  // out
  };
  struct Refit {
    std::size_t search;
    const double *y, *noise;  // of all observations
    std::size_t left;         // out: number of observations that were kept
  };

  BatchModels(std::vector<ModelInputs> models, int ordinal);
  ~BatchModels();
  BatchModels(BatchModels&&) noexcept;

  // Run an operation of model/local_gradient.hpp or pool/pool.hpp. A search occurs at most once in
  // a call, except in log_likelihood().
  void append(std::span<Append> items);
  void center(std::span<const Center> items);
  void refit(std::span<Refit> items);
  void log_likelihood(std::span<Likelihood> items);
  void step(std::span<Step> items);
  void nearest(std::span<Nearest> items);
  void radius(std::span<Radius> items);
  void take(std::size_t search, std::int64_t candidate);
  // Start a search again on another pool, without observations.
  void replace(std::size_t search, ModelInputs model);
  // Return the relative gradient uncertainty at the center, given the observations so far and the
  // pending candidates, which count as observed with this noise; none on a CUDA device.
  double relative_uncertainty(std::size_t search, std::span<const std::int64_t> pending,
                              double noise);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zopo
