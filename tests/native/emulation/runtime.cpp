// Streams, launches and the functions of the CUDA runtime. Streams are lazy: operations run, in the order
// they were enqueued, when the host waits.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "emulator.hpp"

using emulate::fail;
using emulate::is_pinned;
using emulate::memory;
using emulate::pinned;
using emulate::setting;

struct EmulatedStream {
  int device;
};
struct EmulatedEvent {
  std::size_t at = 0;  // number of operations enqueued before it
};
struct EmulatedPool {};

namespace {

std::recursive_mutex mutex;  // held by one call at a time

thread_local int current = 0;  // device

std::deque<std::function<void()>>& queue() {
  static auto* q = new std::deque<std::function<void()>>;
  return *q;
}
std::size_t enqueued = 0, executed = 0;

void push(std::function<void()> operation) {
  queue().push_back(std::move(operation));
  ++enqueued;
}
void drain() {
  while (!queue().empty()) {
    auto operation = std::move(queue().front());
    queue().pop_front();
    operation();
    ++executed;
  }
}

std::map<const void*, int>& shared_limits() {
  static auto* limits = new std::map<const void*, int>;
  return *limits;
}

int devices() { return static_cast<int>(setting("ZOPO_EMULATE_DEVICES", 1)); }

void move(void* to, const void* from, std::size_t bytes) {
  for (const void* p : {const_cast<const void*>(to), from})
    if (const emulate::Block* b = memory().of(p)) {
      const auto* end = static_cast<const unsigned char*>(p) + bytes;
      if (end > b->start + b->mapped) fail("a copy beyond the end of an allocation");
    }
  memory().protect(true);
  std::memmove(to, from, bytes);
  memory().protect(false);
}

}  // namespace

namespace emulate {

cudaError_t enqueue(const void* kernel, dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
                    bool cooperative, std::function<void()> work) {
  const std::lock_guard lock(mutex);
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.y > 65535 || grid.z > 65535 || grid.x == 0)
    return cudaErrorInvalidConfiguration;
  const auto limit = shared_limits().find(kernel);
  const std::size_t allowed =
      limit == shared_limits().end() ? 48 * 1024 : static_cast<std::size_t>(limit->second);
  if (shared > allowed) return cudaErrorInvalidValue;
  if (cooperative && std::size_t{grid.x} * grid.y * grid.z > 8)
    return cudaErrorLaunchOutOfResources;
  push([=, w = std::move(work)] { run(grid, block, shared, cooperative, w); });
  return cudaSuccess;
}

}  // namespace emulate

#define LOCKED const std::lock_guard lock(mutex)

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
  if (ordinal < 0 || ordinal >= devices()) return cudaErrorInvalidDevice;
  current = ordinal;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated on the host");
  p->major = 9;
  p->multiProcessorCount = 4;
  p->totalGlobalMem = memory().total();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchOutOfResources:
      return "too many blocks in a cooperative launch";
    default:
      return "an error";
  }
}
const char* cudaGetErrorName(cudaError_t e) {
  return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  LOCKED;
  *p = memory().allocate(bytes, current);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* p) {
  LOCKED;
  drain();
  if (p) memory().free(p);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = memory().total();
  *free = *total - memory().taken();
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = new EmulatedPool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
  return cudaMalloc(p, bytes);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  LOCKED;
  push([p] { memory().free(p); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  LOCKED;
  *p = std::malloc(std::max<std::size_t>(bytes, 1));
  if (!*p) return cudaErrorMemoryAllocation;
  std::memset(*p, emulate::kFill, bytes);
  pinned()[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  LOCKED;
  drain();
  pinned().erase(p);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  LOCKED;
  if (memory().of(from) || is_pinned(from)) {
    push([=] { move(to, from, bytes); });
  } else {  // pageable memory is read before the call returns
    const auto* p = static_cast<const unsigned char*>(from);
    push([to, kept = std::vector<unsigned char>(p, p + bytes)] {
      move(to, kept.data(), kept.size());
    });
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t s) {
  LOCKED;
  for (std::size_t i = 0; i < height; ++i)
    cudaMemcpyAsync(static_cast<char*>(to) + i * to_pitch,
                    static_cast<const char*>(from) + i * from_pitch, width, kind, s);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t) {
  LOCKED;
  push([=] {
    memory().protect(true);
    std::memset(p, value, bytes);
    memory().protect(false);
  });
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  LOCKED;
  const emulate::Block* block = memory().of(p);
  a->device = block ? block->device : 0;
  a->type = block          ? cudaMemoryTypeDevice
            : is_pinned(p) ? cudaMemoryTypeHost
                           : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new EmulatedStream{current};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  LOCKED;
  e->at = enqueued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  LOCKED;
  return executed >= e->at ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  LOCKED;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > 227 * 1024) return cudaErrorInvalidValue;
    shared_limits()[kernel] = value;
  }
  return cudaSuccess;
}
