// AVX2 + FMA + F16C: Haswell (2013) and later, Zen.
#include "simd/simd.hpp"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

// 4 x 3 accumulators + 3 loads + 1 broadcast fill the sixteen registers.
#define ZOPO_VECTOR_BYTES 32
#define ZOPO_GRAM_ROWS 4
#define ZOPO_GRAM_VECTORS 3
#include "simd/kernels.inl"

namespace zopo {
const Simd* simd_avx2() {
  static constexpr Simd kTable = table("avx2");
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  return runs ? &kTable : nullptr;
}
}  // namespace zopo
#else
namespace zopo {
const Simd* simd_avx2() { return nullptr; }
}  // namespace zopo
#endif
