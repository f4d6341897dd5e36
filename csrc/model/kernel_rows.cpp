// Kernel rows over the candidates of a region (model/kernel_rows.hpp).
#include "model/kernel_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr std::size_t kPanel = ArcCosinePoints::kPanel;
constexpr std::size_t kLine = 16;  // numbers of a cache line
constexpr double kFloatWork =
    0.25;  // cost of a multiply-add of `dots_f32` in those of parallel.hpp

constexpr std::size_t padded(std::size_t columns) {
  return (columns + kPanel - 1) / kPanel * kPanel;
}

[[noreturn]] void beyond_range(const char* name, std::size_t row) {
  throw ArrayError(std::string(name) + ": row " + std::to_string(row) +
                   " exceeds the range of single precision");
}

// Return the first row of K (n, m) with an entry beyond single precision, else n; own[i] is the
// column of row i's point. Its k(x, x) goes first, as a row contains entries of other points too.
std::size_t first_beyond(const Doubles& K, std::size_t n, std::size_t m, const std::size_t* own) {
  const auto beyond = [&](std::size_t i, std::size_t j) {
    return !std::isfinite(static_cast<float>(K[i * m + j]));
  };
  for (std::size_t i = 0; i < n; ++i)
    if (beyond(i, own[i])) return i;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < m; ++j)
      if (beyond(i, j)) return i;
  return n;
}

// Copy K (n, m) to K^T at `to`, in tiles of cache lines.
void transpose(const float* K, std::size_t ldk, std::size_t n, std::size_t m, float* to,
               std::size_t ldt) {
  for (std::size_t i = 0; i < n; i += kLine)
    for (std::size_t j = 0; j < m; j += kLine)
      for (std::size_t q = j; q < std::min(m, j + kLine); ++q)
        for (std::size_t p = i; p < std::min(n, i + kLine); ++p) to[q * ldt + p] = K[p * ldk + q];
}

}  // namespace

ArcCosinePoints::ArcCosinePoints(const ArcCosine& kernel, double scale, std::size_t d)
    : kernel_(kernel), scale_(scale), dim_(d) {}

void ArcCosinePoints::resize(std::size_t columns) {
  rows_.resize(columns * dim_);
  const std::size_t before = panels_.size();
  panels_.resize(padded(columns) / kPanel * panel_size(), 0.0f);
  for (std::size_t at = before; at < panels_.size(); at += panel_size())  // S = 1 divides safely
    std::fill_n(panels_.data() + at + dim_ * kPanel, (kernel_.depth + 1) * kPanel, 1.0f);
}

float ArcCosinePoints::squares(const double* x, float* to) const {
  alignas(64) double rounded[kPanel];
  double square = 0.0;
  for (std::size_t begin = 0; begin < dim_; begin += kPanel) {
    const std::size_t n = std::min(kPanel, dim_ - begin);
    for (std::size_t j = 0; j < n; ++j) rounded[j] = static_cast<float>(x[begin + j]);
    square += simd().dot(rounded, rounded, n);
  }
  const double w = kernel_.weight_variance, b = kernel_.bias_variance;
  double S = w / static_cast<double>(dim_) * square + b;
  double T = kernel_.ntk ? S : 0.0;
  to[0] = static_cast<float>(S);
  for (std::size_t l = 1; l <= kernel_.depth; ++l) {
    const double after = w / 2 * S + b;
    T = (kernel_.ntk ? after : S / 2) + w / 2 * T;
    S = after;
    to[l * kPanel] = static_cast<float>(S);
  }
  const bool finite = std::isfinite(square) && std::isfinite(static_cast<float>(S));
  return finite ? static_cast<float>(T / scale_) : std::numeric_limits<float>::infinity();
}

float ArcCosinePoints::set(std::size_t column, const double* x) {
  float* row = rows_.data() + column * dim_;
  for (std::size_t j = 0; j < dim_; ++j) row[j] = static_cast<float>(x[j]);
  float* at = panels_.data() + column / kPanel * panel_size() + column % kPanel;
  return squares(x, at + dim_ * kPanel);
}

