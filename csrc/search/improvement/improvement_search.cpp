// State machine of the default search (search/improvement/improvement_search.hpp).
#include "search/improvement/improvement_search.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace zopo {
namespace {

// Columns times observations that enter a region in one call: about as much work as a step.
constexpr std::size_t kAdmittedWork = 8192, kMinAdmitted = 32;
// Change of a noise by new units, as a share of noise and nugget, that the model does not follow: the
// variance of a score is hardly ever known that well, and a revision costs as much as a step.
constexpr double kNoiseTolerance = 0.1;
constexpr std::size_t kNoLimit = static_cast<std::size_t>(-1);

}  // namespace

ImprovementSearch::ImprovementSearch(std::unique_ptr<Pool<Cpu>> pool, WeightedKernels kernels,
                                     ImprovementSettings settings,
                                     std::vector<std::int64_t> initial, const Ledger& ledger)
    : pool_(std::move(pool)),
      kernels_(std::move(kernels)),
      settings_(std::move(settings)),
      ledger_(ledger),
      transform_(settings_.emphasis),
      trust_(std::min(settings_.region, pool_->size()), settings_.patience),
      queue_(std::move(initial)),
      best_exact_(kNotStated),
      column_of_(pool_->size(), -1) {
  noises_.reserve(settings_.capacity);
  values_.reserve(settings_.capacity);
  is_revised_.reserve(settings_.capacity);
  pending_.reserve(16);
  build();  // now, so that no step is slow
}

double ImprovementSearch::work() const {
  const auto columns = static_cast<double>(std::min(pool_->size(), settings_.region));
  const auto levels = static_cast<double>(settings_.nuggets.size() * kernels_.size());
  return columns * levels * (static_cast<double>(size_) + 20.0);
}

// ---- proposals ----------------------------------------------------------------------------------

std::int64_t ImprovementSearch::propose() {
  while (queue_at_ < queue_.size()) {
    const std::int64_t index = queue_[queue_at_++];
    if (!ledger_.taken(index)) return index;
  }
  return next();
}

std::int64_t ImprovementSearch::next() {
  if (ledger_.seen().size() == 0) {  // all initial scores are pending
    Doubles point(pool_->dim(), 0.0);
    if (!ledger_.pending().empty())
      pool_->row(static_cast<std::size_t>(ledger_.pending().front()), point.data());
    designing_ = false;
    return pool_->nearest(point.data());
  }
  if (designing_ || !tracking_) {
    designing_ = false;
    refresh_at_ = 0;
  }
  sync();
  for (;;) {
    std::int64_t column = -1;
    if (settings_.thompson) {
      column = sample();
    } else {
      pending_.clear();
      for (const std::int64_t i : ledger_.pending())
        if (!ledger_.seen().contains(i)) {
          require_column(i);
          pending_.push_back(column_of(i));
        }
      const std::int32_t center = column_of(trust_.center());
      column = model_->propose(pending_.data(), pending_.size(),
                               transform_.value(incumbent_score()), settings_.power,
                               static_cast<std::size_t>(std::max(center, 0)), trust_.size());
    }
    if (column >= 0) return member_[static_cast<std::size_t>(column)];
    move(kNoLimit);  // every member is taken: choose another region
  }
}

// Return the column of the best free member in a posterior sample (Thompson 1933); -1 for none.
std::int64_t ImprovementSearch::sample() {
  const Observations& seen = ledger_.seen();
  values_.resize(seen.size());
  for (std::size_t k = 0; k < seen.size(); ++k) values_[k] = transform_.value(seen.score[k]);
  const Doubles& f = sampler_->sample(*model_, settings_.nuggets, values_, noises_);
  std::int64_t best = -1;
  for (std::size_t c = 0; c < member_.size(); ++c)
    if (member_[c] >= 0 && !ledger_.taken(member_[c]) &&
        (best < 0 || f[c] > f[static_cast<std::size_t>(best)]))
      best = static_cast<std::int64_t>(c);
  return best;
}

// ---- changes ------------------------------------------------------------------------------------

void ImprovementSearch::on_ask(std::int64_t index) {
  pool_->take(static_cast<std::size_t>(index));
  exclude(index);
}

void ImprovementSearch::on_tell(std::int64_t index, bool final, bool replaced) {
  const Observations& seen = ledger_.seen();
  const auto k = static_cast<std::size_t>(seen.at(index));
  pool_->take(static_cast<std::size_t>(index));
  if (final && !(seen.noise[k] > 0.0)) best_exact_ = std::fmax(best_exact_, seen.score[k]);
  if (replaced && k < size_) is_revised_[k] = has_revised_ = true;
  exclude(index);
  if (designing_ && queue_at_ == queue_.size() && ledger_.pending().empty()) {
    designing_ = false;
    refresh_at_ = 0;
  } else if (final && tracking_) {
    moved_ |= trust_.update(seen, index, [this] { return inside(); });
  }
  sync();
}

void ImprovementSearch::learn(Doubles trend, std::size_t trends,
                              std::vector<std::int64_t> initial) {
  trend_ = std::move(trend);
  trends_ = trends;
  queue_ = std::move(initial);
  queue_at_ = 0;
  std::fill(column_of_.begin(), column_of_.end(), -1);
  build();
}

