// Models of the batch search on the CPU; the CUDA twin is cuda/model/batch_models.cu.
#include "model/batch_models.hpp"
#include "base/error.hpp"
#include "base/parallel.hpp"
#include "model/local_gradient.hpp"

namespace zopo {

template <>
struct BatchModels<Cpu>::State {
  struct One {
    std::unique_ptr<Pool<Cpu>> pool;
    std::unique_ptr<LocalGradient> gradient;
  };
  std::vector<One> searches;

  static One one(ModelInputs& model) {
    One s;
    s.pool = std::make_unique<Pool<Cpu>>(model.data, model.precision, model.m, model.d,
                                         std::move(model.mean), std::move(model.inverse_scale));
    s.gradient = std::make_unique<LocalGradient>(model.net, *s.pool, model.capacity);
    return s;
  }

  // Threads split the searches; an operation of one search is not split again.
  template <class Item, class Body>
  void each(std::span<Item> items, Body&& body) {
    double work = 0.0;
    for (const auto& item : items) {
      const One& s = searches[item.search];
      const double n = static_cast<double>(s.gradient->size());
      work += n * n + (n + 32.0) * static_cast<double>(s.pool->dim());
    }
    parallel_chunks(items.size(), 4, work, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) body(searches[items[i].search], items[i]);
    });
  }
};

template <>
BatchModels<Cpu>::BatchModels(std::vector<ModelInputs> models, int)
    : state_(std::make_unique<State>()) {
  for (auto& model : models) state_->searches.push_back(State::one(model));
}
template <>
BatchModels<Cpu>::~BatchModels() = default;
template <>
BatchModels<Cpu>::BatchModels(BatchModels&&) noexcept = default;

template <>
void BatchModels<Cpu>::append(std::span<Append> items) {
  state_->each(items, [](State::One& s, Append& item) {
    try {
      s.gradient->append(static_cast<std::size_t>(item.candidate), item.y, item.noise);
      item.done = true;
    } catch (const NotPositiveDefiniteError&) {
      item.done = false;
    }
  });
}

template <>
void BatchModels<Cpu>::center(std::span<const Center> items) {
  state_->each(items, [](State::One& s, const Center& item) {
    s.gradient->center(static_cast<std::size_t>(item.candidate));
  });
}

template <>
void BatchModels<Cpu>::refit(std::span<Refit> items) {
  state_->each(items, [](State::One& s, Refit& item) {
    try {
      s.gradient->refit(item.y, item.noise, s.gradient->size());
    } catch (const NotPositiveDefiniteError&) {
    }
    item.left = s.gradient->size();
  });
}

template <>
void BatchModels<Cpu>::log_likelihood(std::span<Likelihood> items) {
  // Several noises of one search share its scratch, so each search stays on one thread.
  std::vector<std::vector<std::size_t>> by_search(state_->searches.size());
  for (std::size_t i = 0; i < items.size(); ++i) by_search[items[i].search].push_back(i);
  double work = 0.0;
  for (const auto& item : items) {
    const double n = static_cast<double>(state_->searches[item.search].gradient->size());
    work += n * n * n / 6.0;
  }
  parallel_chunks(by_search.size(), 4, work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t b = begin; b < end; ++b)
      for (const std::size_t i : by_search[b])
        items[i].value = state_->searches[b].gradient->log_likelihood(items[i].y, items[i].noise);
  });
}

template <>
void BatchModels<Cpu>::step(std::span<Step> items) {
  state_->each(items,
               [](State::One& s, Step& item) { item.index = s.gradient->step(item.length); });
}

template <>
void BatchModels<Cpu>::nearest(std::span<Nearest> items) {
  state_->each(items, [](State::One& s, Nearest& item) {
    Doubles x(s.pool->dim(), 0.0);
    if (item.candidate >= 0) s.pool->row(static_cast<std::size_t>(item.candidate), x.data());
    item.found = s.pool->k_nearest(x.data(), item.k, item.available_only);
  });
}

template <>
void BatchModels<Cpu>::radius(std::span<Radius> items) {
  state_->each(items, [](State::One& s, Radius& item) {
    item.value = s.pool->radius(static_cast<std::size_t>(item.candidate), item.k);
  });
}

template <>
void BatchModels<Cpu>::take(std::size_t search, std::int64_t candidate) {
  state_->searches[search].pool->take(static_cast<std::size_t>(candidate));
}

template <>
void BatchModels<Cpu>::replace(std::size_t search, ModelInputs model) {
  state_->searches[search] = State::one(model);
}

template <>
double BatchModels<Cpu>::relative_uncertainty(std::size_t search,
                                              std::span<const std::int64_t> pending, double noise) {
  return state_->searches[search].gradient->relative_uncertainty(pending.data(), pending.size(),
                                                                 noise);
}

}  // namespace zopo
