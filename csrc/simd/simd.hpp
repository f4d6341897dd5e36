// Inner loops, compiled once per instruction set and chosen at run time.
//
// All matrices are row-major with a leading dimension in elements. A row's result does not depend
// on its neighbours: a row gives the same bits alone and in a batch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zopo {

// One operand of a Gram product: n points, each with `layers + 1` hidden vectors h_0..h_L and
// `layers` backward vectors D_0..D_{L-1} (D_L = 1). `h[l]` is (n, width[l]) with leading dimension
// ldh[l], `D[l]` is (n, width[l + 1]) with leading dimension ldd.
struct GramOperand {
  std::size_t n;
  std::size_t layers;
  const std::size_t* width;  // (layers + 1,)
  const double* const* h;    // (layers + 1,) pointers
  const std::size_t* ldh;    // (layers + 1,)
  const double* const* D;    // (layers,) pointers
  std::size_t ldd;
};

// Layout of packed lower triangles. Rows are padded to a multiple of eight columns, so that rows
// 8q..8q+7 form a block of 8 x 8(q + 1) numbers. A row never moves when another one is appended.
[[gnu::always_inline]] constexpr std::size_t triangle_width(std::size_t i) {
  return 8 * (i / 8 + 1);
}
[[gnu::always_inline]] constexpr std::size_t triangle_offset(std::size_t i) {
  return triangle_width(i) * (i / 8 * 4 + i % 8);
}

// Changes of one level of a region along a direction t: variance += square t^2, mean_y += y t and
// mean_1 += one t. Null means stay.
struct DirectionOf {
  double square, y, one;
  float* variance;
  double *mean_y, *mean_1;
};

// Normal distribution of the scores of a region's candidates under one level, as `improvement`
// takes it.
struct ImprovementOf {
  const double *mean_y, *mean_1;
  const float* variance;
  double amplitude, weight;
};

// Memory level that the pool resides in: L2 cache, last-level cache or main memory.
enum class Reach { Near, Cached, Memory };

struct Simd {
  const char* name;

  double (*dot)(const double* a, const double* b, std::size_t n);
  // y += a x
  void (*axpy)(std::size_t n, double a, const double* x, double* y);
  // y_i = A_i . x, A (rows, cols)
  void (*matvec)(const double* A, std::size_t lda, std::size_t rows, std::size_t cols,
                 const double* x, double* y);
  // y += A^T a, A (rows, cols)
  void (*matvec_transposed)(const double* A, std::size_t lda, std::size_t rows, std::size_t cols,
                            const double* a, double* y);
  // C (m, n) = A B, or C += A B with `add`; A (m, k), B (k, n)
  void (*gemm)(std::size_t m, std::size_t n, std::size_t k, const double* A, std::size_t lda,
               const double* B, std::size_t ldb, double* C, std::size_t ldc, bool add);
  // sum_i a_i b_i c_i
  double (*dot3)(const double* a, const double* b, const double* c, std::size_t n);
  // Operations on packed triangles L (n, n), with zeros right of the diagonal. The vectors x and y
  // hold triangle_width(n - 1) numbers, zero beyond n.
  //   triangle_matvec              y = L x
  //   triangle_matvec_transposed   y += L^T a
  //   triangle_normal              v = L x and y += L^T v, in one pass
  //   triangle_rank_one            A += l l^T on the lower triangle; entries right of it are lost
  void (*triangle_matvec)(const double* L, std::size_t n, const double* x, double* y);
  void (*triangle_matvec_transposed)(const double* L, std::size_t n, const double* a, double* y);
  void (*triangle_normal)(const double* L, std::size_t n, const double* x, double* v, double* y);
  void (*triangle_rank_one)(double* A, std::size_t n, const double* l);
  // Factorise A = C C^T in place; return false at a pivot that is not positive.
  bool (*triangle_cholesky)(double* A, std::size_t n);
  // b <- C^-1 b and b <- C^-T b, C (n, n) lower triangular
  void (*solve_lower)(const double* C, std::size_t ldc, std::size_t n, double* b);
  void (*solve_lower_transposed)(const double* C, std::size_t ldc, std::size_t n, double* b);
  // B <- C^-1 B, B (n, cols)
  void (*solve_lower_rows)(const double* C, std::size_t ldc, std::size_t n, double* B,
                           std::size_t ldb, std::size_t cols);

  // Gram product. The right operand is packed once, in panels of gram_panel points: gram_pack_size
  // doubles in all, panels [begin, end) per call. Then rows of K are filled.
  std::size_t gram_panel;
  std::size_t (*gram_pack_size)(const GramOperand& right);
  void (*gram_pack)(const GramOperand& right, std::size_t begin, std::size_t end, double* packed);
  // Fill K's rows [begin, end). With `lower`, entries right of the diagonal may stay unwritten.
  void (*gram_rows)(const GramOperand& left, const GramOperand& right, const double* packed,
                    std::size_t begin, std::size_t end, bool lower, double* K, std::size_t ldk);

