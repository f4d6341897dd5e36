// Ask/tell searches (search/search.hpp).
#include "search/search.hpp"

#include <string>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "base/parallel.hpp"

namespace zopo {
namespace {

std::unique_ptr<Pool<Cpu>> pool_of(PoolInputs pool) {
  return std::make_unique<Pool<Cpu>>(pool.data, pool.precision, pool.m, pool.d,
                                     std::move(pool.mean), std::move(pool.inverse_scale));
}

ModelInputs model_of(PoolInputs pool, std::shared_ptr<const Network> net, std::size_t capacity) {
  return {std::move(net),
          pool.data,
          pool.precision,
          pool.m,
          pool.d,
          std::move(pool.mean),
          std::move(pool.inverse_scale),
          capacity};
}

}  // namespace

template <class Device>
Search<Device>::Search(std::vector<SearchInputs> inputs, int ordinal) {
  std::vector<ModelInputs> models;
  std::vector<GradientSettings> settings;
  std::vector<std::vector<std::int64_t>> initial;
  std::vector<const Ledger*> ledgers;
  for (SearchInputs& in : inputs) {
    Study& study = studies_.emplace_back();
    study.kind = in.kind;
    study.capacity = in.capacity;
    study.book = std::make_unique<Ledger>(in.pool.m, in.budget);
    if (in.kind != SearchInputs::Kind::Gradient) continue;
    study.net = in.net;
    study.gradient = models.size();
    models.push_back(model_of(std::move(in.pool), in.net, in.capacity));
    settings.push_back(in.gradient);
    initial.push_back(std::move(in.initial));
    ledgers.push_back(study.book.get());
  }
  if (!models.empty())
    gradient_ = std::make_unique<GradientSearch<Device>>(std::move(models), std::move(settings),
                                                         std::move(initial), ledgers, ordinal);
  double work = 0.0;
  for (const SearchInputs& in : inputs)
    if (in.kind == SearchInputs::Kind::Improvement)
      work += static_cast<double>(in.pool.m * in.pool.d) * 16.0;
  parallel_chunks(inputs.size(), 1, inputs.size() > 1 ? work : 0.0,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t b = begin; b < end; ++b) {
                      SearchInputs& in = inputs[b];
                      if (in.kind != SearchInputs::Kind::Improvement) continue;
                      Doubles trend = std::move(in.pool.trend);
                      studies_[b].improvement = std::make_unique<ImprovementSearch>(
                          pool_of(std::move(in.pool)), std::move(trend), std::move(in.kernels),
                          std::move(in.improvement), std::move(in.initial), *studies_[b].book);
                    }
                  });
}

// Run `body` once: an error half-way through a batch leaves some searches advanced and others not.
template <class Device>
template <class Body>
void Search<Device>::whole(Body&& body) {
  if (broken_)
    throw DeviceError(
        "an earlier call failed half-way and left the searches inconsistent; rebuild them with "
        "from_state()");
  broken_ = true;
  body();
  broken_ = false;
}

template <class Device>
double Search<Device>::uncertainty(std::size_t search) {
  const Study& study = studies_[search];
  return study.kind == SearchInputs::Kind::Gradient ? gradient_->uncertainty(study.gradient)
                                                    : kNotStated;
}

// Call body(search's state machine, position) for improvement searches; threads split them.
template <class Device>
template <class Body>
void Search<Device>::each_improvement(std::span<const std::size_t> which, Body&& body) {
  if (which.size() == 1) return body(*studies_[which[0]].improvement, 0);
  double work = 0.0;
  for (const std::size_t b : which) work += studies_[b].improvement->work();
  parallel_chunks(which.size(), 1, work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t k = begin; k < end; ++k) body(*studies_[which[k]].improvement, k);
  });
}

template <class Device>
void Search<Device>::propose(std::span<const std::size_t> which, std::int64_t* out) {
  improving_.clear();
  place_.clear();
  numbers_.clear();
  stepping_.clear();
  for (std::size_t i = 0; i < which.size(); ++i) {
    const Study& study = studies_[which[i]];
    const Ledger& ledger = study.ledger();
    if (!ledger.has_free()) {  // only discarded prompts are left
      out[i] = ledger.next_set_aside();
    } else if (study.kind == SearchInputs::Kind::Improvement) {
      improving_.push_back(which[i]);
      place_.push_back(i);
    } else {
      numbers_.push_back(study.gradient);
      stepping_.push_back(i);
    }
  }
  if (!improving_.empty())
    each_improvement(improving_, [&](ImprovementSearch& search, std::size_t k) {
      out[place_[k]] = search.propose();
    });
  if (numbers_.empty()) return;
  steps_.resize(numbers_.size());
  gradient_->propose(numbers_, steps_.data());
  for (std::size_t k = 0; k < steps_.size(); ++k) out[stepping_[k]] = steps_[k];
}

