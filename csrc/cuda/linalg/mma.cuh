// Matrix instructions and asynchronous copies. This file has the only inline assembly of the CUDA
// engine; each instruction is also written out for the host (tests/native/emulation).
// Fragments of a 16 x 8 x 8 product C += A B over the warp (PTX ISA, "Matrix fragments for
// Fragments of a 16 x 8 x 8 product C += A B over the warp (PTX ISA, "Matrix fragments for
// mma.m16n8k8"), with g = lane / 4 and t = lane % 4:
//   A (16, 8)  a[0] = A(g, t)   a[1] = A(g + 8, t)   a[2] = A(g, t + 4)   a[3] = A(g + 8, t + 4)
//   B (8, 8)   b[0] = B(t, g)   b[1] = B(t + 4, g)
//   C (16, 8)  c[0] = C(g, 2t)  c[1] = C(g, 2t + 1)  c[2] = C(g + 8, 2t)  c[3] = C(g + 8, 2t + 1)
#pragma once

#include "cuda/runtime/support.cuh"

namespace zopo {

#ifdef ZOPO_EMULATE
// Sum in the order of k, with each product and sum rounded to T.
template <class T>
inline void emulated_mma(T (&c)[4], const T (&a)[4], const T (&b)[2]) {
  struct Mine {
    T a[4], b[2];
  } mine;
  for (int i = 0; i < 4; ++i) mine.a[i] = a[i];
  for (int i = 0; i < 2; ++i) mine.b[i] = b[i];
  const auto all = ::emulate::exchange(kFullWarp, mine);
  const int g = ::emulate::lane() / 4, t = ::emulate::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 8; ++k) {
      const Mine of_a = all.template at<Mine>(row % 8 * 4 + k % 4);
      const Mine of_b = all.template at<Mine>(column * 4 + k % 4);
      c[i] += of_a.a[row / 8 + k / 4 * 2] * of_b.b[k / 4];
    }
  }
}
#endif

// Multiply in float64 on the tensor cores (DMMA): one instruction from sm_90 on, four on sm_80.
__device__ inline void mma_f64(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
#ifdef ZOPO_EMULATE
  emulated_mma(c, a, b);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
  for (int k = 0; k < 2; ++k)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+d"(c[2 * half]), "+d"(c[2 * half + 1])
                   : "d"(a[half + 2 * k]), "d"(b[k]));
#endif
}

// Round a float to tf32 (8 bits of exponent, 10 of fraction), to nearest, ties away from zero.
__device__ inline float round_to_tf32(float x) {
#ifdef ZOPO_EMULATE
  const unsigned bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & 0xffffe000u);
#else
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#endif
}

// Multiply tf32 values (see round_to_tf32) with float32 sums.
__device__ inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef ZOPO_EMULATE
  emulated_mma(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

// Copy sixteen bytes from device to shared memory, bypassing registers; both addresses are aligned
// to 16. With `valid` false, write zeros and do not read `from`.
__device__ inline void copy_async16(void* to, const void* from, bool valid = true) {
#ifdef ZOPO_EMULATE
  ::emulate::copy_async(to, from, 16, valid ? 16 : 0);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#endif
}
// Copy eight bytes, for rows that are not a multiple of sixteen.
__device__ inline void copy_async8(void* to, const void* from, bool valid = true) {
#ifdef ZOPO_EMULATE
  ::emulate::copy_async(to, from, 8, valid ? 8 : 0);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 8 : 0)
               : "memory");
#endif
}
// Copy four bytes.
__device__ inline void copy_async4(void* to, const void* from, bool valid = true) {
#ifdef ZOPO_EMULATE
  ::emulate::copy_async(to, from, 4, valid ? 4 : 0);
#else
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
#endif
}
__device__ inline void copy_async_commit() {
#ifdef ZOPO_EMULATE
  ::emulate::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Wait until at most kLeft of the thread's groups are in flight.
template <int kLeft>
__device__ inline void copy_async_wait() {
#ifdef ZOPO_EMULATE
  ::emulate::copy_async_wait(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace zopo
