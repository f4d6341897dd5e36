// Number of candidates to consider around a center, the best prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <unordered_set>
#include <vector>

#include "search/ledger.hpp"

namespace zopo {

// The size doubles when a better prompt is found, and halves after `patience` scores without
// improvement. A region that would shrink below kMinRegion is abandoned, and the best prompt outside
// all abandoned regions becomes the center.
class TrustRegion {
 public:
  // patience 0 never halves the size.
  TrustRegion(std::size_t max_size, std::size_t patience)
      : size_(max_size), max_size_(max_size), patience_(patience) {}

  std::size_t size() const { return size_; }
  std::int64_t center() const { return center_; }  // -1 before the first score
  void set_center(std::int64_t center) { center_ = center; }
  // Set the largest size and the size.
  void resize(std::size_t max_size) { size_ = max_size_ = max_size; }
  // Process the new score of a prompt; return true if the center moves. `inside` returns the
  // observed prompts inside the region.
  bool update(const Observations& seen, std::int64_t index,
              const std::function<std::vector<std::int64_t>()>& inside);

 private:
  std::size_t size_, max_size_, patience_, failures_ = 0;
  std::int64_t center_ = -1;
  std::unordered_set<std::int64_t> closed_;  // observed prompts inside abandoned regions
};

}  // namespace zopo