template <class Device>
void Search<Device>::commit(std::size_t search, std::int64_t index) {
  const Study& study = studies_[search];
  study.ledger().offer(index);
  if (study.kind == SearchInputs::Kind::Improvement)
    study.improvement->on_ask(index);
  else if (study.kind == SearchInputs::Kind::Gradient)
    gradient_->on_take(study.gradient, index);
}

// A device does not take pending candidates into account.
template <class Device>
void Search<Device>::require_answerable(std::span<const std::size_t> which) const {
  if (std::is_same_v<Device, Cpu>) return;
  for (const std::size_t b : which) {
    const Ledger& ledger = studies_[b].ledger();
    if (!ledger.pending().empty() && ledger.can_offer())
      throw DeviceError("study " + std::to_string(b) +
                        ": a search on a CUDA device cannot ask while prompts are pending; use "
                        "device='cpu'");
  }
}

template <class Device>
void Search<Device>::ask(std::span<const std::size_t> which, std::int64_t* out) {
  require_answerable(which);
  whole([&] {
    asking_.clear();
    found_.clear();
    for (const std::size_t b : which)
      if (studies_[b].ledger().can_offer()) asking_.push_back(b);
    found_.resize(asking_.size());
    propose(asking_, found_.data());
    for (std::size_t k = 0, i = 0; i < which.size(); ++i) {
      const bool asked = k < asking_.size() && asking_[k] == which[i];
      out[i] = asked ? found_[k++] : -1;
      if (asked) commit(which[i], out[i]);
    }
  });
}

template <class Device>
bool Search<Device>::ask_for(std::size_t search, std::int64_t index) {
  const Study& study = studies_[search];
  const Ledger& ledger = study.ledger();
  const bool offered = ledger.has_free() ? !ledger.taken(index) : ledger.is_set_aside(index);
  if (!offered || !ledger.can_offer())
    throw IndexError("prompt " + std::to_string(index) + " cannot be asked for");
  const std::size_t which[] = {search};
  require_answerable(which);
  bool same = true;
  whole([&] {
    std::int64_t found = index;
    if (study.kind != SearchInputs::Kind::Outside) propose(which, &found);
    commit(search, index);
    same = found == index;
  });
  return same;
}

template <class Device>
void Search<Device>::tell(std::span<Score> scores) {
  whole([&] {
    improving_.clear();
    place_.clear();
    told_.clear();
    for (std::size_t k = 0; k < scores.size(); ++k) {
      Score& s = scores[k];
      const Study& study = studies_[s.search];
      s.told = study.ledger().record(s.index, s.score, s.noise, s.final);
      if (s.told == Ledger::Told::Known || s.told == Ledger::Told::Conflict) continue;
      if (study.kind == SearchInputs::Kind::Improvement) {
        improving_.push_back(s.search);
        place_.push_back(k);
      } else if (study.kind == SearchInputs::Kind::Gradient) {
        told_.push_back({study.gradient, s.index, s.final, s.told == Ledger::Told::Replaced});
      }
    }
    if (!improving_.empty())
      each_improvement(improving_, [&](ImprovementSearch& search, std::size_t k) {
        const Score& s = scores[place_[k]];
        search.on_tell(s.index, s.final, s.told == Ledger::Told::Replaced);
      });
    if (!told_.empty()) gradient_->on_tell(told_);
  });
}

template <class Device>
void Search<Device>::discard(std::size_t search, std::int64_t index) {
  Ledger& ledger = studies_[search].ledger();
  if (!ledger.is_pending(index))
    throw IndexError("discard: prompt " + std::to_string(index) + " is not pending");
  ledger.discard(index);
}

template <class Device>
void Search<Device>::add(std::size_t search, PoolInputs pool, std::size_t budget) {
  Study& study = studies_[search];
  if (study.improvement && pool.trend.size() != pool.m * study.improvement->trends())
    throw ArrayError("trend: expected the trends of all " + std::to_string(pool.m) + " candidates");
  whole([&] {
    study.ledger().grow(pool.m, budget);
    if (study.kind == SearchInputs::Kind::Improvement)
      study.improvement->on_add(pool_of(pool), std::move(pool.trend));
    else if (study.kind == SearchInputs::Kind::Gradient)
      gradient_->on_add(study.gradient, model_of(std::move(pool), study.net, study.capacity),
                        budget);
  });
}

template <class Device>
void Search<Device>::learn(std::size_t search, Doubles trend, std::size_t trends,
                           std::vector<std::int64_t> initial) {
  const Study& study = studies_[search];
  if (!study.improvement || !study.ledger().log().empty())
    throw ArrayError("learn: only a search by improvement, before its first call");
  whole([&] { study.improvement->learn(std::move(trend), trends, std::move(initial)); });
}

template class Search<Cpu>;
#ifdef ZOPO_HAS_CUDA
template class Search<Cuda>;
#endif

}  // namespace zopo
