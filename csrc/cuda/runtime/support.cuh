// Helpers of all CUDA sources: checked calls and launches, memory, reductions, the grid barrier.
//
// The same text of a kernel also compiles for the host (tests/native/emulation). Hence shared
// memory is obtained by shared_memory() only, inline assembly stays in cuda/linalg/mma.cuh, and a
// loop that waits for another thread contains ZOPO_SPIN().
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

// Throw unless `status` is success: DeviceMemoryError, DeviceLostError (the context is gone for
// good) or DeviceError. `what` names the operation.
void check(cudaError_t status, const char* what);

// ---- devices -----------------------------------------------------------------------------------

// Makes a device current within a scope.
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
// Return the limits of the current device; read once per device.
const DeviceLimits& device_limits();

// ---- memory ------------------------------------------------------------------------------------

// Allocate or free bytes on the current device, in the order of a stream.
void* device_allocate(std::size_t bytes, cudaStream_t stream);
void device_free(void* p, cudaStream_t stream) noexcept;

// An uninitialised array on the current device.
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
  // Make room for `size` entries; growing loses the contents.
  void need(std::size_t size, cudaStream_t stream) {
    if (size > size_) *this = Buffer(size + size / 2, stream);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

// Page-locked host memory that kernels write to, so that a few results need no copy of their own.
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
  // Make room for `size` entries; growing loses the contents.
  void need(std::size_t size) {
    if (size > size_) *this = Mailbox(size + size / 2);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// Copy between host and device in either direction, in the order of the stream. Pageable host
// memory has been read when this returns.
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
  bool cooperative = false;  // all blocks resident at once, for grid_barrier()
};

// Raise a kernel's limit of dynamic shared memory beyond 48 KiB.
void allow_shared(const void* kernel, std::size_t bytes);

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const Launch& how, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "expected one argument for each kernel parameter");
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

// Return the block's dynamic shared memory, aligned to 16 bytes.
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

// Sum over the warp's lanes; all lanes get the same bits, in every run.
template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

// Sum over the block; all threads get the same bits. `scratch` is shared memory for 33 numbers. All
// threads of the block take part; their number is a multiple of 32.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  x = warp_sum(x);
  __syncthreads();  // an earlier sum may still read the scratch
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

// Wait for all blocks of a cooperative launch. `state` has two words, zero before the first use and
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
