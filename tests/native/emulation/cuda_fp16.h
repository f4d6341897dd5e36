// Half precision for the emulation; conversions round to nearest, ties to even, like the hardware.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

struct __half {
  std::uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h.bits & 0x8000u) << 16;
  const std::uint32_t exponent = h.bits >> 10 & 31u, fraction = h.bits & 1023u;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t bits =
      sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half __float2half_rn(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const float magnitude = std::fabs(x);
  std::uint32_t out;
  if (std::isnan(x)) {
    out = 0x7e00u;
  } else if (magnitude >= 65520.0f) {
    out = 0x7c00u;
  } else if (magnitude < 6.103515625e-5f) {
    out = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  } else {
    bits &= 0x7fffffffu;
    const std::uint32_t rest = bits & 0x1fffu;
    out = (bits >> 13) - (112u << 10);
    out += rest > 0x1000u || (rest == 0x1000u && (out & 1u));
  }
  return {static_cast<std::uint16_t>(sign | out)};
}
inline __half __float2half(float x) { return __float2half_rn(x); }
