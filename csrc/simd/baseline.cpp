// The compiler's default instruction set: SSE2 on x86-64, NEON on AArch64.
#include "simd/simd.hpp"

#define ZOPO_VECTOR_BYTES 16
#define ZOPO_GRAM_ROWS 4
#define ZOPO_GRAM_VECTORS 2
#include "simd/kernels.inl"

namespace zopo {
const Simd* simd_baseline() {
  static constexpr Simd kTable = table("baseline");
  return &kTable;
}
}  // namespace zopo
