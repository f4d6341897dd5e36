// Bodies of the inner loops, included by baseline.cpp, avx2.cpp and avx512.cpp, each of which is
// compiled for its instruction set.
//
// Only raw pointers and file-local functions are allowed here. An inline function of a standard
// header, compiled with AVX-512, could become the copy that the linker keeps for everyone, and
// crash on an older processor. Vectors are the compiler's own (vector_size), so the same text
// becomes SSE2, AVX2, AVX-512 or NEON.
//
// The including file defines ZOPO_VECTOR_BYTES, ZOPO_GRAM_ROWS and ZOPO_GRAM_VECTORS.

#include "simd/vectors.inl"

#include "simd/dense.inl"
#include "simd/gram.inl"
#include "simd/pool.inl"
#include "simd/region.inl"

namespace zopo {
namespace {

constexpr Simd table(const char* name) {
  return {name,
          dot,
          axpy,
          matvec,
          matvec_transposed,
          gemm,
          dot3,
          triangle_matvec,
          triangle_matvec_transposed,
          triangle_normal,
          triangle_rank_one,
          triangle_cholesky,
          solve_lower,
          solve_lower_transposed,
          solve_lower_rows,
          kPanel,
          gram_pack_size,
          gram_pack,
          gram_rows,
          scan,
          rows_matvec<std::uint16_t>,
          rows_matvec<float>,
          rows_matvec<double>,
          rows_combine<std::uint16_t>,
          rows_combine<float>,
          rows_combine<double>,
          standardise_f16,
          moments_pass,
          squares_pass,
          widen_f16,
          narrow_f16,
          read_all,
          dots_f32,
          add_directions,
          combine_f32_f64,
          update_row,
          centered_square,
          count_at_most,
          maximum,
          arc_cosine_first,
          arc_cosine_layer,
          improvement,
          criterion};
}

}  // namespace
}  // namespace zopo
