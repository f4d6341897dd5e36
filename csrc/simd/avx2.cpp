// AVX2 + FMA + F16C: Haswell (2013) and later, Zen.
#include "simd/simd.hpp"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <cpuid.h>
#include <immintrin.h>

// 4 x 3 accumulators + 3 loads + 1 broadcast fill the sixteen registers.
#define ZOPO_VECTOR_BYTES 32
#define ZOPO_GRAM_ROWS 4
#define ZOPO_GRAM_VECTORS 3
#include "simd/kernels.inl"

namespace zopo {
const Simd* simd_avx2() {
  static constexpr Simd kTable = table("avx2");
  // Clang before 19 knows no __builtin_cpu_supports("f16c").
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c;
  return runs ? &kTable : nullptr;
}
}  // namespace zopo
#else
namespace zopo {
const Simd* simd_avx2() { return nullptr; }
}  // namespace zopo
#endif
