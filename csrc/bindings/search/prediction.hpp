// Bindings of what an improvement search predicts (search/improvement/improvement_search.hpp).
#pragma once

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/search/inputs.hpp"

namespace zopo {

// Return the state machine of an improvement search with a model; null for others.
template <class Device>
const ImprovementSearch* modelled(const Searches<Device>& s, py::ssize_t search) {
  const ImprovementSearch* improvement = s.searches->improvement(s.at(search));
  return improvement && improvement->model() ? improvement : nullptr;
}

// Return the columns that have a member: members (k,), mean (k,) and variance (k,).
inline std::tuple<Indices, Array, Array> of_members(const std::vector<std::int64_t>& all,
                                                    Doubles& mean, Doubles& variance) {
  std::vector<std::int64_t> members;
  for (std::size_t c = 0; c < all.size(); ++c) {
    if (all[c] < 0) continue;
    mean[members.size()] = mean[c];
    variance[members.size()] = variance[c];
    members.push_back(all[c]);
  }
  const auto n = static_cast<py::ssize_t>(members.size());
  return {Indices(n, members.data()), Array(n, mean.data()), Array(n, variance.data())};
}

// Return the state of the model of an improvement search: members (k,), mean (k,) and variance (k,) in
// the model's unit, center and size of the trust region; None before there is a model.
template <class Device>
py::object region_of(const Searches<Device>& s, py::ssize_t search) {
  const ImprovementSearch* improvement = modelled(s, search);
  if (!improvement) return py::none();
  const auto& all = improvement->members();
  Doubles mean(all.size()), variance(all.size());
  locked(s, [&] { improvement->model()->posterior(mean.data(), variance.data()); });
  const auto [members, of_mean, of_variance] = of_members(all, mean, variance);
  return py::make_tuple(members, of_mean, of_variance, improvement->trust().center(),
                        improvement->trust().size());
}

// Return members (k,) of the region, and mean (k,) and variance (k,) of their scores as the scores of
// the others predict them; None before there is a model.
template <class Device>
py::object predict(const Searches<Device>& s, py::ssize_t search, bool latent) {
  const ImprovementSearch* improvement = modelled(s, search);
  if (!improvement) return py::none();
  const auto& all = improvement->members();
  Doubles mean(all.size()), variance(all.size());
  locked(s, [&] { improvement->predict(mean.data(), variance.data(), latent); });
  return py::cast(of_members(all, mean, variance));
}

// Return mean (n,) and variance (n,) of the scores of candidates outside the pool, from embeddings
// (n, d) of the pool's precision and their trends (n * trends,); None before there is a model.
template <class Device>
py::object predict_at(const Searches<Device>& s, py::ssize_t search, const py::object& Z_,
                      const py::object& trend_, bool latent) {
  const ImprovementSearch* improvement = modelled(s, search);
  if (!improvement) return py::none();
  const py::array Z = rows_of(Z_);
  const Pool<Cpu>& pool = improvement->pool();
  if (precision_of(Z, "embeddings") != pool.precision() ||
      static_cast<std::size_t>(Z.shape(1)) != pool.dim())
    throw ArrayError("embeddings: expected precision and dimension of the pool");
  const Doubles trend = doubles_of(trend_, "trend");
  const auto n = static_cast<std::size_t>(Z.shape(0));
  Array mean = vector(n), variance = vector(n);
  double *to_mean = mean.mutable_data(), *to_variance = variance.mutable_data();
  locked(s, [&] { improvement->predict_at(Z.data(), n, trend, to_mean, to_variance, latent); });
  return py::make_tuple(mean, variance);
}

// Return the score that the next one is to exceed: the best, or of an improvement search the best exact
// one where there is any. NaN before a score.
template <class Device>
double incumbent(const Searches<Device>& s, py::ssize_t search) {
  const std::size_t b = s.at(search);
  const ImprovementSearch* improvement = s.searches->improvement(b);
  const Ledger& ledger = s.searches->ledger(b);
  return improvement && ledger.seen().size() > 0 ? improvement->incumbent_score()
                                                 : ledger.best().second;
}

}  // namespace zopo
