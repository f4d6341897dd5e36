// A pool on a device: construction, availability, and rows and distances in float64. The CPU twin
// is pool/pool.cpp; the scan is cuda/pool/nearest.cu.
//
// Construction reads the embeddings two or three times in float64: extents of the columns (for a
// copy), the largest norm, then norms and the copy. 4,000,000 x 384 takes a few milliseconds. Each
// kernel has a single version. `distances` is bound by float64 arithmetic, five operations and a
// conversion an entry, about as long as the memory takes.
#include <algorithm>
#include <cmath>
#include <string>

#include "cuda/pool/state.cuh"
#include "cuda/runtime/device.hpp"

namespace zopo {
namespace {

using namespace scan;

constexpr int kThreads = 256, kWarps = kThreads / 32;

// ---- kernels -----------------------------------------------------------------------------------

// Minimum and maximum of each column's standardised coordinates over the rows of one blockIdx.y:
// (gridDim.y, d) each.
template <class T>
__global__ __launch_bounds__(kThreads) void extents_kernel(PoolView p, double* low, double* high) {
  const std::int64_t j = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (j >= p.d) return;
  double lowest = INFINITY, highest = -INFINITY;
#pragma unroll 4
  for (std::int64_t i = blockIdx.y; i < p.m; i += gridDim.y) {
    const double e = standardised(p, row_of<T>(p, i), static_cast<int>(j));
    lowest = fmin(lowest, e);
    highest = fmax(highest, e);
  }
  low[blockIdx.y * std::int64_t{p.d} + j] = lowest;
  high[blockIdx.y * std::int64_t{p.d} + j] = highest;
}

// The largest |e_i - center|^2 of each block. Where requested, also these norms times `unit`, and
// scale (e_i - center) in half precision, with zeros beyond d. A warp a row.
template <class T>
__global__ __launch_bounds__(kThreads) void measure_kernel(PoolView p, double unit, double scale,
                                                           float* norm, uint4* rows,
                                                           double* largest) {
  auto* of_warp = shared_memory<double>();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  double most = 0.0;
  for (std::int64_t i = blockIdx.x * std::int64_t{kWarps} + warp; i < p.m;
       i += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const T* row = row_of<T>(p, i);
    double sum = 0.0;
    for (int v = lane; v < p.vectors; v += 32) {
      __half rounded[8];
#pragma unroll
      for (int q = 0; q < 8; ++q) {
        const int j = 8 * v + q;
        const double e = j < p.d ? standardised(p, row, j) - p.center[j] : 0.0;
        sum += e * e;
        rounded[q] = __float2half_rn(static_cast<float>(e * scale));
      }
      uint4 packed;
      static_assert(sizeof(packed) == sizeof(rounded));
      memcpy(&packed, rounded, sizeof(packed));
      if (rows) rows[i * p.vectors + v] = packed;
    }
    sum = warp_sum(sum);
    most = fmax(most, sum);
    if (norm && lane == 0) norm[i] = static_cast<float>(sum * unit);
  }
  if (lane == 0) of_warp[warp] = most;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < kWarps; ++w) most = fmax(most, of_warp[w]);
  largest[blockIdx.x] = most;
}

// Standardised coordinates, (n, d): of the rows `index`, or of the row `only` if that is null.
template <class T>
__global__ __launch_bounds__(kThreads) void rows_kernel(PoolView p, const std::int64_t* index,
                                                        std::int64_t only, double* out) {
  const std::int64_t n = blockIdx.x;
  const T* row = row_of<T>(p, index ? index[n] : only);
  for (int j = static_cast<int>(threadIdx.x); j < p.d; j += kThreads)
    out[n * p.d + j] = standardised(p, row, j);
}

// Squared distances to x (d,), for all rows, (m,).
template <class T>
__global__ __launch_bounds__(kThreads) void distances_kernel(PoolView p, const double* x,
                                                             double* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kWarps * 4;
  for (std::int64_t first = (blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32) * 4; first < p.m;
       first += stride) {
    const std::int64_t i = first + lane / kRowLanes;
    const double distance = squared_distance<T>(p, min(i, p.m - 1), x);
    if (lane % kRowLanes == 0 && i < p.m) out[i] = distance;
  }
}

__global__ void mark_kernel(std::uint32_t* words, std::int64_t i, bool taken) {
  if (threadIdx.x) return;
  const std::uint32_t bit = 1u << i % 32;
  words[i / 32] = taken ? words[i / 32] | bit : words[i / 32] & ~bit;
}

// ---- launchers ---------------------------------------------------------------------------------

// Return enough blocks to fill the device, each with at least `rows` rows.
unsigned blocks_for(std::int64_t m, std::int64_t rows) {
  return static_cast<unsigned>(
      std::min<std::int64_t>(divide_up(m, rows), 8 * device_limits().multiprocessors));
}

// Return the largest |e_i - center|^2, and fill `norm` and `rows` where they are not null.
double measure(const CudaPoolState& s, double unit, double scale, float* norm, uint4* rows) {
  const unsigned blocks = blocks_for(s.view.m, kWarps);
  const Buffer<double> largest(blocks, s.stream.handle);
  with_type(s.precision, [&]<class T>(const T*) {
    launch("measure_kernel", measure_kernel<T>,
           {.grid = dim3(blocks),
            .block = dim3(kThreads),
            .shared = kWarps * sizeof(double),
            .stream = s.stream.handle},
           s.view, unit, scale, norm, rows, largest.data());
  });
  Doubles all(blocks, 0.0);
  copy(all.data(), largest.data(), blocks * sizeof(double), s.stream.handle);
  synchronize(s.stream.handle);
  return blocks ? *std::max_element(all.begin(), all.end()) : 0.0;
}

struct Extent {
  Doubles middle;
  double largest = 0.0;  // largest distance of an entry from its column's middle
};

Extent extent(const CudaPoolState& s) {
  const auto d = static_cast<std::size_t>(s.view.d);
  const auto across = static_cast<unsigned>(divide_up<std::size_t>(d, kThreads));
  const unsigned limit = blocks_for(s.view.m, 1), blocks = std::min(limit, limit / across + 1);
  const Buffer<double> ends(2 * blocks * d, s.stream.handle);
  with_type(s.precision, [&]<class T>(const T*) {
    launch("extents_kernel", extents_kernel<T>,
           {.grid = dim3(across, blocks), .block = dim3(kThreads), .stream = s.stream.handle},
           s.view, ends.data(), ends.data() + blocks * d);
  });
  Doubles all(2 * blocks * d);
  copy(all.data(), ends.data(), all.size() * sizeof(double), s.stream.handle);
  synchronize(s.stream.handle);
  Extent found{Doubles(d, 0.0)};
  if (blocks == 0) return found;
  for (std::size_t j = 0; j < d; ++j) {
    double low = all[j], high = all[blocks * d + j];
    for (std::size_t b = 1; b < blocks; ++b) {
      low = std::min(low, all[b * d + j]);
      high = std::max(high, all[(blocks + b) * d + j]);
    }
    found.middle[j] = 0.5 * low + 0.5 * high;
    found.largest = std::max(found.largest, 0.5 * high - 0.5 * low);
  }
  return found;
}

// Return e with 2^e / 2 <= x < 2^e, clamped to what float64 can square and divide by; 0 for x = 0.
int exponent_of(double x) {
  int e = 0;
  if (std::isfinite(x))
    (void)std::frexp(x, &e);
  else
    e = 1000;
  return std::clamp(e, -1000, 1000);
}

}  // namespace

