// Inputs of the ask/tell searches from Python, and the object that owns their arrays.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "search/search.hpp"

namespace zopo {

inline double stated(const py::object& noise) {
  return noise.is_none() ? kNotStated : noise.cast<double>();
}

// The kernels of the model; "mixture" lists the scale of each and its weights of the coordinates, or
// None.
inline WeightedKernels kernels_of(const py::dict& d, std::size_t dim) {
  WeightedKernels kernels;
  for (const auto& item : d["mixture"].cast<py::list>()) {
    const auto [scale, weights] = item.cast<std::pair<double, py::object>>();
    kernels.push_back({prior_kernel(d["kernels"], scale),
                       weights.is_none()
                           ? Doubles()
                           : doubles_of(weights, "weights", static_cast<py::ssize_t>(dim))});
  }
  return kernels;
}

// Return embeddings (m, d), checked.
inline py::array rows_of(const py::object& embeddings) {
  py::array Z = contiguous(embeddings, "embeddings");
  const Precision precision = precision_of(Z, "embeddings");
  if (Z.ndim() != 2 || Z.size() == 0)
    throw ArrayError("embeddings: expected (m, d), not empty, got shape " + shape_of(Z));
  require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
  return Z;
}

inline PoolInputs pool_of(const py::dict& d) {
  const py::array Z = rows_of(d["embeddings"]);
  const Precision precision = precision_of(Z, "embeddings");
  Doubles inverse = doubles_of(d["deviation"], "deviation", Z.shape(1));
  for (double& s : inverse) s = 1.0 / s;
  return {Z.data(),
          precision,
          static_cast<std::size_t>(Z.shape(0)),
          static_cast<std::size_t>(Z.shape(1)),
          doubles_of(d["mean"], "mean", Z.shape(1)),
          std::move(inverse),
          d.contains("trend") ? doubles_of(d["trend"], "trend") : Doubles()};
}

inline SearchInputs inputs_of(const py::dict& d) {
  using Kind = SearchInputs::Kind;
  const auto search = d["search"].cast<std::string>();
  SearchInputs in{};
  in.kind = search == "gradient" ? Kind::Gradient
                                 : (search == "outside" ? Kind::Outside : Kind::Improvement);
  in.pool = pool_of(d);
  in.budget = d["budget"].cast<std::size_t>();
  in.capacity = d["capacity"].cast<std::size_t>();
  if (in.kind == Kind::Outside) return in;
  in.initial = d["initial"].cast<std::vector<std::int64_t>>();
  if (in.kind == Kind::Gradient) {
    in.net = d["kernels"].cast<py::list>()[0].cast<NetworkPtr>();
    if (in.net->dim() != in.pool.d)
      throw ArrayError("embeddings: expected dimension " + std::to_string(in.net->dim()));
    in.gradient = {d["expected"].cast<std::size_t>(),
                   d["neighbors"].cast<std::size_t>(),
                   d["exploration"].cast<std::size_t>(),
                   d["step"].cast<double>(),
                   d["exploration_quantile"].cast<double>(),
                   stated(d["noise"]),
                   d["scale"].cast<double>()};
    return in;
  }
  in.kernels = kernels_of(d, in.pool.d);
  ImprovementSettings& set = in.improvement;
  set.thompson = search == "thompson";
  const auto seed = d["seed"].cast<std::pair<std::uint64_t, std::uint64_t>>();
  set.seed = {seed.first, seed.second};
  set.region = d["region"].cast<std::size_t>();
  set.patience = d["patience"].cast<std::size_t>();
  set.capacity = in.capacity;
  set.power = d["power"].cast<int>();
  set.emphasis = d["emphasis"].cast<double>();
  set.step = d["step"].cast<double>();
  set.nuggets = doubles_of(d["nuggets"], "nuggets");
  set.factor = doubles_of(d["factor"], "factor", static_cast<py::ssize_t>(in.pool.d));
  return in;
}

// The searches, and the arrays that their pools lie in.
template <class Device>
struct Searches {
  std::vector<py::object> arrays;
  std::unique_ptr<Search<Device>> searches;
  std::vector<std::size_t> which;  // scratch of a call for all
  std::vector<typename Search<Device>::Score> scores;

  static std::unique_ptr<Searches> make(const py::list& inputs_, int ordinal) {
    auto made = std::make_unique<Searches>();
    std::vector<SearchInputs> inputs;
    for (const auto& item : inputs_) {
      const auto d = item.cast<py::dict>();
      made->arrays.push_back(d["embeddings"]);
      inputs.push_back(inputs_of(d));
    }
    const py::gil_scoped_release nogil;
    made->searches = std::make_unique<Search<Device>>(std::move(inputs), ordinal);
    return made;
  }

  std::size_t size() const { return searches->size(); }
  std::mutex& mutex() const { return searches->mutex(); }
  std::size_t at(py::ssize_t search) const { return checked_index(search, size(), "studies"); }
  std::int64_t prompt(std::size_t search, py::ssize_t index) const {
    return static_cast<std::int64_t>(
        checked_index(index, searches->ledger(search).size(), "prompt"));
  }
};

}  // namespace zopo
