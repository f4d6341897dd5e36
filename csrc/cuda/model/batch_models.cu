// Models of the batch search on a device: an operation on any number of searches is one launch, a
// block for each search. The CPU twin is model/batch_models.cpp; model/batch_models.hpp says what
// the operations do, model/local_gradient.hpp how.
//
//   kernel            effect
//   batch_append      add an observation: features, row of K, row of C^-1, A^-1 += l l^T, and the
//                     part of the gradient's variance at the center that the row explains
//   batch_center      linearise the network at a new center and recompute its terms from all
//                     observations
//   batch_step        compute the gradient at the center and find the nearest free candidate in its
//                     direction
//   batch_nearest     find the k nearest candidates of a candidate
//   batch_refit       recompute C^-1 from K for other noises
//   batch_likelihood  factorise K + noise I, a block for each noise
//
// Each kernel has a single version. Traffic of a step with n = 128, d = 384, w = 32, depth 2 and
// 500 float16 candidates: append reads C^-1 twice, A^-1 and X X^T once (66 KB each), writes A^-1
// (66), and reads 128 rows of the pool (98), W_0 (98), features and P, Q (200). The step reads C^-1
// (66), P (33), 128 rows (98), W_0 (98) and the pool (384). That is about 1.4 MB a search, of which
// the weights and repeated rows often come from L2; at 4.8 TB/s it is 3.4 million searches a
// second.
//
// The scan is in float64 from the start (three operations an entry), so one pass is exact. Its
// distances differ from the CPU engine's by rounding alone, and are equal for equal rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "base/error.hpp"
#include "cuda/model/kernels.cuh"
#include "cuda/runtime/device.hpp"
#include "model/batch_models.hpp"

namespace zopo {

template <>
struct BatchModels<Cuda>::State {
  struct One {
    std::shared_ptr<const Network> net;
    std::shared_ptr<const CudaNetwork> weights;
    SearchView view{};
    std::size_t n = 0, capacity = 0;
    Buffer<double> fixed, growing;  // arrays of constant size; arrays that grow with observations
    Buffer<std::int64_t> index;
    Buffer<unsigned> taken;
    // Bits of `taken` on the host, and the candidates whose bit no append has set on the device yet.
    std::vector<unsigned> marks;
    std::vector<std::int64_t> unmarked;
    double explained = 0.0, prior = 0.0;
  };

