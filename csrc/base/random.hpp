// Counter-based random numbers: functions of a key and a counter, with the same bits on every
// device, instruction set and number of threads.
//
// Philox4x64-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011). NumPy adds 1 to the counter before each block: numpy.random.Philox(key=k, counter=c)
// starts with philox(k, c + 1).
//
// Only IEEE addition, multiplication, division and square root are used: the last bit of a library
// function varies between platforms. Compile the callers without fused multiply-adds
// (-ffp-contract=off, nvcc -fmad=false). Functions are constexpr, so that kernels can call them too
// (nvcc --expt-relaxed-constexpr).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace zopo {

// A seed of 128 bits.
struct RandomKey {
  std::uint64_t low, high;
};

struct RandomWords {
  std::uint64_t word[4];
};

// Compute the upper half of a 64 x 64 bit product from four products of 32 bits.
constexpr std::uint64_t product_high_by_halves(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kLow = 0xffffffff;
  const std::uint64_t low = (a & kLow) * (b & kLow);
  const std::uint64_t left = (a >> 32) * (b & kLow) + (low >> 32);
  const std::uint64_t right = (a & kLow) * (b >> 32) + (left & kLow);
  return (a >> 32) * (b >> 32) + (left >> 32) + (right >> 32);
}

constexpr std::uint64_t product_high(std::uint64_t a, std::uint64_t b) {
#ifdef __SIZEOF_INT128__
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#else
  return product_high_by_halves(a, b);
#endif
}

// Encrypt a counter by ten rounds of Philox4x64.
constexpr RandomWords philox(RandomKey key, RandomWords counter) {
  constexpr std::uint64_t kLeft = 0xD2E7470EE14C6C93, kRight = 0xCA5A826395121157;
  std::uint64_t a = counter.word[0], b = counter.word[1], c = counter.word[2], d = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t left = product_high(kLeft, a), right = product_high(kRight, c);
    const std::uint64_t low = kLeft * a;
    a = right ^ b ^ key.low;
    b = kRight * c;
    c = left ^ d ^ key.high;
    d = low;
    key.low += 0x9E3779B97F4A7C15;  // Weyl sequences: the golden ratio, and sqrt(3) - 1
    key.high += 0xBB67AE8584CAA73B;
  }
  return {{a, b, c, d}};
}

// Four words of a stream; block b of numpy.random.Philox(key=key, counter=[0, stream, 0, 0]).
constexpr RandomWords stream_words(RandomKey key, std::uint64_t stream, std::uint64_t block) {
  return philox(key, {{block + 1, stream, 0, 0}});
}

// Convert an integer below 2^52 by its place in the mantissa: SSE2 has no 64-bit conversion.
constexpr double small_integer(std::uint64_t n) {
  return std::bit_cast<double>(0x4330000000000000 | n) - 0x1p52;
}

// Uniform number in [0, 1) of the upper 53 bits.
constexpr double uniform(std::uint64_t bits) {
  return small_integer(bits >> 32) * 0x1p-32 + small_integer(bits >> 11 & 0x1fffff) * 0x1p-53;
}

// Compute log(x) of a normal number x > 0, with a relative error below 4e-16.
constexpr double natural_log(double x) {
  // x = m 2^e with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh(s) with s = (m - 1) / (m + 1).
  constexpr std::uint64_t kRootHalf = 0x3FE6A09E667F3BCD, kOne = 0x3FF0000000000000;
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const std::uint64_t biased = (bits + (kOne - kRootHalf)) >> 52;
  const double m = std::bit_cast<double>(bits - (biased << 52) + kOne);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  // Chebyshev fit of (2 atanh(s) / s - 2) / z; relative error of log m 5e-18.
  double p = 0x1.2b5900de53b32p-3;
  p = p * z + 0x1.39fe51a7c18f9p-3;
  p = p * z + 0x1.7462b51cb66b1p-3;
  p = p * z + 0x1.c71c62e3f11e6p-3;
  p = p * z + 0x1.2492492df281ap-2;
  p = p * z + 0x1.99999999952d7p-2;
  p = p * z + 0x1.5555555555558p-1;
  const double e = small_integer(biased) - 1023.0;
  return e * 0x1.62e42fefa39efp-1 + (2.0 * s + s * (z * p));
}

struct Direction {
  double cos, sin;
};

// Compute (cos 2 pi u, sin 2 pi u) for u in [0, 1), each with a relative error below 4e-16.
constexpr Direction direction(double u) {
  // 4 u = q + w with an integer q and w in [-1/2, 1/2], exactly: adding 1.5 2^52 rounds to integers.
  const double shifted = 4.0 * u + 0x1.8p52;
  const double w = 4.0 * u - (shifted - 0x1.8p52), z = w * w;
  // Chebyshev fits of sin(pi/2 w) / w and (cos(pi/2 w) - 1) / z; errors 4e-17 and 5e-18.
  double s = 0x1.e3f38399551bfp-25;
  s = s * z - 0x1.e30071afc3e59p-19;
  s = s * z + 0x1.50782fda12d96p-13;
  s = s * z - 0x1.32d2cce2e5b19p-8;
  s = s * z + 0x1.466bc677587f8p-4;
  s = s * z - 0x1.4abbce625be41p-1;
  s = w * (s * z + 0x1.921fb54442d18p+0);
  double c = -0x1.b2f3eb054afcdp-28;
  c = c * z + 0x1.f9ce245cada0bp-22;
  c = c * z - 0x1.a6d1eef479be1p-16;
  c = c * z + 0x1.e1f5068688d5bp-11;
  c = c * z - 0x1.55d3c7e3cb241p-6;
  c = c * z + 0x1.03c1f081b5ac0p-2;
  c = (c * z - 0x1.3bd3cc9be45dep+0) * z + 1.0;
  // Quarter turns by q mod 4: an odd q swaps cos and sin, then two sign bits. Integer operations
  // keep the loop free of branches.
  const auto q = std::bit_cast<std::uint64_t>(shifted);
  const auto cos = std::bit_cast<std::uint64_t>(c), sin = std::bit_cast<std::uint64_t>(s);
  const std::uint64_t swapped = (cos ^ sin) & (0 - (q & 1));
  return {std::bit_cast<double>(cos ^ swapped ^ ((q + 1) >> 1 << 63)),
          std::bit_cast<double>(sin ^ swapped ^ (q >> 1 << 63))};
}

// Squared radius of the Box-Muller transform, -2 log(1 - u): 1 - u is in (0, 1] and exact.
constexpr double squared_radius(double u) { return -2.0 * natural_log(1.0 - u); }

// Write the standard normal numbers [first, first + n) of a stream. Number i depends on key, stream
// and i alone. Box-Muller: words 2 j and 2 j + 1 of the stream, as uniforms u and v, give numbers
// 2 j and 2 j + 1, sqrt(-2 log(1 - u)) (cos 2 pi v, sin 2 pi v).
void normals(RandomKey key, std::uint64_t stream, std::size_t n, double* out,
             std::size_t first = 0);

}  // namespace zopo
