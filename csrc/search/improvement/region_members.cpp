// Members of the region of a larger pool (search/improvement/improvement_search.hpp).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "search/improvement/improvement_search.hpp"

namespace zopo {

// Project the candidates of a pool larger than a region that are not projected yet.
void ImprovementSearch::project() {
  if (!neighborhood_) neighborhood_.emplace(pool_->dim());
  neighborhood_->extend(pool_->size(), [this](std::size_t begin, std::size_t n, double* out) {
    std::vector<std::int64_t> index(n);
    std::iota(index.begin(), index.end(), static_cast<std::int64_t>(begin));
    coordinates(index.data(), n, out);
  });
}

// Return the distances of candidates from the center, in the coordinates of the kernel.
std::vector<double> ImprovementSearch::distances(const std::vector<std::int64_t>& index) const {
  const std::size_t d = pool_->dim();
  Doubles center(d), x(d);
  const std::int64_t at = trust_.center();
  coordinates(&at, 1, center.data());
  std::vector<double> out;
  for (const std::int64_t i : index) {
    coordinates(&i, 1, x.data());
    double sum = 0.0;
    for (std::size_t j = 0; j < d; ++j) sum += (x[j] - center[j]) * (x[j] - center[j]);
    out.push_back(std::sqrt(sum));
  }
  return out;
}

// Compute the unit vector along the gradient of the posterior mean at the center, under the first
// level and without the trends, whose gradient is unknown; return false where it is zero.
bool ImprovementSearch::direction(Doubles& out) const {
  if (all_equal(ledger_.seen().score)) return false;  // rounding would give a gradient
  const std::size_t d = pool_->dim();
  Doubles alpha(size_), X(size_ * d), x(d);
  model_->alpha(0, alpha.data());
  coordinates(ledger_.seen().index.data(), size_, X.data());
  const std::int64_t center = trust_.center();
  coordinates(&center, 1, x.data());
  out.assign(d, 0.0);
  const auto& [kernel, weights] = kernels_.front();
  for (std::size_t j = 0; j < weights.size(); ++j) {
    x[j] *= weights[j];
    for (std::size_t i = 0; i < size_; ++i) X[i * d + j] *= weights[j];
  }
  kernel.gradient_combination(x.data(), X.data(), size_, d, alpha.data(), out.data());
  for (std::size_t j = 0; j < weights.size(); ++j) out[j] *= weights[j];
  double square = 0.0;
  for (const double g : out) square += g * g;
  const double length = std::sqrt(square);
  if (!std::isfinite(length) || !(length > 0.0)) return false;
  for (double& g : out) g /= length;
  return true;
}

// Choose the free candidates nearest to the center, and to the center moved along the gradient.
void ImprovementSearch::choose() {
  const std::size_t size = settings_.region, d = pool_->dim();
  Doubles at(d), along;
  const std::int64_t center = trust_.center();
  coordinates(&center, 1, at.data());
  const bool shifts = settings_.step > 0.0 && direction(along);
  near_.clear();
  neighborhood_->nearest(at.data(), shifts ? size - size / 2 : size, ledger_, near_);
  if (!shifts) return;
  const double radius = near_.empty() ? 0.0 : distances({near_.back()})[0];
  for (std::size_t j = 0; j < d; ++j) at[j] += settings_.step * radius * along[j];
  neighborhood_->nearest(at.data(), size, ledger_, near_);
}

// Return the observed prompts inside the region; none for a whole pool, which restarts from its best.
std::vector<std::int64_t> ImprovementSearch::inside() const {
  std::vector<std::int64_t> found;
  if (is_whole_pool()) return found;
  double radius = 0.0;
  for (const double r : distances(near_)) radius = std::max(radius, r);
  const auto& seen = ledger_.seen().index;
  const std::vector<double> from_center = distances(seen);
  for (std::size_t k = 0; k < seen.size(); ++k)
    if (from_center[k] <= radius) found.push_back(seen[k]);
  return found;
}

// Choose the region around the present center, and admit up to `limit` of its candidates.
void ImprovementSearch::move(std::size_t limit) {
  moved_ = false;
  choose();
  incoming_.clear();
  for (auto i = near_.rbegin(); i != near_.rend(); ++i)
    if (column_of(*i) < 0) incoming_.push_back(*i);
  admit(limit);
}

// Let up to `limit` chosen candidates take the columns of free members that were not chosen.
void ImprovementSearch::admit(std::size_t limit) {
  std::erase_if(incoming_, [&](std::int64_t i) { return column_of(i) >= 0 || ledger_.taken(i); });
  if (incoming_.empty()) return;
  std::vector<bool> chosen(pool_->size());
  for (const std::int64_t i : near_) chosen[static_cast<std::size_t>(i)] = true;
  std::vector<std::size_t> columns;
  const std::size_t wanted = std::min(limit, incoming_.size());
  for (std::size_t c = 0; c < member_.size() && columns.size() < wanted; ++c)
    if (member_[c] < 0 ||
        (!ledger_.taken(member_[c]) && !chosen[static_cast<std::size_t>(member_[c])]))
      columns.push_back(c);
  if (columns.size() < wanted) {  // more observations than columns were kept for
    std::size_t column = member_.size();
    grow(wanted - columns.size());
    while (columns.size() < wanted) columns.push_back(column++);
  }
  std::vector<std::int64_t> entering;
  for (std::size_t k = 0; k < wanted; ++k) {
    entering.push_back(incoming_.back());
    incoming_.pop_back();
  }
  place(entering, columns);
}

void ImprovementSearch::place(std::span<const std::int64_t> index,
                              std::span<const std::size_t> columns) {
  if (index.empty()) return;
  const Doubles X = points(index);
  model_->replace(columns.data(), columns.size(), X.data());
  for (std::size_t k = 0; k < index.size(); ++k) {
    std::int64_t& member = member_[columns[k]];
    if (member >= 0) column_of_[static_cast<std::size_t>(member)] = -1;
    member = index[k];
    column_of_[static_cast<std::size_t>(member)] = static_cast<std::int32_t>(columns[k]);
  }
  if (sampler_) sampler_->forget_prior();
}

// Give an observed prompt outside the region a column: an empty one, or that of the farthest free
// member.
void ImprovementSearch::require_column(std::int64_t index) {
  if (column_of(index) >= 0) return;
  std::size_t column = 0;
  while (column < member_.size() && member_[column] >= 0) ++column;
  for (auto i = near_.rbegin(); column == member_.size() && i != near_.rend(); ++i)
    if (column_of(*i) >= 0 && !ledger_.taken(*i)) column = static_cast<std::size_t>(column_of(*i));
  for (std::size_t c = 0; column == member_.size() && c < member_.size(); ++c)
    if (!ledger_.taken(member_[c])) column = c;
  if (column == member_.size()) grow(1);  // every column is observed or pending
  const std::size_t at[] = {column};
  const std::int64_t entering[] = {index};
  place(entering, at);
  exclude(index);
}

// Add at least `count` empty columns, by half of what there is, so that the cost per prompt stays
// constant.
void ImprovementSearch::grow(std::size_t count) {
  const std::size_t before = member_.size();
  const std::size_t columns = before + std::max(count, before / 2);
  member_.resize(columns, -1);
  model_->extend(points(member_).data(), columns);
  for (std::size_t c = before; c < columns; ++c) model_->exclude(c);
  if (sampler_) sampler_->forget_prior();
}

}  // namespace zopo
