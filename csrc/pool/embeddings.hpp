// Access to embeddings of any precision, for the sources of the CPU pool.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/precision.hpp"
#include "simd/simd.hpp"

namespace zopo {

struct Half {
  std::uint16_t bits;
};

// Widen exactly: the exponent is rebased by a multiplication. A pool holds no infinities.
inline double widened(Half h) {
  const float magnitude =
      std::bit_cast<float>(static_cast<std::uint32_t>(h.bits & 0x7fff) << 13) * 0x1p112f;
  return h.bits & 0x8000 ? -magnitude : magnitude;
}
inline double widened(float v) { return v; }
inline double widened(double v) { return v; }

// Call f with `data` as a pointer to its element type.
template <class F>
decltype(auto) typed(const void* data, Precision precision, F&& f) {
  switch (precision) {
    case Precision::Half:
      return f(static_cast<const Half*>(data));
    case Precision::Single:
      return f(static_cast<const float*>(data));
    default:
      return f(static_cast<const double*>(data));
  }
}

// Widen the entries [from, from + count) to float64, exactly.
inline void widen(const void* data, Precision precision, std::size_t from, std::size_t count,
                  double* out) {
  if (precision == Precision::Half)
    return simd().widen_f16(static_cast<const std::uint16_t*>(data) + from, count, out);
  typed(data, precision, [&](const auto* Z) {
    for (std::size_t j = 0; j < count; ++j) out[j] = widened(Z[from + j]);
  });
}

}  // namespace zopo