  explicit State(int ordinal_) : ordinal(ordinal_) {
    const DeviceGuard guard(ordinal);
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~State() {
    try {
      const DeviceGuard guard(ordinal);
      searches.clear();
      for (auto* buffer : {&work, &scores}) *buffer = {};
      views = {};
      states = {};
      device_items = {};
      pools.clear();
      (void)cudaStreamDestroy(stream);
    } catch (...) {  // the context is lost, and its memory is freed already
    }
  }

  int ordinal;
  cudaStream_t stream = nullptr;
  std::vector<One> searches;
  // Pools on the device, by host address and size: searches may share an array or use parts of it.
  std::map<std::pair<const void*, std::size_t>, Buffer<unsigned char>> pools;
  Buffer<SearchView> views;
  Buffer<SearchState> states;
  Buffer<double> work, scores;
  Mailbox<unsigned char> items;  // staging buffer of the items, in both directions
  Buffer<unsigned char> device_items;
  Mailbox<Neighbor> neighbors;
  std::size_t shared = 0, shared_center = 0;

  One make(ModelInputs& model, std::size_t search);
  void grow(One& s, std::size_t capacity);
  void upload(std::size_t search);
  void mark(std::size_t search);

  // Run a kernel with a block for each item. `arguments(device_items)` returns the kernel's
  // arguments as a tuple. Changes of the items are visible afterwards.
  template <class Item, class Kernel, class Arguments>
  void run(const char* name, Kernel kernel, std::vector<Item>& batch, int threads,
           std::size_t bytes, Arguments&& arguments) {
    if (batch.empty()) return;
    const std::size_t size = batch.size() * sizeof(Item);
    items.need(size);
    device_items.need(size, stream);
    std::memcpy(items.data(), batch.data(), size);
    copy(device_items.data(), items.data(), size, stream);
    const Launch how{dim3(static_cast<unsigned>(batch.size())),
                     dim3(static_cast<unsigned>(threads)), bytes, stream};
    std::apply([&](auto... given) { launch(name, kernel, how, given...); },
               arguments(reinterpret_cast<Item*>(device_items.data())));
    copy(items.data(), device_items.data(), size, stream);
    synchronize(stream);
    std::memcpy(batch.data(), items.data(), size);
  }
};

namespace {

// Assigns positions in one array: first counts, then hands out pointers.
struct Layout {
  double* base = nullptr;
  std::size_t size = 0;
  void take(double*& p, std::size_t count) {
    if (base) p = base + size;
    size += (count + 1) / 2 * 2;
  }
};

void lay_out_growing(SearchView& v, std::size_t capacity, Layout& at) {
  const auto hidden = static_cast<std::size_t>(v.net.hidden),
             w = static_cast<std::size_t>(v.net.width[1]);
  const auto triangle =
      static_cast<std::size_t>(row_of_triangle(static_cast<std::int64_t>(capacity)));
  for (double** p : {&v.K, &v.inverse, &v.A, &v.M}) at.take(*p, triangle);
  for (double** p : {&v.h, &v.D}) at.take(*p, capacity * hidden);
  for (double** p : {&v.S, &v.P, &v.Q}) at.take(*p, capacity * w);
  for (double** p : {&v.y, &v.noise, &v.z_y, &v.z_1, &v.c, &v.k, &v.u, &v.v}) at.take(*p, capacity);
  at.take(v.T, 2 * capacity * w);
}

}  // namespace

BatchModels<Cuda>::State::One BatchModels<Cuda>::State::make(ModelInputs& model,
                                                             std::size_t search) {
  One s;
  s.net = model.net;
  s.weights = cuda_network(*model.net);
  SearchView& v = s.view;
  v.net = s.weights->view;
  v.precision = model.precision;
  v.m = static_cast<std::int64_t>(model.m);
  v.d = static_cast<int>(model.d);
  const std::size_t bytes = model.m * model.d * precision_bytes(model.precision);
  auto [pool, fresh] = pools.try_emplace({model.data, bytes});
  if (fresh) {
    pool->second = Buffer<unsigned char>(bytes, stream);
    copy(pool->second.data(), model.data, bytes, stream);
  }
  v.Z = pool->second.data();
  v.aligned = model.d * precision_bytes(model.precision) % 16 == 0;
  const auto hidden = static_cast<std::size_t>(v.net.hidden);
  std::size_t products = 0;
  for (int l = 2; l <= v.net.layers; ++l)
    products += static_cast<std::size_t>(v.net.width[l]) * static_cast<std::size_t>(v.net.width[1]);
  double *mean = nullptr, *inverse_scale = nullptr;
  const auto lay_out = [&](Layout& at) {
    at.take(mean, model.d);
    at.take(inverse_scale, model.d);
    at.take(v.cx, model.d);
    at.take(v.ch, hidden);
    at.take(v.cD, hidden);
    at.take(v.B, products);
    at.take(v.distance, model.m);
  };
  Layout size;
  lay_out(size);
  s.fixed = Buffer<double>(size.size, stream);
  Layout at{s.fixed.data()};
  lay_out(at);
  copy(mean, model.mean.data(), model.d * sizeof(double), stream);
  copy(inverse_scale, model.inverse_scale.data(), model.d * sizeof(double), stream);
  v.mean = mean;
  v.inverse_scale = inverse_scale;
  const std::size_t words = (model.m + 31) / 32;
  s.taken = Buffer<unsigned>(words, stream);
  check(cudaMemsetAsync(s.taken.data(), 0, words * sizeof(unsigned), stream), "cudaMemsetAsync");
  v.taken = s.taken.data();
  s.marks.assign(words, 0);
  grow(s, std::max<std::size_t>(model.capacity, 8));
  const auto need = [&](int threads) {
    return shared_doubles(v.d, v.net.hidden, v.net.width[1], threads) * sizeof(double);
  };
  shared = std::max(shared, need(kThreads));
  shared_center = std::max(shared_center, need(kCenterThreads));
  const auto limit = static_cast<std::size_t>(device_limits().shared_per_block);
  if (shared_center > limit)
    throw ConfigError("study " + std::to_string(search) + ": dimension " + std::to_string(model.d) +
                      " with " + std::to_string(hidden) + " hidden units needs " +
                      std::to_string(shared_center) + " bytes of shared memory, the device has " +
                      std::to_string(limit) + "; use device='cpu'");
  return s;
}

// Copy the view of a search to the device.
void BatchModels<Cuda>::State::upload(std::size_t search) {
  copy(views.data() + search, &searches[search].view, sizeof(SearchView), stream);
}

// Set the bits of taken candidates that were not appended: they are pending, or were discarded.
void BatchModels<Cuda>::State::mark(std::size_t search) {
  One& s = searches[search];
  for (const std::int64_t candidate : s.unmarked) {
    const auto word = static_cast<std::size_t>(candidate) / 32;
    copy(s.taken.data() + word, &s.marks[word], sizeof(unsigned), stream);
  }
  s.unmarked.clear();
}

// Make room for more observations and move those there are. The caller uploads the view.
void BatchModels<Cuda>::State::grow(One& s, std::size_t capacity) {
  SearchView after = s.view;
  Layout size;
  lay_out_growing(after, capacity, size);
  Buffer<double> room(size.size, stream);
  Layout at{room.data()};
  lay_out_growing(after, capacity, at);
  Buffer<std::int64_t> index(capacity, stream);
  const SearchView& before = s.view;
  const auto hidden = static_cast<std::size_t>(after.net.hidden),
             w = static_cast<std::size_t>(after.net.width[1]), n = s.n;
  const auto keep = [&](double* to, const double* from, std::size_t count) {
    copy(to, from, count * sizeof(double), stream);
  };
  const auto triangle = static_cast<std::size_t>(row_of_triangle(static_cast<std::int64_t>(n)));
  keep(after.K, before.K, triangle);
  keep(after.inverse, before.inverse, triangle);
  keep(after.A, before.A, triangle);
  keep(after.M, before.M, triangle);
  keep(after.h, before.h, n * hidden);
  keep(after.D, before.D, n * hidden);
  keep(after.S, before.S, n * w);
  keep(after.P, before.P, n * w);
  keep(after.Q, before.Q, n * w);
  keep(after.y, before.y, n);
  keep(after.noise, before.noise, n);
  keep(after.z_y, before.z_y, n);
  keep(after.z_1, before.z_1, n);
  keep(after.c, before.c, n);
  copy(index.data(), before.index, n * sizeof(std::int64_t), stream);
  after.index = index.data();
  s.growing = std::move(room);
  s.index = std::move(index);
  s.view = after;
  s.capacity = capacity;
}

template <>
BatchModels<Cuda>::BatchModels(std::vector<ModelInputs> models, int ordinal) {
  require_cuda(ordinal);
  state_ = std::make_unique<State>(ordinal);
  const DeviceGuard guard(ordinal);
  auto& state = *state_;
  state.searches.reserve(models.size());
  for (auto& model : models) state.searches.push_back(state.make(model, state.searches.size()));
  std::vector<SearchView> views;
  for (const auto& s : state.searches) views.push_back(s.view);
  state.views = Buffer<SearchView>(views.size(), state.stream);
  copy(state.views.data(), views.data(), views.size() * sizeof(SearchView), state.stream);
  const std::vector<SearchState> fresh(models.size(), SearchState{-1, 0, 0.0, 0.0});
  state.states = Buffer<SearchState>(fresh.size(), state.stream);
  copy(state.states.data(), fresh.data(), fresh.size() * sizeof(SearchState), state.stream);
  synchronize(state.stream);
}
template <>
BatchModels<Cuda>::~BatchModels() = default;
template <>
BatchModels<Cuda>::BatchModels(BatchModels&&) noexcept = default;

template <>
void BatchModels<Cuda>::append(std::span<Append> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<AppendItem> batch;
  for (const auto& item : items) {
    auto& s = state.searches[item.search];
    if (s.n == s.capacity) {
      state.grow(s, s.capacity + s.capacity / 2);
      state.upload(item.search);
    }
    batch.push_back(
        {static_cast<std::int64_t>(item.search), item.candidate, item.y, item.noise, 0.0, false});
  }
  state.run("batch_append", batch_append, batch, kThreads, state.shared,
            [&](AppendItem* p) { return std::tuple(state.views.data(), state.states.data(), p); });
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto& s = state.searches[items[i].search];
    items[i].done = batch[i].done;
    if (!batch[i].done) continue;
    ++s.n;
    std::erase(s.unmarked, items[i].candidate);
    s.explained = batch[i].explained;
  }
}

template <>
void BatchModels<Cuda>::center(std::span<const Center> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<CenterItem> batch;
  for (const auto& item : items)
    batch.push_back({static_cast<std::int64_t>(item.search), item.candidate, 0.0, 0.0});
  state.run("batch_center", batch_center, batch, kCenterThreads, state.shared_center,
            [&](CenterItem* p) { return std::tuple(state.views.data(), state.states.data(), p); });
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto& s = state.searches[items[i].search];
    s.explained = batch[i].explained;
    s.prior = batch[i].prior;
  }
}

