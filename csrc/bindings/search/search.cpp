// Bindings of the ask/tell searches (search/search.hpp), for all devices.
#include "search/search.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/search/inputs.hpp"
#include "bindings/search/prediction.hpp"

namespace zopo {
namespace {

// ---- one search -------------------------------------------------------------------------------

template <class Device>
std::int64_t ask_one(Searches<Device>& s, py::ssize_t search) {
  const std::size_t which[] = {s.at(search)};
  return locked(s, [&] {
    std::int64_t out;
    s.searches->ask(which, &out);
    if (out >= 0) s.searches->log_ask(which[0], -1, {&out, 1});
    return out;
  });
}

template <class Device>
std::vector<std::int64_t> ask_up_to(Searches<Device>& s, py::ssize_t search, std::int64_t n) {
  const std::size_t which[] = {s.at(search)};
  return locked(s, [&] {
    std::vector<std::int64_t> out;
    std::int64_t index;
    while (static_cast<std::int64_t>(out.size()) < n) {
      s.searches->ask(which, &index);
      if (index < 0) break;
      out.push_back(index);
    }
    if (!out.empty()) s.searches->log_ask(which[0], n, out);
    return out;
  });
}

template <class Device>
std::size_t ask_for(Searches<Device>& s, py::ssize_t search, const std::vector<std::int64_t>& asked,
                    std::optional<std::int64_t> limit) {
  const std::size_t b = s.at(search);
  for (const std::int64_t i : asked) s.prompt(b, i);
  return locked(s, [&] {
    std::size_t different = 0;
    for (const std::int64_t i : asked) different += s.searches->ask_for(b, i) ? 0 : 1;
    if (limit) s.searches->log_ask(b, *limit, asked);
    return different;
  });
}

template <class Device>
int tell_one(Searches<Device>& s, py::ssize_t search, py::ssize_t index, double score,
             const py::object& noise, bool final) {
  const std::size_t b = s.at(search);
  typename Search<Device>::Score item{b,     s.prompt(b, index), score, stated(noise),
                                      final, Ledger::Told::New};
  locked(s, [&] { s.searches->tell({&item, 1}); });
  return static_cast<int>(item.told);
}

template <class Device>
py::list log_of(const Searches<Device>& s, py::ssize_t search) {
  const Ledger& ledger = s.searches->ledger(s.at(search));
  py::list out;
  for (const Ledger::Entry& e : ledger.log()) {
    py::list entry;
    if (e.call == Ledger::Call::Ask) {
      entry.append("ask");
      entry.append(e.index < 0 ? py::object(py::none()) : py::cast(e.index));
      const auto asked = ledger.asked(e);
      entry.append(py::cast(std::vector<std::int64_t>(asked.begin(), asked.end())));
    } else if (e.call == Ledger::Call::Tell) {
      entry.append("tell");
      entry.append(e.index);
      entry.append(e.score);
      entry.append(std::isnan(e.noise) ? py::object(py::none()) : py::cast(e.noise));
      entry.append(e.final);
    } else {
      entry.append(e.call == Ledger::Call::Discard ? "discard" : "add");
      entry.append(e.index);
    }
    out.append(entry);
  }
  return out;
}

// ---- all searches -----------------------------------------------------------------------------

template <class Device>
Indices ask_each(Searches<Device>& s, const py::object& which_, bool ahead) {
  const Indices which = indices(which_, "studies", 0, true);
  const auto n = static_cast<std::size_t>(which.size());
  std::vector<bool> known(s.size());
  s.which.clear();
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t b = s.at(which.data()[i]);
    if (known[b]) throw IndexError("studies: " + std::to_string(b) + " is listed twice");
    known[b] = true;
    const auto& pending = s.searches->ledger(b).pending();
    if (!ahead && !pending.empty())
      throw IndexError("ask: study " + std::to_string(b) + " waits for the score of prompt " +
                       std::to_string(pending.front()) +
                       "; tell it first, leave the study out, or ask ahead");
    s.which.push_back(b);
  }
  Indices out(which.size());
  std::int64_t* to = out.mutable_data();
  locked(s, [&] {
    s.searches->ask(s.which, to);
    for (std::size_t i = 0; i < n; ++i)
      if (to[i] >= 0) s.searches->log_ask(s.which[i], -1, {to + i, 1});
  });
  return out;
}

template <class Device>
void require_pending(const Searches<Device>& s, std::size_t b, std::int64_t index) {
  const Ledger& ledger = s.searches->ledger(b);
  const auto& pending = ledger.pending();
  if (index >= 0 && ledger.is_pending(index)) return;
  throw IndexError("tell: study " + std::to_string(b) + " got prompt " + std::to_string(index) +
                   (pending.empty() ? std::string(", but waits for none")
                                    : ", but waits for prompt " + std::to_string(pending.front())) +
                   "; tell the prompt that ask() returned");
}

template <class Device>
void tell_each(Searches<Device>& s, const py::object& index_, const py::object& score_,
               const py::object& noise_, bool final) {
  const Indices index = indices(index_, "indices", s.size(), false);
  const py::array score = contiguous(score_, "scores");
  const auto of_size = [&](const py::array& a) {
    return py::isinstance<Array>(a) && a.ndim() == 1 &&
           static_cast<std::size_t>(a.shape(0)) == s.size();
  };
  if (!of_size(score))
    throw ArrayError("scores: expected float64 of shape (" + std::to_string(s.size()) +
                     ",), got shape " + shape_of(score));
  const auto* scores = static_cast<const double*>(score.data());
  const double* noises = nullptr;
  if (!noise_.is_none()) {
    const py::array noise = contiguous(noise_, "noise");
    if (!of_size(noise))
      throw ArrayError("noise: expected float64 of shape (" + std::to_string(s.size()) +
                       ",), got shape " + shape_of(noise));
    noises = static_cast<const double*>(noise.data());
  }
  s.scores.clear();
  for (std::size_t b = 0; b < s.size(); ++b) {
    if (index.data()[b] == -1) continue;
    require_pending(s, b, index.data()[b]);
    if (!std::isfinite(scores[b]))
      throw ArrayError("scores: NaN or infinity for study " + std::to_string(b));
    if (noises && !(noises[b] >= 0.0 && std::isfinite(noises[b])))
      throw ArrayError("noise: expected a finite variance of at least 0 for study " +
                       std::to_string(b));
    s.scores.push_back(
        {b, index.data()[b], scores[b], noises ? noises[b] : kNotStated, final, Ledger::Told::New});
  }
  locked(s, [&] { s.searches->tell(s.scores); });
}

// Fill an array with a value of each search.
template <class Value, class Device, class F>
py::array_t<Value> of_each(Searches<Device>& s, F&& f) {
  py::array_t<Value> out(static_cast<py::ssize_t>(s.size()));
  Value* to = out.mutable_data();
  locked(s, [&] {
    for (std::size_t b = 0; b < s.size(); ++b) to[b] = f(b);
  });
  return out;
}

template <class Device>
void bind(py::module_& m, const char* name) {
  using S = Searches<Device>;
  py::class_<S>(m, name, "Ask/tell searches over pools, one or many.")
      .def(py::init(&S::make), "inputs"_a, "ordinal"_a = 0)
      .def("__len__", &S::size)
      .def("ask", &ask_one<Device>, "search"_a)
      .def("ask_up_to", &ask_up_to<Device>, "search"_a, "n"_a)
      .def("ask_for", &ask_for<Device>, "search"_a, "asked"_a, "limit"_a)
      .def(
          "offer",
          [](S& s, py::ssize_t search, py::ssize_t index) {
            const std::size_t b = s.at(search);
            s.searches->offer(b, s.prompt(b, index));
          },
          "search"_a, "index"_a)
      .def(
          "log_ask",
          [](S& s, py::ssize_t search, const std::vector<std::int64_t>& asked, std::int64_t limit) {
            s.searches->log_ask(s.at(search), limit, asked);
          },
          "search"_a, "asked"_a, "limit"_a)
      .def("tell", &tell_one<Device>, "search"_a, "index"_a, "score"_a, "noise"_a, "final"_a)
      .def(
          "discard",
          [](S& s, py::ssize_t search, py::ssize_t index) {
            const std::size_t b = s.at(search);
            const std::int64_t at = s.prompt(b, index);
            locked(s, [&] { s.searches->discard(b, at); });
          },
          "search"_a, "index"_a)
      .def(
          "add",
          [](S& s, py::ssize_t search, const py::dict& inputs) {
            const std::size_t b = s.at(search), budget = inputs["budget"].cast<std::size_t>();
            PoolInputs pool = pool_of(inputs);
            locked(s, [&] { s.searches->add(b, std::move(pool), budget); });
            s.arrays[b] = inputs["embeddings"];
          },
          "search"_a, "inputs"_a)
      .def(
          "learn",
          [](S& s, py::ssize_t search, const py::object& trend_,
             std::vector<std::int64_t> initial) {
            const std::size_t b = s.at(search), m = s.searches->ledger(b).size();
            const Doubles trend = doubles_of(trend_, "trend");
            if (trend.size() % m != 0) throw ArrayError("trend: expected (m * trends,)");
            for (const std::int64_t i : initial) s.prompt(b, i);
            locked(s, [&] { s.searches->learn(b, trend, trend.size() / m, std::move(initial)); });
          },
          "search"_a, "trend"_a, "initial"_a)
      .def(
          "can_offer",
          [](const S& s, py::ssize_t search) {
            return s.searches->ledger(s.at(search)).can_offer();
          },
          "search"_a)
      .def(
          "done",
          [](const S& s, py::ssize_t search) { return s.searches->ledger(s.at(search)).done(); },
          "search"_a)
      .def(
          "next_set_aside",
          [](const S& s, py::ssize_t search) {
            const Ledger& ledger = s.searches->ledger(s.at(search));
            return ledger.has_free() || !ledger.can_offer() ? -1 : ledger.next_set_aside();
          },
          "search"_a)
      .def(
          "counted",
          [](const S& s, py::ssize_t search) { return s.searches->ledger(s.at(search)).counted(); },
          "search"_a)
      .def(
          "pending",
          [](const S& s, py::ssize_t search) { return s.searches->ledger(s.at(search)).pending(); },
          "search"_a)
      .def(
          "best",
          [](const S& s, py::ssize_t search) { return s.searches->ledger(s.at(search)).best(); },
          "search"_a)
      .def(
          "score_of",
          [](const S& s, py::ssize_t search, py::ssize_t index) {
            const std::size_t b = s.at(search);
            const std::int64_t i = s.prompt(b, index);
            const Observations& seen = s.searches->ledger(b).seen();
            return seen.contains(i) ? seen.score_of(i) : kNotStated;
          },
          "search"_a, "index"_a)
      .def("log", &log_of<Device>, "search"_a)
      .def("region", &region_of<Device>, "search"_a)
      .def("predict", &predict<Device>, "search"_a, "latent"_a)
      .def("predict_at", &predict_at<Device>, "search"_a, "embeddings"_a, "trend"_a, "latent"_a)
      .def("incumbent", &incumbent<Device>, "search"_a)
      .def("ask_each", &ask_each<Device>, "studies"_a, "ahead"_a)
      .def("tell_each", &tell_each<Device>, "indices"_a, "scores"_a, "noise"_a, "final"_a)
      .def("done_each",
           [](S& s) {
             return of_each<bool>(s, [&](std::size_t b) { return s.searches->ledger(b).done(); });
           })
      .def("pending_each",
           [](S& s) {
             return of_each<std::int64_t>(s, [&](std::size_t b) {
               const auto& pending = s.searches->ledger(b).pending();
               return pending.empty() ? -1 : pending.front();
             });
           })
      .def("best_each",
           [](S& s) {
             return py::make_tuple(
                 of_each<std::int64_t>(
                     s, [&](std::size_t b) { return s.searches->ledger(b).best().first; }),
                 of_each<double>(
                     s, [&](std::size_t b) { return s.searches->ledger(b).best().second; }));
           })
      .def("gradient_uncertainty", [](S& s) {
        return of_each<double>(s, [&](std::size_t b) { return s.searches->uncertainty(b); });
      });
}

}  // namespace

void bind_search(py::module_& m) {
  bind<Cpu>(m, "Search");
#ifdef ZOPO_HAS_CUDA
  bind<Cuda>(m, "CudaSearch");
#endif
}

}  // namespace zopo