void ArcCosinePoints::arrange(std::size_t begin, std::size_t end) {
  for (std::size_t next; begin < end; begin = next) {  // columns that share a cache line
    next = std::min(end, (begin / kLine + 1) * kLine);
    float* at = panels_.data() + begin / kPanel * panel_size() + begin % kPanel;
    for (std::size_t j = 0; j < dim_; ++j)
      for (std::size_t i = begin; i < next; ++i) at[j * kPanel + i - begin] = rows_[i * dim_ + j];
  }
}

void ArcCosinePoints::gather(const std::size_t* columns, std::size_t n, float* to) const {
  for (std::size_t begin = 0; begin < n; begin += kLine)
    for (std::size_t j = 0; j < dim_; ++j)
      for (std::size_t i = begin; i < std::min(n, begin + kLine); ++i)
        to[j * kPanel + i] = rows_[columns[i] * dim_ + j];
  const std::size_t rows = panel_size() / kPanel;
  for (std::size_t i = 0; i < n; ++i) {
    const float* from = panel(columns[i] / kPanel) + columns[i] % kPanel;
    for (std::size_t j = dim_; j < rows; ++j) to[j * kPanel + i] = from[j * kPanel];
  }
  for (std::size_t i = n; i < kPanel; ++i)
    for (std::size_t j = 0; j < rows; ++j) to[j * kPanel + i] = j < dim_ ? 0.0f : 1.0f;
}

void ArcCosinePoints::block(const std::size_t* rows, std::size_t n, const float* over, float* out,
                            std::size_t ldo) const {
  constexpr std::size_t kRows = 12;  // of inner products at a time
  const Simd& loops = simd();
  const auto w = static_cast<float>(kernel_.weight_variance);
  const auto b = static_cast<float>(kernel_.bias_variance);
  const auto inverse = static_cast<float>(1.0 / scale_);
  alignas(64) float S[kRows * kPanel];
  for (std::size_t begin = 0; begin < n; begin += kRows) {
    const std::size_t count = std::min(kRows, n - begin);
    loops.dots_f32(rows_.data(), dim_, rows + begin, count, dim_, over, S, kPanel);
    for (std::size_t r = 0; r < count; ++r) {
      const std::size_t row = rows[begin + r];
      const float* at = panel(row / kPanel) + dim_ * kPanel + row % kPanel;
      float *S_r = S + r * kPanel, *T = out + (begin + r) * ldo;
      loops.arc_cosine_first(kPanel, w / static_cast<float>(dim_), b, kernel_.ntk, S_r, T);
      for (std::size_t l = 0; l < kernel_.depth; ++l)
        loops.arc_cosine_layer(kPanel, w, b, kernel_.ntk, at[l * kPanel],
                               over + (dim_ + l) * kPanel, S_r, T);
      for (std::size_t j = 0; j < kPanel; ++j) T[j] *= inverse;
    }
  }
}

KernelRows::KernelRows(PriorKernel kernel, const double* X, std::size_t columns, std::size_t d,
                       bool replaceable, std::size_t trends, Doubles weights)
    : dim_(d),
      trends_(trends),
      weights_(std::move(weights)),
      replaceable_(replaceable),
      kernel_(std::move(kernel)) {
  extend(X, columns);
}

KernelRows::KernelRows(const double* K, std::size_t columns) {
  grow_gram(columns);
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      gram_[i * stride_ + j] = static_cast<float>(K[i * columns + j]);
      if (!std::isfinite(gram_[i * stride_ + j])) beyond_range("K", i);
    }
    diagonal_[i] = gram_[i * stride_ + i];
  }
}

bool KernelRows::keeps_gram(std::size_t columns) const {
  return !kernel_ || !kernel_->closed_form() || (!replaceable_ && columns <= kGramColumns);
}

// Make room for more columns of the Gram matrix; the new entries are zero.
void KernelRows::grow_gram(std::size_t columns) {
  const std::size_t stride = padded(columns);
  Floats grown(columns * stride, 0.0f);
  if (!gram_.empty())
    for (std::size_t i = 0; i < columns_; ++i)
      std::copy_n(gram_.data() + i * stride_, columns_, grown.data() + i * stride);
  gram_ = std::move(grown);
  columns_ = columns;
  stride_ = stride;
  diagonal_.resize(stride, 0.0f);
}