Pool<Cuda>::Pool(const void* data, bool on_device, Precision precision, std::size_t m,
                 std::size_t d, Doubles mean, Doubles inverse_scale, int ordinal, void* stream)
    : m_(m),
      d_(d),
      available_(m),
      mean_(std::move(mean)),
      inverse_scale_(std::move(inverse_scale)),
      taken_((m + 31) / 32) {
  require_cuda(ordinal);
  const DeviceGuard device(ordinal);
  const std::size_t vectors = (d + 7) / 8;
  const auto max_shared = static_cast<std::size_t>(device_limits().shared_per_block);
  if (m > 0xffffffffu || vectors > 0x7fffffffu / 64 ||
      scan_shared(static_cast<int>(vectors)) > max_shared)
    throw ConfigError("embeddings: a pool of shape (" + std::to_string(m) + ", " +
                      std::to_string(d) +
                      ") is too large for this device, which scans up to 2^32 "
                      "rows of about " +
                      std::to_string(max_shared / 5120 * 1000) + " numbers; use device='cpu'");
  if (on_device) synchronize(static_cast<cudaStream_t>(stream));
  state_ = std::make_unique<CudaPoolState>();
  CudaPoolState& s = *state_;
  const cudaStream_t own = s.stream.handle;
  s.ordinal = ordinal;
  s.precision = precision;
  PoolView& v = s.view;
  v = {};
  v.m = static_cast<std::int64_t>(m);
  v.d = static_cast<int>(d);
  v.vectors = static_cast<int>(vectors);
  const std::size_t entry = precision_bytes(precision);
  if (on_device) {
    v.data = data;
    v.stride = v.d;
  } else {  // pad half-precision rows to whole loads
    const std::size_t stride = precision == Precision::Half ? 8 * vectors : d;
    s.data = Buffer<unsigned char>(m * stride * entry, own);
    if (stride == d) {
      copy(s.data.data(), data, m * d * entry, own);
    } else if (m) {
      check(cudaMemsetAsync(s.data.data(), 0, m * stride * entry, own), "cudaMemsetAsync");
      check(cudaMemcpy2DAsync(s.data.data(), stride * entry, data, d * entry, d * entry, m,
                              cudaMemcpyHostToDevice, own),
            "cudaMemcpy2DAsync");
    }
    v.data = s.data.data();
    v.stride = static_cast<std::int64_t>(stride);
  }
  prepare();
}

