// Precision of embeddings and arrays, and the check of their entries.
#pragma once

#include <cstddef>

namespace zopo {

enum class Precision { Half, Single, Double };

// Return the bytes of one entry.
constexpr std::size_t precision_bytes(Precision precision) {
  return precision == Precision::Half ? 2 : precision == Precision::Single ? 4 : 8;
}

// Return the index of the first entry that is NaN or infinite, or `size` when all are finite.
std::size_t first_non_finite(const void* data, Precision precision, std::size_t size);

}  // namespace zopo
