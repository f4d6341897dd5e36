// Bindings of the batch search (search/batch_search.hpp), for all devices.
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "bindings/bindings.hpp"
#include "search/batch_search.hpp"

namespace zopo {
namespace {

using Indices = py::array_t<std::int64_t>;

Indices indices(const py::object& object, const char* name, std::size_t size, bool any_size) {
  const py::array a = contiguous(object, name);
  if (!py::isinstance<Indices>(a) || a.ndim() != 1 ||
      (!any_size && static_cast<std::size_t>(a.shape(0)) != size))
    throw ArrayError(std::string(name) + ": expected int64 of shape (" +
                     (any_size ? "n" : std::to_string(size)) + ",), got " +
                     std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  return py::reinterpret_borrow<Indices>(a);
}

SearchRules rules_of(const py::dict& d) {
  const Array grid = doubles(d["noise_grid"], "noise_grid", 1);
  return {Doubles(grid.data(), grid.data() + grid.size()), d["max_refresh"].cast<std::size_t>(),
          d["min_noise"].cast<double>(), d["history"].cast<std::size_t>(),
          d["min_history"].cast<std::size_t>()};
}

template <class Device>
std::unique_ptr<BatchSearch<Device>> make_batch(const py::list& models_, const py::list& settings_,
                                                const py::dict& rules, int ordinal) {
  std::vector<ModelInputs> models;
  for (const auto& item : models_) {
    const auto d = py::reinterpret_borrow<py::dict>(item);
    const py::array Z = contiguous(d["embeddings"], "embeddings");
    const auto net = d["network"].cast<NetworkPtr>();
    const Precision precision = precision_of(Z, "embeddings");
    if (Z.ndim() != 2 || static_cast<std::size_t>(Z.shape(1)) != net->dim())
      throw ArrayError("embeddings: expected (m, " + std::to_string(net->dim()) + "), got shape " +
                       shape_of(Z));
    require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
    const Array mean = doubles(d["mean"], "mean", 1, Z.shape(1)),
                scale = doubles(d["deviation"], "deviation", 1, Z.shape(1));
    Doubles inverse(scale.data(), scale.data() + scale.size());
    for (double& s : inverse) s = 1.0 / s;
    models.push_back({net, Z.data(), precision, static_cast<std::size_t>(Z.shape(0)),
                      static_cast<std::size_t>(Z.shape(1)),
                      Doubles(mean.data(), mean.data() + mean.size()), std::move(inverse),
                      d["capacity"].cast<std::size_t>()});
  }
  std::vector<SearchSettings> settings;
  for (const auto& item : settings_) {
    const auto d = py::reinterpret_borrow<py::dict>(item);
    const py::object noise = d["noise"];
    settings.push_back(
        {d["budget"].cast<std::size_t>(), d["expected"].cast<std::size_t>(),
         d["initial"].cast<std::vector<std::int64_t>>(), d["neighbors"].cast<std::size_t>(),
         d["exploration"].cast<std::size_t>(), d["step"].cast<double>(),
         d["exploration_quantile"].cast<double>(),
         noise.is_none() ? std::numeric_limits<double>::quiet_NaN() : noise.cast<double>(),
         d["scale"].cast<double>()});
  }
  if (settings.size() != models.size())
    throw ArrayError("settings: expected one for each of " + std::to_string(models.size()) +
                     " studies, got " + std::to_string(settings.size()));
  const SearchRules r = rules_of(rules);
  const py::gil_scoped_release nogil;
  return std::make_unique<BatchSearch<Device>>(std::move(models), std::move(settings), r, ordinal);
}

template <class Device>
void bind(py::module_& m, const char* name) {
  using S = BatchSearch<Device>;
  py::class_<S>(m, name, "Many independent searches, asked and told together.")
      .def(py::init(&make_batch<Device>), "models"_a, "settings"_a, "rules"_a, "ordinal"_a,
           py::keep_alive<1, 2>())
      .def("__len__", &S::size)
      .def(
          "ask",
          [](S& s, const py::object& which_) {
            const Indices which = indices(which_, "studies", 0, true);
            const auto n = static_cast<std::size_t>(which.size());
            std::vector<bool> seen(s.size());
            for (std::size_t i = 0; i < n; ++i) {
              const std::size_t b = checked_index(which.data()[i], s.size(), "studies");
              if (seen[b]) throw IndexError("studies: " + std::to_string(b) + " is listed twice");
              seen[b] = true;
            }
            Indices out(which.size());
            std::int64_t* to = out.mutable_data();
            locked(s, [&] { s.ask({which.data(), n}, to); });
            return out;
          },
          "studies"_a)
      .def(
          "tell",
          [](S& s, const py::object& index_, const py::object& score_) {
            const Indices index = indices(index_, "indices", s.size(), false);
            const py::array score = contiguous(score_, "scores");
            if (!py::isinstance<Array>(score) || score.ndim() != 1 ||
                static_cast<std::size_t>(score.shape(0)) != s.size())
              throw ArrayError("scores: expected float64 of shape (" + std::to_string(s.size()) +
                               ",), got shape " + shape_of(score));
            const auto values = py::reinterpret_borrow<Array>(score);
            locked(s, [&] { s.tell(index.data(), values.data()); });
          },
          "indices"_a, "scores"_a)
      .def("done",
           [](const S& s) {
             py::array_t<bool> out(static_cast<py::ssize_t>(s.size()));
             bool* to = out.mutable_data();
             locked(s, [&] {
               for (std::size_t b = 0; b < s.size(); ++b) to[b] = s.done(b);
             });
             return out;
           })
      .def("pending",
           [](const S& s) {
             Indices out(static_cast<py::ssize_t>(s.size()));
             std::int64_t* to = out.mutable_data();
             locked(s, [&] {
               for (std::size_t b = 0; b < s.size(); ++b) to[b] = s.pending(b);
             });
             return out;
           })
      .def(
          "log",
          [](const S& s, py::ssize_t search) {
            const std::size_t b = checked_index(search, s.size(), "study");
            std::vector<std::int64_t> index;
            Doubles score;
            locked(s, [&] {
              index = s.told(b);
              score = s.scores(b);
            });
            return py::make_tuple(Indices(static_cast<py::ssize_t>(index.size()), index.data()),
                                  Array(static_cast<py::ssize_t>(score.size()), score.data()));
          },
          "study"_a)
      .def("gradient_uncertainty",
           [](const S& s) {
             Array out = vector(s.size());
             double* to = out.mutable_data();
             locked(s, [&] {
               for (std::size_t b = 0; b < s.size(); ++b) to[b] = s.uncertainty(b);
             });
             return out;
           })
      .def("best", [](const S& s) {
        Indices index(static_cast<py::ssize_t>(s.size()));
        Array score = vector(s.size());
        std::int64_t* to = index.mutable_data();
        double* value = score.mutable_data();
        locked(s, [&] {
          for (std::size_t b = 0; b < s.size(); ++b) {
            to[b] = s.best(b);
            value[b] = to[b] < 0 ? std::numeric_limits<double>::quiet_NaN() : s.score_of_best(b);
          }
        });
        return py::make_tuple(index, score);
      });
}

}  // namespace

void bind_batch_search(py::module_& m) {
  bind<Cpu>(m, "Studies");
#ifdef ZOPO_HAS_CUDA
  bind<Cuda>(m, "CudaStudies");
#endif
}

}  // namespace zopo
