#include "base/precision.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace zopo {
namespace {

// An entry is NaN or infinite when all bits of its exponent are set. Adding one to the exponent
// then carries into the sign bit, so that a block is tested without a branch.
template <class Bits>
std::size_t first_non_finite(const void* data, std::size_t size, Bits exponent) {
  const auto bits = [data](std::size_t k) {
    Bits value;
    std::memcpy(&value, static_cast<const char*>(data) + k * sizeof(Bits), sizeof(Bits));
    return value;
  };
  constexpr std::size_t kBlock = 1024;
  constexpr Bits sign = Bits{1} << (8 * sizeof(Bits) - 1);
  const Bits one = exponent & (~exponent + 1);
  for (std::size_t begin = 0; begin < size; begin += kBlock) {
    const std::size_t end = std::min(size, begin + kBlock);
    Bits any = 0;
    for (std::size_t k = begin; k < end; ++k) any |= static_cast<Bits>((bits(k) & exponent) + one);
    if (!(any & sign)) continue;
    for (std::size_t k = begin; k < end; ++k)
      if ((bits(k) & exponent) == exponent) return k;
  }
  return size;
}

}  // namespace

std::size_t first_non_finite(const void* data, Precision precision, std::size_t size) {
  switch (precision) {
    case Precision::Half:
      return first_non_finite(data, size, std::uint16_t{0x7c00});
    case Precision::Single:
      return first_non_finite(data, size, std::uint32_t{0x7f800000});
    default:
      return first_non_finite(data, size, std::uint64_t{0x7ff0000000000000});
  }
}

}  // namespace zopo
