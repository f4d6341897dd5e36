// The Gram product; see simd/kernels.inl.

namespace zopo {
namespace {

// ---- Gram product --------------------------------------------------------------------------
//
// K_ij = sum_l (h_l(x_i).h_l(y_j) + 1) (D_l(x_i).D_l(y_j)), in one pass over a register tile of K.
// The right operand is packed as panels of kPanel points, feature by feature. The inner loop is
// then kRows broadcasts times kVectors loads, with all accumulators in registers.

std::size_t features_of(const GramOperand& g) {
  std::size_t f = g.width[0];
  for (std::size_t l = 1; l <= g.layers; ++l) f += 2 * g.width[l];
  return f;
}

std::size_t gram_pack_size(const GramOperand& g) {
  return (g.n + kPanel - 1) / kPanel * kPanel * features_of(g);
}

// Order within a panel: h_0, D_0, h_1, D_1, ..., h_L.
void pack_block(const double* A, std::size_t lda, std::size_t rows, std::size_t cols, double* out) {
  for (std::size_t p = 0; p < rows; ++p)
    for (std::size_t c = 0; c < cols; ++c) out[c * kPanel + p] = A[p * lda + c];
  for (std::size_t p = rows; p < kPanel; ++p)
    for (std::size_t c = 0; c < cols; ++c) out[c * kPanel + p] = 0.0;
}

void gram_pack(const GramOperand& g, std::size_t begin, std::size_t end, double* packed) {
  packed += begin * kPanel * features_of(g);
  for (std::size_t j = begin * kPanel; j < end * kPanel; j += kPanel) {
    const std::size_t rows = g.n - j < kPanel ? g.n - j : kPanel;
    for (std::size_t l = 0; l <= g.layers; ++l) {
      pack_block(g.h[l] + j * g.ldh[l], g.ldh[l], rows, g.width[l], packed);
      packed += g.width[l] * kPanel;
      if (l == g.layers) break;
      pack_block(g.D[l] + j * g.ldd, g.ldd, rows, g.width[l + 1], packed);
      packed += g.width[l + 1] * kPanel;
    }
  }
}

template <std::size_t R>
inline void tile_product(const double* A, std::size_t lda, std::size_t cols, const double* panel,
                         Vec (&acc)[R][kVectors]) {
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
  for (std::size_t c = 0; c < cols; ++c) {
    Vec b[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      b[v] = load(panel + c * kPanel + v * kLanes);
      // The panel is in the L2 cache: prefetch it some steps ahead.
      __builtin_prefetch(panel + (c + 16) * kPanel + v * kLanes);
    }
    for (std::size_t r = 0; r < R; ++r) {
      const double a = A[r * lda + c];
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] += b[v] * a;
    }
  }
}

template <std::size_t R>
void gram_tile(const GramOperand& g, std::size_t i, const double* panel, std::size_t cols,
               double* K, std::size_t ldk) {
  Vec total[R][kVectors] = {};
  for (std::size_t l = 0; l <= g.layers; ++l) {
    Vec h[R][kVectors], D[R][kVectors];
    tile_product<R>(g.h[l] + i * g.ldh[l], g.ldh[l], g.width[l], panel, h);
    panel += g.width[l] * kPanel;
    if (l == g.layers) {
      for (std::size_t r = 0; r < R; ++r)
        for (std::size_t v = 0; v < kVectors; ++v) total[r][v] += h[r][v] + 1.0;
      break;
    }
    tile_product<R>(g.D[l] + i * g.ldd, g.ldd, g.width[l + 1], panel, D);
    panel += g.width[l + 1] * kPanel;
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t v = 0; v < kVectors; ++v) total[r][v] += (h[r][v] + 1.0) * D[r][v];
  }
  for (std::size_t r = 0; r < R; ++r) {
    if (cols == kPanel) {
      for (std::size_t v = 0; v < kVectors; ++v) store(K + r * ldk + v * kLanes, total[r][v]);
    } else {
      double row[kPanel];
      for (std::size_t v = 0; v < kVectors; ++v) store(row + v * kLanes, total[r][v]);
      for (std::size_t p = 0; p < cols; ++p) K[r * ldk + p] = row[p];
    }
  }
}

void gram_rows(const GramOperand& left, const GramOperand& right, const double* packed,
               std::size_t begin, std::size_t end, bool lower, double* K, std::size_t ldk) {
  // A block of rows stays in L2 while the panels, some hundred kilobytes each, pass by. Within the
  // block each panel stays while the rows pass over it.
  constexpr std::size_t kBlockRows = 96 / kRows * kRows;
  const std::size_t stride = kPanel * features_of(right);
  for (std::size_t block = begin; block < end; block += kBlockRows) {
    const std::size_t last = end - block < kBlockRows ? end : block + kBlockRows;
    const double* panel = packed;
    for (std::size_t j = 0; j < right.n; j += kPanel, panel += stride) {
      if (lower && j >= last) break;
      const std::size_t cols = right.n - j < kPanel ? right.n - j : kPanel;
      std::size_t i = block;
      if (lower && j > i) i += (j - i) / kRows * kRows;
      for (; i + kRows <= last; i += kRows)
        gram_tile<kRows>(left, i, panel, cols, K + i * ldk + j, ldk);
      for (; i < last; ++i) gram_tile<1>(left, i, panel, cols, K + i * ldk + j, ldk);
    }
  }
}

}  // namespace
}  // namespace zopo