Pool<Cuda>::~Pool() {
  if (!state_) return;
  try {
    const DeviceGuard device(state_->ordinal);
    state_.reset();
  } catch (const DeviceError&) {  // the context is lost, and its memory is freed already
  }
}

// Prepare the numbers that are scanned and the bound on their ranks (cuda/pool/scan.cuh).
void Pool<Cuda>::prepare() {
  CudaPoolState& s = *state_;
  PoolView& v = s.view;
  const cudaStream_t own = s.stream.handle;
  s.norm = Buffer<float>(m_, own);
  s.vectors = Buffer<double>(5 * d_, own);
  s.taken = Buffer<std::uint32_t>(taken_.size(), own);
  s.block_found = Buffer<Neighbor>(blocks_for(v.m, 1), own);
  s.selection = Buffer<Selection>(1, own);
  s.found = Mailbox<Neighbor>(1);
  s.count = Mailbox<unsigned long long>(1);
  check(cudaMemsetAsync(s.selection.data(), 0, sizeof(Selection), own), "cudaMemsetAsync");
  if (m_)
    check(cudaMemsetAsync(s.taken.data(), 0, taken_.size() * sizeof(taken_[0]), own),
          "cudaMemsetAsync");
  double* const vectors = s.vectors.data();
  v.mean = vectors;
  v.inverse_scale = vectors + d_;
  v.center = vectors + 2 * d_;
  v.factor = vectors + 3 * d_;
  copy(vectors, mean_.data(), d_ * sizeof(double), own);
  copy(vectors + d_, inverse_scale_.data(), d_ * sizeof(double), own);

  const bool in_place = s.precision == Precision::Half && v.stride == 8 * v.vectors &&
                        reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0;
  Extent e{Doubles(d_, 0.0)};
  double scale = 1.0, offset = 0.0, copied = 0.0;
  if (in_place) {
    v.rows = static_cast<const uint4*>(v.data);
    for (std::size_t j = 0; j < d_; ++j)
      offset += mean_[j] * inverse_scale_[j] * (mean_[j] * inverse_scale_[j]);
    offset = std::sqrt(offset);
  } else {
    s.rows = Buffer<uint4>(m_ * static_cast<std::size_t>(v.vectors), own);
    v.rows = s.rows.data();
    e = extent(s);
    scale = std::ldexp(1.0, 10 - exponent_of(e.largest));  // the middle of half precision's range
    copied = 0x1p-25 / scale;
  }
  copy(vectors + 2 * d_, e.middle.data(), d_ * sizeof(double), own);
  const double square = measure(s, 0.0, 0.0, nullptr, nullptr);
  const double unit = std::ldexp(1.0, -exponent_of(square));
  (void)measure(s, unit, scale, s.norm.data(), s.rows.data());
  v.norm = s.norm.data();
  Doubles factor(d_);
  for (std::size_t j = 0; j < d_; ++j)
    factor[j] = in_place ? inverse_scale_[j] * unit : unit / scale;
  copy(vectors + 3 * d_, factor.data(), d_ * sizeof(double), own);

  constexpr double u = 0x1p-24;
  const double n = static_cast<double>(d_), longest = std::sqrt(square);
  const double terms = 8.0 * ((v.vectors + 7) / 8) + 8.0, wide = 2.0 * (n / 8.0 + 12.0) * 0x1p-53;
  const double copy_error = in_place ? 0.0 : 0x1p-11 * longest + copied * std::sqrt(n);
  v.margin[0] = 4.0 * ((2.0 * u + wide) * square * unit + n * 0x1p-132);
  v.margin[1] = 4.0 * unit * 2.0 * (terms * u * (longest + offset) + copy_error);
  v.margin[2] = 4.0 * unit * wide;
  synchronize(own);
}

