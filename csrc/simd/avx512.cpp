// AVX-512 F/DQ/BW/VL: Skylake-X (2017) and later, Zen 4.
#include "simd/simd.hpp"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>

// 8 x 3 accumulators + 3 loads of thirty-two registers; broadcasts come from memory.
#define ZOPO_VECTOR_BYTES 64
#define ZOPO_GRAM_ROWS 8
#define ZOPO_GRAM_VECTORS 3
#include "simd/kernels.inl"

namespace zopo {
const Simd* simd_avx512() {
  static constexpr Simd kTable = table("avx512");
  const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return runs ? &kTable : nullptr;
}
}  // namespace zopo
#else
namespace zopo {
const Simd* simd_avx512() { return nullptr; }
}  // namespace zopo
#endif