template <>
void BatchModels<Cuda>::refit(std::span<Refit> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<RefitItem> batch;
  std::vector<double> numbers;
  std::size_t count = 0;
  for (const auto& item : items) {
    batch.push_back({static_cast<std::int64_t>(item.search), static_cast<std::int64_t>(count), 0});
    count += state.searches[item.search].n;
  }
  for (const double* Refit::* which : {&Refit::y, &Refit::noise})
    for (const auto& item : items)
      numbers.insert(numbers.end(), item.*which, item.*which + state.searches[item.search].n);
  state.scores.need(numbers.size(), state.stream);
  copy(state.scores.data(), numbers.data(), numbers.size() * sizeof(double), state.stream);
  const double* ys = state.scores.data();
  state.run("batch_refit", batch_refit, batch, kThreads, state.shared, [&](RefitItem* p) {
    return std::tuple(state.views.data(), state.states.data(), p, ys, ys + count);
  });
  for (std::size_t i = 0; i < items.size(); ++i)
    state.searches[items[i].search].n = items[i].left = static_cast<std::size_t>(batch[i].left);
}

template <>
void BatchModels<Cuda>::log_likelihood(std::span<Likelihood> items) {
  constexpr std::size_t kMaxScratch = std::size_t{1} << 26;  // numbers: half a gigabyte
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  for (std::size_t begin = 0; begin < items.size();) {
    std::vector<LikelihoodItem> batch;
    std::vector<double> numbers;
    std::size_t scratch = 0, end = begin;
    for (; end < items.size(); ++end) {
      const auto& item = items[end];
      const std::size_t n = state.searches[item.search].n;
      const std::size_t room = n * (n + 1) / 2 + n;
      if (end > begin && scratch + room > kMaxScratch) break;
      batch.push_back({static_cast<std::int64_t>(item.search),
                       static_cast<std::int64_t>(numbers.size()),
                       static_cast<std::int64_t>(scratch), item.noise, 0.0});
      numbers.insert(numbers.end(), item.y, item.y + n);
      scratch += room;
    }
    state.work.need(scratch, state.stream);
    state.scores.need(numbers.size(), state.stream);
    copy(state.scores.data(), numbers.data(), numbers.size() * sizeof(double), state.stream);
    state.run("batch_likelihood", batch_likelihood, batch, kThreads, 0, [&](LikelihoodItem* p) {
      return std::tuple(state.views.data(), state.states.data(), p, state.scores.data(),
                        state.work.data());
    });
    for (std::size_t i = begin; i < end; ++i) items[i].value = batch[i - begin].value;
    begin = end;
  }
}

