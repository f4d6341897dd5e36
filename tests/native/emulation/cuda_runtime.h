// The part of the CUDA runtime that csrc/ uses, on the host. A C++ compiler compiles the same
// kernels, and they run thread by thread, so that index arithmetic, barriers and memory accesses
// are tested without a GPU. Speed, and what only the hardware decides (memory ordering, occupancy),
// is not tested.
//
//  * Each CUDA thread is a fiber; __syncthreads, shuffles and mma hand over to the next one. Blocks run
//    one after another, those of a cooperative launch together.
//  * ZOPO_EMULATE_ORDER=forward|reverse|SEED sets the order of fibers and blocks. A missing barrier gives
//    other results in another order.
//  * Device memory is closed to host code (its pages are protected while no kernel runs), filled with NaNs,
//    and fenced: a write beyond its end is reported, at the latest when it is freed.
//  * Streams are lazy: launches and copies run when the host waits for them, so that a missing wait shows.
//  * A barrier that not all threads reach ends the process with a message.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __ldg(p) (*(p))
#define __ldcs(p) (*(p))

// ---- types -----------------------------------------------------------------------------------------

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoDevice = 100,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDeviceUninitialized = 201,
  cudaErrorECCUncorrectable = 214,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchTimeout = 702,
  cudaErrorContextIsDestroyed = 709,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  std::size_t totalGlobalMem;
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
using cudaMemPool_t = struct EmulatedPool*;

// ---- runtime ---------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* ordinal);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int ordinal);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);
const char* cudaGetErrorName(cudaError_t);
cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMemPoolCreate(cudaMemPool_t*, const cudaMemPoolProps*);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*);
cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t);
cudaError_t cudaFreeAsync(void* p, cudaStream_t);
cudaError_t cudaMallocHost(void** p, std::size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes*, const void*);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value);
template <class F>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F, int, std::size_t) {
  *blocks = 1;
  return cudaSuccess;
}

// ---- launches --------------------------------------------------------------------------------------

namespace emulate {

struct Coordinates {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern Coordinates now;  // of the running fiber

cudaError_t enqueue(const void* kernel, dim3 grid, dim3 block, std::size_t shared,
                    cudaStream_t stream, bool cooperative, std::function<void()> body);
template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared,
                   cudaStream_t stream, bool cooperative, std::tuple<P...> values) {
  return enqueue(reinterpret_cast<const void*>(kernel), grid, block, shared, stream, cooperative,
                 [kernel, values] { std::apply(kernel, values); });
}

void* shared();  // shared memory of the running block
void yield();    // hand over to the next fiber
void block_barrier();
int block_barrier_count(int predicate);

// Data exchanged between the lanes of a warp: every lane of `mask` contributes `bytes` (at most
// 128) and gets a view of all contributions, valid until the lane's next exchange.
struct Exchanged {
  const unsigned char* of_lane[32];
  template <class T>
  T at(int lane) const {
    T x;
    std::memcpy(&x, of_lane[lane], sizeof(T));
    return x;
  }
};
Exchanged exchange(unsigned mask, const void* mine, std::size_t bytes);
int lane();

// cp.async of the calling thread. A copy is made when it is waited for, not before.
void copy_async(void* to, const void* from, std::size_t bytes, std::size_t valid);
void copy_async_commit();
void copy_async_wait(std::size_t groups_left);

template <class T>
Exchanged exchange(unsigned mask, const T& mine) {
  return exchange(mask, &mine, sizeof(T));
}

}  // namespace emulate

#define threadIdx (::emulate::now.thread)
#define blockIdx (::emulate::now.block)
#define blockDim (::emulate::now.block_size)
#define gridDim (::emulate::now.grid_size)
constexpr int warpSize = 32;

inline void __syncthreads() { ::emulate::block_barrier(); }
inline int __syncthreads_count(int p) { return ::emulate::block_barrier_count(p); }
inline int __syncthreads_or(int p) { return ::emulate::block_barrier_count(p) != 0; }
inline int __syncthreads_and(int p) { return ::emulate::block_barrier_count(!p) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { ::emulate::yield(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) { ::emulate::exchange(mask, 0); }
template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  const auto all = ::emulate::exchange(mask, x);
  const int lane = ::emulate::lane();
  return all.template at<T>(lane / width * width + (from % width + width) % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
  const auto all = ::emulate::exchange(mask, x);
  const int lane = ::emulate::lane(), from = lane ^ bits;
  return from / width == lane / width ? all.template at<T>(from) : x;
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
  const auto all = ::emulate::exchange(mask, x);
  const int lane = ::emulate::lane(), from = lane + static_cast<int>(by);
  return from / width == lane / width ? all.template at<T>(from) : x;
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
  const auto all = ::emulate::exchange(mask, x);
  const int lane = ::emulate::lane(), from = lane - static_cast<int>(by);
  return from >= 0 && from / width == lane / width ? all.template at<T>(from) : x;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto all = ::emulate::exchange(mask, predicate);
  unsigned bits = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1 && all.at<int>(l)) bits |= 1u << l;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline float __int_as_float(int x) {
  float f;
  std::memcpy(&f, &x, 4);
  return f;
}
inline int __float_as_int(float f) {
  int x;
  std::memcpy(&x, &f, 4);
  return x;
}
inline float __uint_as_float(unsigned x) {
  float f;
  std::memcpy(&f, &x, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned x;
  std::memcpy(&x, &f, 4);
  return x;
}
inline double __longlong_as_double(long long x) {
  double f;
  std::memcpy(&f, &x, 8);
  return f;
}
inline long long __double_as_longlong(double f) {
  long long x;
  std::memcpy(&x, &f, 8);
  return x;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
using std::fma;
using std::fmax;
using std::fmin;
using std::max;
using std::min;
using std::sqrt;

// Fibers hand over only where the code waits, so plain reads and writes are atomic.
template <class T, class U>
T atomicAdd(T* p, U x) {
  const T old = *p;
  *p = old + static_cast<T>(x);
  return old;
}
template <class T, class U>
T atomicMax(T* p, U x) {
  const T old = *p;
  *p = std::max(old, static_cast<T>(x));
  return old;
}
template <class T, class U>
T atomicMin(T* p, U x) {
  const T old = *p;
  *p = std::min(old, static_cast<T>(x));
  return old;
}
template <class T, class U>
T atomicExch(T* p, U x) {
  const T old = *p;
  *p = static_cast<T>(x);
  return old;
}
template <class T, class U>
T atomicOr(T* p, U x) {
  const T old = *p;
  *p = old | static_cast<T>(x);
  return old;
}
template <class T, class U>
T atomicInc(T* p, U limit) {
  const T old = *p;
  *p = old >= limit ? 0 : old + 1;
  return old;
}
template <class T, class U, class V>
T atomicCAS(T* p, U expected, V x) {
  const T old = *p;
  if (old == static_cast<T>(expected)) *p = static_cast<T>(x);
  return old;
}