// Fill rows and columns of the Gram matrix from `begin` on, by the closed form. Blocks of rows are
// those of the panels. Inner products of two rows have the same bits in either order, so that one
// block of two computes an entry and copies it to the other.
void KernelRows::fill(const ArcCosinePoints& points, std::size_t begin) {
  const std::size_t first = begin / kPanel, whole = (begin + kPanel - 1) / kPanel;
  const std::size_t blocks = stride_ / kPanel;
  const double work = static_cast<double>(columns_ - begin) * static_cast<double>(columns_) *
                      static_cast<double>(dim_) * kFloatWork;
  parallel_chunks(blocks - first, 1, work, [&](std::size_t from, std::size_t to) {
    std::size_t rows[kPanel];
    for (std::size_t b = first + from; b < first + to; ++b) {
      const std::size_t i = std::max(begin, b * kPanel);
      const std::size_t count = std::min(columns_, (b + 1) * kPanel) - i;
      std::iota(rows, rows + count, i);
      for (std::size_t p = 0; p < (b < whole ? whole : blocks); ++p) {
        if (p >= whole && p < b) continue;  // block p computes these entries
        const std::size_t j = p * kPanel, width = std::min(kPanel, columns_ - j);
        float* tile = &gram_[i * stride_ + j];
        points.block(rows, count, points.panel(p), tile, stride_);
        for (std::size_t r = 0; r < count; ++r) {
          std::fill_n(tile + r * stride_ + width, kPanel - width, 0.0f);
          if (p == b)  // exact, where the rounding of the angle would show
            gram_[(i + r) * stride_ + i + r] = diagonal_[i + r];
        }
        transpose(tile, stride_, count, width, &gram_[j * stride_ + i], stride_);
      }
    }
  });
}

const float* KernelRows::row(std::size_t column) {
  if (!gram_.empty()) return gram_.data() + column * stride_;
  const double work = static_cast<double>(columns_) * static_cast<double>(dim_);
  parallel_ranges(stride_ / kPanel, work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t p = begin; p < end; ++p)
      points_->block(&column, 1, points_->panel(p), row_.data() + p * kPanel, stride_);
  });
  std::fill(row_.begin() + static_cast<std::ptrdiff_t>(columns_), row_.end(), 0.0f);
  for (std::size_t j = 0; trends_ > 0 && j < columns_; ++j) row_[j] += trend(column, j);
  row_[column] = diagonal_[column];  // exact, where the rounding of the angle would show
  return row_.data();
}

void KernelRows::block(const std::size_t* rows, std::size_t n, const std::size_t* columns,
                       std::size_t m, float* out, std::size_t ldo) const {
  if (!gram_.empty()) {
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < m; ++j) out[i * ldo + j] = gram_[rows[i] * stride_ + columns[j]];
    return;
  }
  const double work =
      static_cast<double>(n) * static_cast<double>(m) * static_cast<double>(dim_) * kFloatWork;
  parallel_ranges((m + kPanel - 1) / kPanel, work, [&](std::size_t begin, std::size_t end) {
    Floats panel(points_->panel_size()), tile(n * kPanel);
    for (std::size_t j = begin * kPanel; j < std::min(m, end * kPanel); j += kPanel) {
      const std::size_t width = std::min(kPanel, m - j);
      points_->gather(columns + j, width, panel.data());
      points_->block(rows, n, panel.data(), tile.data(), kPanel);
      for (std::size_t i = 0; i < n; ++i)
        std::copy_n(tile.data() + i * kPanel, width, out + i * ldo + j);
    }
  });
  for (std::size_t i = 0; trends_ > 0 && i < n; ++i)
    for (std::size_t j = 0; j < m; ++j) out[i * ldo + j] += trend(rows[i], columns[j]);
}

// Return the part of k between two candidates that the trends add.
float KernelRows::trend(std::size_t row, std::size_t column) const {
  return trend(trend_.data() + row * trends_, trend_.data() + column * trends_);
}

float KernelRows::trend(const float* a, const float* b) const {
  float sum = 0.0f;
  for (std::size_t t = 0; t < trends_; ++t) sum += a[t] * b[t];
  return sum;
}