template <>
void BatchModels<Cuda>::step(std::span<Step> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<StepItem> batch;
  for (const auto& item : items) state.mark(item.search);
  for (const auto& item : items)
    batch.push_back({static_cast<std::int64_t>(item.search), item.length, -1});
  state.run("batch_step", batch_step, batch, kThreads, state.shared,
            [&](StepItem* p) { return std::tuple(state.views.data(), state.states.data(), p); });
  for (std::size_t i = 0; i < items.size(); ++i) items[i].index = batch[i].index;
}

template <>
void BatchModels<Cuda>::nearest(std::span<Nearest> items) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  std::vector<NearestItem> batch;
  std::size_t results = 0;
  for (const auto& item : items) {
    state.mark(item.search);
    const auto k = std::min(item.k, static_cast<std::size_t>(state.searches[item.search].view.m));
    batch.push_back({static_cast<std::int64_t>(item.search), item.candidate,
                     static_cast<std::int64_t>(k), static_cast<std::int64_t>(results),
                     item.available_only, 0});
    results += k;
  }
  state.neighbors.need(results);
  state.run("batch_nearest", batch_nearest, batch, kThreads, state.shared, [&](NearestItem* p) {
    return std::tuple(state.views.data(), p, state.neighbors.data());
  });
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Neighbor* from = state.neighbors.data() + batch[i].at;
    items[i].found.assign(from, from + batch[i].found);
  }
}

template <>
void BatchModels<Cuda>::radius(std::span<Radius> items) {
  std::vector<Nearest> around;
  for (const auto& item : items)
    around.push_back({item.search, item.candidate, item.k + 1, false, {}});  // itself included
  nearest(around);
  for (std::size_t i = 0; i < items.size(); ++i)
    items[i].value = std::sqrt(around[i].found.back().distance);
}

template <>
void BatchModels<Cuda>::take(std::size_t search, std::int64_t candidate) {
  auto& s = state_->searches[search];
  unsigned& word = s.marks[static_cast<std::size_t>(candidate) / 32];
  const unsigned bit = 1u << (static_cast<unsigned>(candidate) % 32);
  if (!(word & bit)) s.unmarked.push_back(candidate);
  word |= bit;
}

template <>
void BatchModels<Cuda>::replace(std::size_t search, ModelInputs model) {
  auto& state = *state_;
  const DeviceGuard guard(state.ordinal);
  state.searches[search] = state.make(model, search);
  state.upload(search);
  const SearchState fresh{-1, 0, 0.0, 0.0};
  copy(state.states.data() + search, &fresh, sizeof(SearchState), state.stream);
  synchronize(state.stream);
}

template <>
double BatchModels<Cuda>::relative_uncertainty(std::size_t search, std::span<const std::int64_t>,
                                               double) {
  const auto& s = state_->searches[search];
  return s.prior > 0.0 ? std::max(0.0, 1.0 - s.explained / s.prior) : 0.0;
}

}  // namespace zopo
