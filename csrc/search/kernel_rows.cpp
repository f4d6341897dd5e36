// Kernel rows over the candidates of a region (search/kernel_rows.hpp).
#include "search/kernel_rows.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

constexpr std::size_t kGroup = 64;  // columns are padded to a multiple of this

constexpr std::size_t padded(std::size_t columns) {
  return (columns + kGroup - 1) / kGroup * kGroup;
}

}  // namespace

KernelRows::KernelRows(const double* X, std::size_t columns, std::size_t d, const ArcCosine& kernel)
    : columns_(columns), stride_(padded(columns)), dim_(d), kernel_(kernel), dots_(stride_) {
  X_.resize(columns * d);
  across_.assign(d * stride_, 0.0f);
  square_.assign(kernel.depth + 1, Floats(stride_, 1.0f));
  diagonal_.assign(stride_, 0.0f);
  const double w = kernel.weight_variance, b = kernel.bias_variance;
  for (std::size_t i = 0; i < columns; ++i) {
    double square = 0.0;
    for (std::size_t j = 0; j < d; ++j) {
      const auto x = static_cast<float>(X[i * d + j]);
      X_[i * d + j] = x;
      square += static_cast<double>(x) * x;
    }
    double S = w / static_cast<double>(d) * square + b;
    double T = kernel.ntk ? S : 0.0;
    square_[0][i] = static_cast<float>(S);
    for (std::size_t l = 1; l <= kernel.depth; ++l) {
      const double after = w / 2 * S + b;
      T = (kernel.ntk ? after : S / 2) + w / 2 * T;
      square_[l][i] = static_cast<float>(S = after);
    }
    diagonal_[i] = static_cast<float>(T / kernel.scale);
    if (!std::isfinite(square) || !std::isfinite(diagonal_[i]) || !std::isfinite(square_.back()[i]))
      throw ArrayError("X: row " + std::to_string(i) + " exceeds the range of single precision");
  }
  for (std::size_t begin = 0; begin < columns; begin += kGroup)  // transpose by whole cache lines
    for (std::size_t j = 0; j < d; ++j)
      for (std::size_t i = begin; i < std::min(begin + kGroup, columns); ++i)
        across_[j * stride_ + i] = X_[i * d + j];
}

KernelRows::KernelRows(const double* K, std::size_t columns)
    : columns_(columns), stride_(padded(columns)) {
  gram_.assign(columns * stride_, 0.0f);
  diagonal_.assign(stride_, 0.0f);
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      gram_[i * stride_ + j] = static_cast<float>(K[i * columns + j]);
      if (!std::isfinite(gram_[i * stride_ + j]))
        throw ArrayError("K: row " + std::to_string(i) + " exceeds the range of single precision");
    }
    diagonal_[i] = gram_[i * stride_ + i];
  }
}

void KernelRows::row(std::size_t column, float* out) {
  if (!gram_.empty()) {
    std::copy_n(gram_.data() + column * stride_, stride_, out);
    return;
  }
  const Simd& loops = simd();
  std::fill(dots_.begin(), dots_.end(), 0.0f);
  loops.combine_f32(across_.data(), stride_, dim_, X_.data() + column * dim_, stride_,
                    dots_.data());
  const auto w = static_cast<float>(kernel_.weight_variance);
  const auto b = static_cast<float>(kernel_.bias_variance);
  loops.arc_cosine_first(stride_, w / static_cast<float>(dim_), b, kernel_.ntk, dots_.data(), out);
  for (std::size_t l = 0; l < kernel_.depth; ++l)
    loops.arc_cosine_layer(stride_, w, b, kernel_.ntk, square_[l][column], square_[l].data(),
                           dots_.data(), out);
  const auto inverse = static_cast<float>(1.0 / kernel_.scale);
  for (std::size_t j = 0; j < stride_; ++j) out[j] *= inverse;
  out[column] = diagonal_[column];  // exact, where the rounding of the angle would show
}

}  // namespace zopo