// Return the weighted coordinates (n, d) of points (n, d + trends), and their trends (n, trends).
Doubles KernelRows::split(const double* X, std::size_t n, Floats& trend) const {
  Doubles coordinates(n * dim_);
  trend.resize(n * trends_);
  for (std::size_t i = 0; i < n; ++i) {
    const double* x = X + i * (dim_ + trends_);
    for (std::size_t j = 0; j < dim_; ++j)
      coordinates[i * dim_ + j] = weights_.empty() ? x[j] : weights_[j] * x[j];
    std::transform(x + dim_, x + dim_ + trends_, trend.data() + i * trends_,
                   [](double t) { return static_cast<float>(t); });
  }
  return coordinates;
}

void KernelRows::between(const double* X, std::size_t n, const double* Y, std::size_t m, float* out,
                         std::size_t ldo, float* diagonal) const {
  if (trends_ == 0 && weights_.empty()) return between_coordinates(X, n, Y, m, out, ldo, diagonal);
  Floats left, right;
  const Doubles A = split(X, n, left), B = split(Y, m, right);
  between_coordinates(A.data(), n, B.data(), m, out, ldo, diagonal);
  for (std::size_t j = 0; trends_ > 0 && j < m; ++j) {
    const float* t = &right[j * trends_];
    diagonal[j] += trend(t, t);
    for (std::size_t i = 0; i < n; ++i) out[i * ldo + j] += trend(&left[i * trends_], t);
  }
}

void KernelRows::between_coordinates(const double* X, std::size_t n, const double* Y, std::size_t m,
                                     float* out, std::size_t ldo, float* diagonal) const {
  if (!kernel_) throw ArrayError("X: a model of a Gram matrix has no kernel to predict points by");
  const ArcCosine* closed = kernel_->closed_form();
  if (!closed) {
    Doubles K(n * m);
    kernel_->gram(X, n, Y, m, dim_, K.data());
    for (std::size_t j = 0; j < m; ++j) {
      double own;
      kernel_->gram(Y + j * dim_, 1, Y + j * dim_, 1, dim_, &own);
      diagonal[j] = static_cast<float>(own);
      if (!std::isfinite(diagonal[j])) beyond_range("X", j);
      for (std::size_t i = 0; i < n; ++i) out[i * ldo + j] = static_cast<float>(K[i * m + j]);
    }
    return;
  }
  ArcCosinePoints left(*closed, kernel_->scale(), dim_), right(left);
  left.resize(n);
  right.resize(m);
  for (std::size_t i = 0; i < n; ++i) left.set(i, X + i * dim_);
  for (std::size_t j = 0; j < m; ++j)
    if (diagonal[j] = right.set(j, Y + j * dim_); !std::isfinite(diagonal[j])) beyond_range("X", j);
  right.arrange(0, m);
  std::vector<std::size_t> rows(n);
  std::iota(rows.begin(), rows.end(), std::size_t{0});
  const double work =
      static_cast<double>(n) * static_cast<double>(m) * static_cast<double>(dim_) * kFloatWork;
  parallel_ranges(padded(m) / kPanel, work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t p = begin; p < end; ++p)
      left.block(rows.data(), n, right.panel(p), out + p * kPanel, ldo);
  });
}

void KernelRows::replace(const std::size_t* columns, std::size_t n, const double* X) {
  if (trends_ == 0 && weights_.empty()) return replace_coordinates(columns, n, X);
  Floats entering;
  replace_coordinates(columns, n, split(X, n, entering).data());
  if (trends_ == 0) return;
  for (std::size_t i = 0; i < n; ++i)
    std::copy_n(&entering[i * trends_], trends_, &trend_[columns[i] * trends_]);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t c = columns[i];
    diagonal_[c] += trend(c, c);
    for (std::size_t j = 0; !gram_.empty() && j < columns_; ++j)
      gram_[c * stride_ + j] += trend(c, j);
  }
  for (std::size_t i = 0; !gram_.empty() && i < n; ++i)
    for (std::size_t j = 0; j < columns_; ++j)
      gram_[j * stride_ + columns[i]] = gram_[columns[i] * stride_ + j];
}