std::size_t Pool<Cuda>::available() const {
  const std::lock_guard lock(mutex_);
  return available_;
}

bool Pool<Cuda>::taken(std::size_t i) const {
  const std::lock_guard lock(mutex_);
  return is_taken(i);
}

void Pool<Cuda>::mark(std::size_t i, bool taken) {
  const std::lock_guard lock(mutex_);
  if (is_taken(i) == taken) return;
  const DeviceGuard device(state_->ordinal);
  launch("mark_kernel", mark_kernel,
         {.grid = dim3(1), .block = dim3(32), .stream = state_->stream.handle},
         state_->taken.data(), static_cast<std::int64_t>(i), taken);
  taken_[i / 32] ^= std::uint32_t{1} << (i % 32);
  available_ = taken ? available_ - 1 : available_ + 1;
}
void Pool<Cuda>::take(std::size_t i) { mark(i, true); }
void Pool<Cuda>::release(std::size_t i) { mark(i, false); }

void Pool<Cuda>::row(std::size_t i, double* out) const {
  const auto index = static_cast<std::int64_t>(i);
  rows(&index, 1, out);
}

void Pool<Cuda>::rows(const std::int64_t* index, std::size_t n, double* out) const {
  if (n == 0) return;
  const CudaPoolState& s = *state_;
  const cudaStream_t stream = s.stream.handle;
  const DeviceGuard device(s.ordinal);
  const Buffer<std::int64_t> which(n, stream);
  const Buffer<double> result(n * d_, stream);
  copy(which.data(), index, n * sizeof(*index), stream);
  with_type(s.precision, [&]<class T>(const T*) {
    launch("rows_kernel", rows_kernel<T>,
           {.grid = dim3(static_cast<unsigned>(n)), .block = dim3(kThreads), .stream = stream},
           s.view, which.data(), std::int64_t{0}, result.data());
  });
  copy(out, result.data(), n * d_ * sizeof(double), stream);
  synchronize(stream);
}

double Pool<Cuda>::radius(std::size_t i, std::size_t k) const {
  const std::lock_guard lock(mutex_);
  const CudaPoolState& s = *state_;
  const DeviceGuard device(s.ordinal);
  with_type(s.precision, [&]<class T>(const T*) {
    launch("rows_kernel", rows_kernel<T>,
           {.grid = dim3(1), .block = dim3(kThreads), .stream = s.stream.handle}, s.view, nullptr,
           static_cast<std::int64_t>(i), s.point());
  });
  // The candidate itself is counted too.
  return std::sqrt(nearest_many(std::min(k, m_ - 1) + 1, false).back().distance);
}

void Pool<Cuda>::distances(const double* x, double* out) const {
  const CudaPoolState& s = *state_;
  const cudaStream_t stream = s.stream.handle;
  const DeviceGuard device(s.ordinal);
  const Buffer<double> point(d_, stream), result(m_, stream);
  copy(point.data(), x, d_ * sizeof(double), stream);
  with_type(s.precision, [&]<class T>(const T*) {
    launch(
        "distances_kernel", distances_kernel<T>,
        {.grid = dim3(blocks_for(s.view.m, 4 * kWarps)), .block = dim3(kThreads), .stream = stream},
        s.view, point.data(), result.data());
  });
  copy(out, result.data(), m_ * sizeof(double), stream);
  synchronize(stream);
}

}  // namespace zopo
