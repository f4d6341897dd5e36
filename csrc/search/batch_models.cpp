#include "search/batch_models.hpp"
#include "base/error.hpp"
#include "base/parallel.hpp"
#include "search/local_gradient.hpp"

namespace zopo {

template <>
struct StudyModels<Cpu>::State {
  struct One {
    std::unique_ptr<Pool<Cpu>> pool;
    std::unique_ptr<LocalGradient<Cpu>> gradient;
  };
  std::vector<One> studies;

  // Threads split the studies; within one of them an operation is not split again.
  template <class Item, class Body>
  void each(std::span<Item> items, Body&& body) {
    double work = 0.0;
    for (const auto& item : items) {
      const One& s = studies[item.study];
      const double n = static_cast<double>(s.gradient->size());
      work += n * n + (n + 32.0) * static_cast<double>(s.pool->dim());
    }
    parallel_chunks(items.size(), 4, work, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) body(studies[items[i].study], items[i]);
    });
  }
};

template <>
StudyModels<Cpu>::StudyModels(std::vector<StudyModel> models, int)
    : state_(std::make_unique<State>()) {
  for (auto& model : models) {
    auto& s = state_->studies.emplace_back();
    s.pool = std::make_unique<Pool<Cpu>>(model.data, model.precision, model.m, model.d,
                                         std::move(model.mean), std::move(model.inverse_scale));
    s.gradient = std::make_unique<LocalGradient<Cpu>>(model.net, *s.pool, model.capacity);
  }
}
template <>
StudyModels<Cpu>::~StudyModels() = default;
template <>
StudyModels<Cpu>::StudyModels(StudyModels&&) noexcept = default;

template <>
void StudyModels<Cpu>::append(std::span<Append> items) {
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
void StudyModels<Cpu>::center(std::span<const Center> items) {
  state_->each(items, [](State::One& s, const Center& item) {
    s.gradient->center(static_cast<std::size_t>(item.candidate));
  });
}

template <>
void StudyModels<Cpu>::refit(std::span<Refit> items) {
  state_->each(items, [](State::One& s, Refit& item) {
    try {
      s.gradient->refit(item.y, item.noise, s.gradient->size());
    } catch (const NotPositiveDefiniteError&) {
    }
    item.left = s.gradient->size();
  });
}

template <>
void StudyModels<Cpu>::log_likelihood(std::span<Likelihood> items) {
  // One study may be asked for several noises, and its scratch is its own: one thread a study.
  std::vector<std::vector<std::size_t>> by_study(state_->studies.size());
  for (std::size_t i = 0; i < items.size(); ++i) by_study[items[i].study].push_back(i);
  double work = 0.0;
  for (const auto& item : items) {
    const double n = static_cast<double>(state_->studies[item.study].gradient->size());
    work += n * n * n / 6.0;
  }
  parallel_chunks(by_study.size(), 4, work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t b = begin; b < end; ++b)
      for (const std::size_t i : by_study[b])
        items[i].value = state_->studies[b].gradient->log_likelihood(items[i].y, items[i].noise);
  });
}

template <>
void StudyModels<Cpu>::step(std::span<Step> items) {
  state_->each(items,
               [](State::One& s, Step& item) { item.index = s.gradient->step(item.length); });
}

template <>
void StudyModels<Cpu>::nearest(std::span<Nearest> items) {
  state_->each(items, [](State::One& s, Nearest& item) {
    Doubles x(s.pool->dim());
    s.pool->row(static_cast<std::size_t>(item.candidate), x.data());
    item.found = s.pool->k_nearest(x.data(), item.k, item.available_only);
  });
}

template <>
void StudyModels<Cpu>::take(std::size_t study, std::int64_t candidate) {
  state_->studies[study].pool->take(static_cast<std::size_t>(candidate));
}

template <>
double StudyModels<Cpu>::relative_uncertainty(std::size_t study) const {
  return state_->studies[study].gradient->relative_uncertainty(nullptr, 0, 0.0);
}

}  // namespace zopo
