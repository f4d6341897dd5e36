// Devices, memory and errors of the CUDA engine.
#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/support.cuh"

namespace zopo {
namespace {

constexpr int kMaxDevices = 64;
// Freed memory is kept for the next allocation, up to this part of the device's memory, instead of
// being returned at the next stream synchronisation. The release threshold of a pool also counts
// memory in use, so a small fixed number would keep nothing once a few large matrices exceed it;
// every temporary array would then cost a call of the driver.
constexpr std::uint64_t kReleaseThresholdPart = 4;

struct Found {
  int count = 0;
  std::string status;
};

// Look for devices once, at first use. A missing or outdated driver is a result, not a failure.
const Found& found() {
  static const Found result = [] {
    Found f;
    const auto version = [](int v) {
      return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
    };
    int driver = 0, runtime = 0;  // 0: no driver
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    const cudaError_t status = cudaGetDeviceCount(&f.count);
    if (status != cudaSuccess) {
      (void)cudaGetLastError();  // clear it, so that a later call does not report it
      f.count = 0;
      f.status = "no usable CUDA device: ";
      if (driver == 0)
        f.status += "no NVIDIA driver is installed";
      else if (status == cudaErrorInsufficientDriver)
        f.status += "the driver is for CUDA " + version(driver) + ", this build needs " +
                    version(runtime) + ": update it, or build with an older CUDA toolkit";
      else
        f.status += cudaGetErrorString(status);
      return f;
    }
    if (f.count == 0) {
      f.status = "no usable CUDA device: the driver lists none";
      return f;
    }
    if (f.count > kMaxDevices) f.count = kMaxDevices;
    const CudaDevice first = cuda_device(0);
    f.status = std::to_string(f.count) + " CUDA device(s); 0: " + first.name +
               ", compute capability " + std::to_string(first.major) + "." +
               std::to_string(first.minor) + ", driver for CUDA " + version(driver) + ", runtime " +
               version(runtime);
    if (first.major < 8) {
      f.count = 0;
      f.status = "no usable CUDA device: " + first.name + " has compute capability " +
                 std::to_string(first.major) + "." + std::to_string(first.minor) +
                 ", at least 8.0 is required";
    }
    return f;
  }();
  return result;
}

// Return a memory pool of this library's own, so that its settings do not affect other allocations.
cudaMemPool_t memory_pool(int ordinal) {
  static std::mutex mutex;
  static std::array<cudaMemPool_t, kMaxDevices> pools{};
  const std::lock_guard lock(mutex);
  cudaMemPool_t& pool = pools[static_cast<std::size_t>(ordinal)];
  if (!pool) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = ordinal;
    check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
    std::uint64_t kept = cuda_device(ordinal).memory / kReleaseThresholdPart;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept),
          "cudaMemPoolSetAttribute");
  }
  return pool;
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  const std::string message =
      std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  switch (status) {
    case cudaErrorMemoryAllocation:
      throw DeviceMemoryError(message +
                              "; the device has too little free memory: use fewer points at a "
                              "time, or device='cpu'");
    // These errors lose the context: every later call fails too (CUDA runtime API, error codes).
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorContextIsDestroyed:
      throw DeviceLostError(message +
                            "; the device's context is lost, and every object on it with it: "
                            "start a new process, or continue with device='cpu'");
    default:
      throw DeviceError(message);
  }
}

const DeviceLimits& device_limits() {
  static std::mutex mutex;
  static std::array<DeviceLimits, kMaxDevices> limits{};
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  DeviceLimits& l = limits[static_cast<std::size_t>(ordinal)];
  if (l.multiprocessors == 0) {
    const auto read = [&](cudaDeviceAttr attribute) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, attribute, ordinal), "cudaDeviceGetAttribute");
      return value;
    };
    l.shared_per_block = read(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    l.shared_per_multiprocessor = read(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    l.major = read(cudaDevAttrComputeCapabilityMajor);
    l.minor = read(cudaDevAttrComputeCapabilityMinor);
    l.multiprocessors = read(cudaDevAttrMultiProcessorCount);
  }
  return l;
}

void* device_allocate(std::size_t bytes, cudaStream_t stream) {
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), "cudaGetDevice");
  void* p = nullptr;
  check(cudaMallocFromPoolAsync(&p, bytes, memory_pool(ordinal), stream),
        "allocating device memory");
  return p;
}

void device_free(void* p, cudaStream_t stream) noexcept { (void)cudaFreeAsync(p, stream); }

void allow_shared(const void* kernel, std::size_t bytes) {
  // Always set the same value: another thread may be about to launch the kernel with more.
  const int limit = std::max(device_limits().shared_per_block, static_cast<int>(bytes));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit),
        "cudaFuncSetAttribute");
}

int cuda_device_count() { return found().count; }
std::string cuda_status() { return found().status; }

CudaDevice cuda_device(int ordinal) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, ordinal), "cudaGetDeviceProperties");
  return {p.name, p.major, p.minor, p.multiProcessorCount, p.totalGlobalMem};
}

void require_cuda(int ordinal) {
  if (found().count == 0) throw DeviceError(found().status);
  if (ordinal < 0 || ordinal >= found().count)
    throw DeviceError("cuda:" + std::to_string(ordinal) + " does not exist; found " +
                      found().status);
}

}  // namespace zopo