void KernelRows::extend(const double* X, std::size_t columns) {
  if (trends_ == 0 && weights_.empty()) return extend_coordinates(X, columns);
  const std::size_t begin = columns_;
  Floats all;
  extend_coordinates(split(X, columns, all).data(), columns);
  if (trends_ == 0) return;
  trend_ = std::move(all);
  for (std::size_t i = begin; i < columns; ++i) diagonal_[i] += trend(i, i);
  for (std::size_t i = 0; !gram_.empty() && i < columns; ++i)
    for (std::size_t j = i < begin ? begin : 0; j < columns; ++j)
      gram_[i * stride_ + j] += trend(i, j);
}

void KernelRows::replace_coordinates(const std::size_t* columns, std::size_t n, const double* X) {
  if (!replaceable_) throw ArrayError("columns: this model was not built as replaceable");
  if (points_) {
    Floats unused(points_->panel_size());
    for (std::size_t i = 0; i < n; ++i)
      if (!std::isfinite(points_->squares(X + i * dim_, unused.data()))) beyond_range("X", i);
    for (std::size_t i = 0; i < n; ++i) {
      diagonal_[columns[i]] = points_->set(columns[i], X + i * dim_);
      points_->arrange(columns[i], columns[i] + 1);
    }
    return;
  }
  Doubles before(n * dim_), K(n * columns_);
  for (std::size_t i = 0; i < n; ++i) {
    std::copy_n(&X_[columns[i] * dim_], dim_, &before[i * dim_]);
    std::copy_n(X + i * dim_, dim_, &X_[columns[i] * dim_]);
  }
  kernel_->gram(X, n, X_.data(), columns_, dim_, K.data());
  if (const std::size_t bad = first_beyond(K, n, columns_, columns); bad < n) {
    for (std::size_t i = 0; i < n; ++i)
      std::copy_n(&before[i * dim_], dim_, &X_[columns[i] * dim_]);
    beyond_range("X", bad);
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < columns_; ++j)
      gram_[columns[i] * stride_ + j] = gram_[j * stride_ + columns[i]] =
          static_cast<float>(K[i * columns_ + j]);
    diagonal_[columns[i]] = gram_[columns[i] * stride_ + columns[i]];
  }
}

void KernelRows::extend_coordinates(const double* X, std::size_t columns) {
  if (!kernel_) throw ArrayError("X: a model of a Gram matrix has no kernel to extend it by");
  const std::size_t begin = columns_, n = columns - begin;
  if (const ArcCosine* closed = kernel_->closed_form()) {
    ArcCosinePoints fresh(*closed, kernel_->scale(), dim_);
    const bool all = !points_;  // of this call's points, the closed form has none yet
    ArcCosinePoints& points = all ? fresh : *points_;
    points.resize(columns);
    Floats diagonal(columns);
    for (std::size_t i = all ? 0 : begin; i < columns; ++i)
      if (diagonal[i] = points.set(i, X + i * dim_); !std::isfinite(diagonal[i])) {
        points.resize(begin);
        beyond_range("X", i);
      }
    points.arrange(all ? 0 : begin, columns);
    if (keeps_gram(columns))
      grow_gram(columns);
    else
      gram_ = Floats();
    columns_ = columns;
    stride_ = padded(columns);
    diagonal_.resize(stride_, 0.0f);
    std::copy(diagonal.begin() + static_cast<std::ptrdiff_t>(begin), diagonal.end(),
              diagonal_.begin() + static_cast<std::ptrdiff_t>(begin));
    if (!gram_.empty()) return fill(points, begin);
    row_.resize(stride_);
    if (all) points_ = std::move(fresh);
    return;
  }
  Doubles K(n * columns);
  kernel_->gram(X + begin * dim_, n, X, columns, dim_, K.data());
  std::vector<std::size_t> own(n);
  std::iota(own.begin(), own.end(), begin);
  if (const std::size_t bad = first_beyond(K, n, columns, own.data()); bad < n)
    beyond_range("X", begin + bad);
  grow_gram(columns);
  for (std::size_t i = begin; i < columns; ++i) {
    for (std::size_t j = 0; j <= i; ++j)
      gram_[i * stride_ + j] = gram_[j * stride_ + i] =
          static_cast<float>(K[(i - begin) * columns + j]);
    diagonal_[i] = gram_[i * stride_ + i];
  }
  if (replaceable_) X_.assign(X, X + columns * dim_);
}

}  // namespace zopo
