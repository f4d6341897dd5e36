// What every CUDA source shares: checked calls and launches, memory, reductions, the grid barrier.
//
// Kernels are written so that the same text also compiles for the host (tests/native/emulation): shared
// memory is taken by shared_memory() only, inline assembly lies in cuda/linalg/mma.cuh only, and a loop
// that waits for another thread says ZOPO_SPIN().
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "base/error.hpp"

#ifdef ZOPO_EMULATE
#define ZOPO_SPIN() ::emulate::yield()
#else
#define ZOPO_SPIN() ((void)0)
#endif

namespace zopo {

// ---- errors ------------------------------------------------------------------------------------

// Throws for anything but success: DeviceMemoryError, DeviceLostError (the context is gone for
// good), DeviceError. `what` names the operation.
void check(cudaError_t status, const char* what);

// ---- devices -----------------------------------------------------------------------------------

// Makes a device current for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != ordinal) check(cudaSetDevice(ordinal), "cudaSetDevice");
    ordinal_ = ordinal;
  }
  ~DeviceGuard() {
    if (before_ != ordinal_) (void)cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0, ordinal_ = 0;
};

struct DeviceLimits {
  int multiprocessors;
  int shared_per_block;           // bytes, with the attribute raised
  int shared_per_multiprocessor;  // bytes
  int major, minor;
};
// Of the current device; read once for each.
const DeviceLimits& device_limits();

// ---- memory ------------------------------------------------------------------------------------

// Bytes on the current device, taken and given back in the order of a stream.
void* device_allocate(std::size_t bytes, cudaStream_t stream);
void device_free(void* p, cudaStream_t stream) noexcept;

// An array on the current device. Not initialised.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t size, cudaStream_t stream) : size_(size), stream_(stream) {
    if (size) data_ = static_cast<T*>(device_allocate(size * sizeof(T), stream));
  }
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    swap(o);
    return *this;
  }
  ~Buffer() {
    if (data_) device_free(data_, stream_);
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  void swap(Buffer& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(stream_, o.stream_);
  }
  // At least that many entries; what was there is lost when it grows.
  void need(std::size_t size, cudaStream_t stream) {
    if (size > size_) *this = Buffer(size + size / 2, stream);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

// Page-locked host memory that kernels write to: results of a few numbers need no copy of their
// own.
template <class T>
class Mailbox {
 public:
  Mailbox() = default;
  explicit Mailbox(std::size_t size) : size_(size) {
    check(cudaMallocHost(reinterpret_cast<void**>(&data_), size * sizeof(T)), "cudaMallocHost");
  }
  Mailbox(Mailbox&& o) noexcept { swap(o); }
  Mailbox& operator=(Mailbox&& o) noexcept {
    swap(o);
    return *this;
  }
  ~Mailbox() {
    if (data_) (void)cudaFreeHost(data_);
  }
  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) const { return data_[i]; }
  void swap(Mailbox& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
  }
  // At least that many entries; what was there is lost when it grows.
  void need(std::size_t size) {
    if (size > size_) *this = Mailbox(size + size / 2);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// Copies between any two places, host or device, in the order of the stream. Host memory that is
// not page-locked has been read when this returns.
inline void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}
inline void synchronize(cudaStream_t stream) {
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

// ---- launches ----------------------------------------------------------------------------------

struct Launch {
  dim3 grid, block;
  std::size_t shared = 0;  // bytes of dynamic shared memory
  cudaStream_t stream = nullptr;
  bool cooperative = false;  // all blocks at once, for grid_barrier()
};

// Raises the limit of dynamic shared memory of a kernel beyond 48 KiB.
void allow_shared(const void* kernel, std::size_t bytes);

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const Launch& how, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel is given as many arguments as it takes");
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  if (how.shared > 48 * 1024) allow_shared(reinterpret_cast<const void*>(kernel), how.shared);
  std::tuple<P...> values{static_cast<P>(std::forward<A>(arguments))...};
#ifdef ZOPO_EMULATE
  check(::emulate::launch(kernel, how.grid, how.block, how.shared, how.stream, how.cooperative,
                          std::move(values)),
        name);
#else
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        const auto* function = reinterpret_cast<const void*>(kernel);
        check(how.cooperative ? cudaLaunchCooperativeKernel(function, how.grid, how.block, pointers,
                                                            how.shared, how.stream)
                              : cudaLaunchKernel(function, how.grid, how.block, pointers,
                                                 how.shared, how.stream),
              name);
      },
      values);
#endif
}

template <class I>
constexpr I divide_up(I a, I b) {
  return (a + b - 1) / b;
}

// ---- in kernels --------------------------------------------------------------------------------

// The block's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ inline T* shared_memory() {
#ifdef ZOPO_EMULATE
  return static_cast<T*>(::emulate::shared());
#else
  extern __shared__ __align__(16) unsigned char zopo_shared[];
  return reinterpret_cast<T*>(zopo_shared);
#endif
}

constexpr unsigned kFullWarp = 0xffffffffu;

// Sum over the warp's lanes, the same in all of them and in every run.
template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

// Sum over the block, the same in all threads; `scratch` holds 33 numbers of shared memory. All
// threads of the block, a multiple of 32, take part.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  x = warp_sum(x);
  __syncthreads();  // the scratch may still be read from a sum before
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  if (warp == 0) {
    const int warps = static_cast<int>(blockDim.x) / 32;
    T y = lane < warps ? scratch[lane] : T(0);
    y = warp_sum(y);
    if (lane == 0) scratch[32] = y;
  }
  __syncthreads();
  return scratch[32];
}

// Waits for all blocks of a cooperative launch. state: two words, zero before the first use and
// kept between launches.
__device__ inline void grid_barrier(unsigned* state) {
  __syncthreads();
  if (threadIdx.x == 0) {
    volatile unsigned* generation = state + 1;
    const unsigned before = *generation;
    __threadfence();
    if (atomicAdd(state, 1u) == gridDim.x * gridDim.y * gridDim.z - 1) {
      *static_cast<volatile unsigned*>(state) = 0;
      __threadfence();
      *generation = before + 1;
    } else {
      while (*generation == before) ZOPO_SPIN();
    }
    __threadfence();
  }
  __syncthreads();
}

}  // namespace zopo
