// Trust region around the best prompt (search/trust_region.hpp).
#include "search/trust_region.hpp"

#include <algorithm>

namespace zopo {
namespace {

constexpr std::size_t kMinRegion = 8;  // candidates

}  // namespace

bool TrustRegion::update(const Observations& seen, std::int64_t index,
                         const std::function<std::vector<std::int64_t>()>& inside) {
  if (center_ < 0 || seen.score_of(index) > seen.score_of(center_)) {
    center_ = index;
    failures_ = 0;
    size_ = std::min(2 * size_, max_size_);
    return true;
  }
  if (patience_ == 0 || ++failures_ < patience_) return false;
  failures_ = 0;
  size_ /= 2;
  if (size_ >= std::min(kMinRegion, max_size_)) return false;
  size_ = max_size_;
  for (const std::int64_t i : inside()) closed_.insert(i);
  const auto best_outside = [&] {
    std::int64_t best = -1;
    for (const std::int64_t i : seen.index)
      if (!closed_.contains(i) && (best < 0 || seen.score_of(i) > seen.score_of(best))) best = i;
    return best;
  };
  std::int64_t next = best_outside();
  if (next < 0) {  // every local optimum was searched: restart from the best one
    closed_.clear();
    next = best_outside();
  }
  const std::int64_t previous = center_;
  center_ = next;
  return center_ != previous;
}

}  // namespace zopo