  // Pool scan: out_i = norm_i - 2 z_i.w, Z (rows, d) contiguous. With norm_i = |e_i|^2 and
  // w = x o s this is |e_i - x|^2 up to a constant, at one multiply-add an entry.
  void (*scan_f16)(const std::uint16_t* Z, std::size_t rows, std::size_t d, Reach reach,
                   const float* w, const float* norm, float* out);
  // Products with the rows index[0..n) of Z in float64:
  //   rows_matvec    y_i = sum_j (z_ij - mean_j) w_j
  //   rows_combine   y_j += sum_i a_i (z_ij - mean_j)
  // A null mean counts as zero.
  void (*rows_matvec_f16)(const std::uint16_t* Z, std::size_t d, const std::int64_t* index,
                          std::size_t n, const double* mean, const double* w, double* y);
  void (*rows_matvec_f32)(const float* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                          const double* mean, const double* w, double* y);
  void (*rows_matvec_f64)(const double* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                          const double* mean, const double* w, double* y);
  void (*rows_combine_f16)(const std::uint16_t* Z, std::size_t d, const std::int64_t* index,
                           std::size_t n, const double* mean, const double* a, double* y);
  void (*rows_combine_f32)(const float* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                           const double* mean, const double* a, double* y);
  void (*rows_combine_f64)(const double* Z, std::size_t d, const std::int64_t* index, std::size_t n,
                           const double* mean, const double* a, double* y);
  // e = (z - mean) o inverse_scale, (d,)
  void (*standardise_f16)(const std::uint16_t* z, std::size_t d, const double* mean,
                          const double* inverse_scale, double* e);
  // Add one row to column sums, minima and maxima, or to sums of squared differences from the mean.
  void (*moments_pass)(const double* row, std::size_t d, double* sum, double* low, double* high);
  void (*squares_pass)(const double* row, std::size_t d, const double* mean, double* sum);
  // Convert n IEEE half-precision numbers exactly to float64, and back to the nearest half.
  void (*widen_f16)(const std::uint16_t* from, std::size_t n, double* to);
  void (*narrow_f16)(const double* from, std::size_t n, std::uint16_t* to);
  // Read n bytes, 64 at a time, and return the xor of their words: an upper bound of what a scan
  // can reach.
  std::uint64_t (*read)(const void* from, std::size_t n);

  // Candidates of a region (model/region_posterior.hpp); n and columns are multiples of 64.
  // Inner products of `rows` rows of X, index[0..rows), with a panel (d, 64) of other points:
  // out (rows, 64), summed over d in order.
  void (*dots_f32)(const float* X, std::size_t ldx, const std::size_t* index, std::size_t rows,
                   std::size_t d, const float* panel, float* out, std::size_t ldo);
  // Add the directions t_g = row + sum_i a_ig K_i of at most four levels g to columns [begin, end),
  // over the rows index[0..rows) of K, a (rows, 4): one pass over K. A null row counts as zero.
  // Sums are in single precision, those of 64 rows apart.
  void (*add_directions)(const float* K, std::size_t ld, const std::size_t* index, std::size_t rows,
                         const float* a, const float* row, std::size_t begin, std::size_t end,
                         std::size_t levels, const DirectionOf* level);
  // out_gj += sum_i a_gi K_ij over the same rows in double precision, for any number of levels.
  void (*combine_f32_f64)(const float* K, std::size_t ld, const std::size_t* index,
                          std::size_t rows, const double* const* a, std::size_t levels,
                          std::size_t columns, double* const* out);
  // row = (row - a sum) inverse, sum += beta row.
  void (*update_row)(std::size_t n, double a, double inverse, double beta, double* row,
                     double* sum);
  // sum_i (a_i - c b_i)^2
  double (*centered_square)(const double* a, const double* b, double c, std::size_t n);
  // Number of entries <= most, and largest entry.
  std::size_t (*count_at_most)(const float* x, std::size_t n, float most);
  float (*maximum)(const float* x, std::size_t n);
  // Closed form of the infinite-width kernel, layer by layer (zopo_fast/gp/infinite_ntk.py). The
  // first call turns inner products in S into S_1, and sets T to T_1; each later call turns S_l and
  // T_l into S_{l+1} and T_{l+1}. `at` and `square` are S_l(x, x) of the one point and of the
  // others.
  void (*arc_cosine_first)(std::size_t n, float factor, float bias, bool ntk, float* S, float* T);
  void (*arc_cosine_layer)(std::size_t n, float w, float bias, bool ntk, float at,
                           const float* square, float* S, float* T);
  // out += weight E max(0, f - incumbent)^power for power 1 or 2, where f is normal with mean
  // (mean_y - mean mean_1) inverse and variance amplitude x variance. Power 0 adds weight times the
  // standardised distance of the mean from the incumbent.
  void (*improvement)(std::size_t n, const double* mean_y, const double* mean_1,
                      const float* variance, double mean, double inverse, double incumbent,
                      double amplitude, double weight, int power, double* out);
  // out = the sum of the above over levels, for power 1 or 2 and columns [begin, end); `without`
  // instead where that is negative. The sum is off by 4e-4 of its value, where that is at least
  // 1e-14 of the levels' variance, and smaller terms may be 0.
  void (*criterion)(std::size_t levels, const ImprovementOf* of, double mean, double inverse,
                    double incumbent, int power, std::size_t begin, std::size_t end,
                    const float* without, float* out);
};

// Loops of each instruction set, best last; nullptr where this build or processor lacks the set.
const Simd* simd_baseline();
const Simd* simd_avx2();
const Simd* simd_avx512();

// Return the best instruction set that this processor runs, or the one that the environment
// variable ZOPO_ISA names (baseline, avx2, avx512). Throws ConfigError for an unknown or
// unsupported name.
const Simd& simd();

}  // namespace zopo