void ImprovementSearch::on_add(std::unique_ptr<Pool<Cpu>> pool, Doubles trend) {
  const bool was_whole_pool = is_whole_pool();
  pool_ = std::move(pool);
  trend_ = std::move(trend);
  const std::size_t m = pool_->size();
  for (std::size_t i = 0; i < m; ++i)
    if (ledger_.taken(static_cast<std::int64_t>(i))) pool_->take(i);
  column_of_.resize(m, -1);
  trust_.resize(std::min(settings_.region, m));
  refresh_at_ = 0;
  if (is_whole_pool() && trends_ == 0) {
    std::vector<std::int64_t> all(m);
    for (std::size_t i = 0; i < m; ++i) all[i] = column_of_[i] = static_cast<std::int32_t>(i);
    const Doubles X = points(all);
    model_->extend(X.data(), m);
    member_ = std::move(all);
    if (sampler_) sampler_->forget_prior();
  } else if (was_whole_pool || trends_ > 0) {  // trends of the present candidates change too
    std::fill(column_of_.begin(), column_of_.end(), -1);
    model_.reset();
  } else {
    project();
    moved_ = true;
  }
}

void ImprovementSearch::exclude(std::int64_t index) {
  if (model_ && column_of(index) >= 0) model_->exclude(static_cast<std::size_t>(column_of(index)));
}

// ---- the model ----------------------------------------------------------------------------------

// Build an empty model, of the whole pool or of a region without members.
void ImprovementSearch::build() {
  size_ = refresh_at_ = 0;
  has_revised_ = false;
  is_revised_.clear();
  noises_.clear();
  const std::size_t m = pool_->size();
  const std::size_t columns =
      is_whole_pool() ? m : std::min(m, settings_.region + settings_.capacity);
  member_.assign(columns, -1);
  for (std::size_t i = 0; is_whole_pool() && i < m; ++i)
    member_[i] = column_of_[i] = static_cast<std::int32_t>(i);
  const Doubles X = points(member_);
  std::vector<KernelRows> rows;
  for (const WeightedKernel& each : kernels_)
    rows.emplace_back(each.kernel, X.data(), columns, pool_->dim(), !is_whole_pool(), trends_,
                      each.weights);
  model_ =
      std::make_unique<RegionPosterior>(std::move(rows), settings_.nuggets, settings_.capacity);
  for (std::size_t c = 0; c < columns; ++c)
    if (member_[c] < 0 || ledger_.taken(member_[c])) model_->exclude(c);
  if (sampler_)
    sampler_->forget_prior();
  else if (settings_.thompson)
    sampler_.emplace(settings_.seed);
  near_.clear();
  incoming_.clear();
  moved_ = true;
  if (!is_whole_pool()) project();
}

void ImprovementSearch::coordinates(const std::int64_t* index, std::size_t n, double* out) const {
  pool_->rows(index, n, out);
  const std::size_t d = pool_->dim();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < d; ++j) out[i * d + j] *= settings_.factor[j];
}

// Return coordinates and trends of candidates, (n, d + trends); zeros for -1.
Doubles ImprovementSearch::points(std::span<const std::int64_t> index) const {
  const std::size_t d = pool_->dim(), width = d + trends_;
  Doubles X(index.size() * width, 0.0);
  for (std::size_t i = 0; i < index.size(); ++i) {
    if (index[i] < 0) continue;
    double* point = X.data() + i * width;
    coordinates(&index[i], 1, point);
    std::copy_n(trend_.data() + static_cast<std::size_t>(index[i]) * trends_, trends_, point + d);
  }
  return X;
}

// Update the model with new observations and with changed ones, and the region with its center.
void ImprovementSearch::sync() {
  if (!model_) build();
  const Observations& seen = ledger_.seen();
  const std::size_t n = seen.size();
  if (n >= refresh_at_) refresh();
  for (std::size_t k = 0; has_revised_ && k < size_; ++k)
    if (is_revised_[k]) revise(k);
  has_revised_ = false;
  for (; size_ < n; ++size_) {
    require_column(seen.index[size_]);
    const double share = noise(size_);
    model_->append(static_cast<std::size_t>(column_of(seen.index[size_])),
                   transform_.value(seen.score[size_]), share);
    noises_.push_back(share);
    is_revised_.push_back(false);
  }
  const std::int64_t best = seen.index[seen.best_position()];
  if (designing_) {  // choose the region already, so that the first proposal finds it filled
    moved_ |= trust_.center() != best;
    trust_.set_center(best);
  } else if (!tracking_) {
    tracking_ = moved_ = true;  // all initial scores may give another gradient
    trust_.set_center(best);
  }
  if (is_whole_pool()) return;
  // A sample needs the prior covariance of all members, which a gradual change would make anew at
  // every call.
  if (settings_.thompson && designing_) return;
  const std::size_t limit =
      settings_.thompson ? kNoLimit : std::max(kMinAdmitted, kAdmittedWork / (n + 16));
  if (moved_)
    move(limit);
  else
    admit(limit);
}

// Update the units of the scores; rare, once per eighth of growth, so that no step costs much.
void ImprovementSearch::refresh() {
  const Observations& seen = ledger_.seen();
  const std::size_t n = seen.size();
  refresh_at_ = n + std::max<std::size_t>(1, n / 8);
  transform_.fit(seen.score, values_);
  model_->rescore(values_.data(), size_);
  const double nugget = *std::min_element(settings_.nuggets.begin(), settings_.nuggets.end());
  for (std::size_t k = 0; k < size_; ++k)
    if (std::abs(noise(k) - noises_[k]) > kNoiseTolerance * (noises_[k] + nugget))
      is_revised_[k] = has_revised_ = true;
}

void ImprovementSearch::revise(std::size_t k) {
  noises_[k] = noise(k);
  is_revised_[k] = false;
  model_->revise(k, transform_.value(ledger_.seen().score[k]), noises_[k]);
}

// Return the noise of observation k besides the nugget, as a share of the signal variance.
double ImprovementSearch::noise(std::size_t k) const {
  return transform_.noise(ledger_.seen().score[k], ledger_.seen().noise[k]);
}

}  // namespace zopo
