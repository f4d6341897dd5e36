// Devices, memory and errors of the CUDA engine.
#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

#include "cuda/ntk/network.cuh"
#include "cuda/runtime/device.hpp"
#include "cuda/runtime/support.cuh"

namespace zopo {
namespace {

constexpr int kMostDevices = 64;
// Up to this part of a device's memory, what is freed is kept for the next allocation rather than
// given back at the next wait for a stream. What is in use counts too (the pool's release
// threshold is of all it holds), so that a fixed small number would keep nothing where it matters:
// a few large matrices are beyond it, and every temporary array then a trip to the driver.
constexpr std::uint64_t kKeptPart = 4;

struct Found {
  int count = 0;
  std::string status;
};

// Looked for once, at first use: a driver that is missing or too old is an answer, not a failure.
const Found& found() {
  static const Found result = [] {
    Found f;
    const auto version = [](int v) {
      return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
    };
    int driver = 0, runtime = 0;  // 0: there is no driver
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    const cudaError_t status = cudaGetDeviceCount(&f.count);
    if (status != cudaSuccess) {
      (void)cudaGetLastError();  // not to be met again by another call
      f.count = 0;
      f.status = "no CUDA device can be used: ";
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
      f.status = "no CUDA device can be used: the driver lists none";
      return f;
    }
    if (f.count > kMostDevices) f.count = kMostDevices;
    const CudaDevice first = cuda_device(0);
    f.status = std::to_string(f.count) + " CUDA device(s); 0: " + first.name +
               ", compute capability " + std::to_string(first.major) + "." +
               std::to_string(first.minor) + ", driver for CUDA " + version(driver) + ", runtime " +
               version(runtime);
    if (first.major < 8) {
      f.count = 0;
      f.status = "no CUDA device can be used: " + first.name + " has compute capability " +
                 std::to_string(first.major) + "." + std::to_string(first.minor) +
                 ", at least 8.0 is needed";
    }
    return f;
  }();
  return result;
}

// A pool of our own on each device, so that what we keep does not change how others allocate.
cudaMemPool_t memory_pool(int ordinal) {
  static std::mutex mutex;
  static std::array<cudaMemPool_t, kMostDevices> pools{};
  const std::lock_guard lock(mutex);
  cudaMemPool_t& pool = pools[static_cast<std::size_t>(ordinal)];
  if (!pool) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = ordinal;
    check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
    std::uint64_t kept = cuda_device(ordinal).memory / kKeptPart;
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
    // After these the context is lost: every later call fails too (CUDA runtime API, error codes).
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
                            "; the device's context is lost and with it every object on it: "
                            "start a new process, or go on with device='cpu'");
    default:
      throw DeviceError(message);
  }
}

const DeviceLimits& device_limits() {
  static std::mutex mutex;
  static std::array<DeviceLimits, kMostDevices> limits{};
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
  // Always to the same value: another thread may be about to launch the kernel with more.
  const int most = std::max(device_limits().shared_per_block, static_cast<int>(bytes));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
        "cudaFuncSetAttribute");
}

CudaNetwork::~CudaNetwork() {
  if (!data.data()) return;
  try {
    const DeviceGuard guard(ordinal);
    (void)cudaDeviceSynchronize();
    Buffer<double>().swap(data);
  } catch (const DeviceError&) {  // the context is gone, and the memory with it
  }
}

std::shared_ptr<const CudaNetwork> cuda_network(const Network& net) {
  const std::size_t layers = net.layers();
  if (layers > kMostLayers)
    throw ConfigError("a network of " + std::to_string(layers) +
                      " hidden layers: the CUDA engine takes at most " +
                      std::to_string(kMostLayers) + "; use device='cpu'");
  int ordinal = 0;
  check(cudaGetDevice(&ordinal), "cudaGetDevice");
  auto& copies = net.copies();
  const std::lock_guard lock(copies.mutex);
  auto& kept = copies.on_device[ordinal];
  if (!kept) {
    auto made = std::make_shared<CudaNetwork>();
    made->ordinal = ordinal;
    NetworkView& v = made->view;
    v = {};
    v.layers = static_cast<int>(layers);
    v.dim = static_cast<int>(net.dim());
    v.hidden = static_cast<int>(net.hidden());
    std::vector<double> all;
    std::vector<std::pair<const double**, std::size_t>> places;
    const auto add = [&](const double*& to, const double* from, std::size_t size) {
      places.emplace_back(&to, all.size());
      all.insert(all.end(), from, from + size);
      all.resize((all.size() + 1) / 2 * 2);  // each starts on 16 bytes
    };
    for (std::size_t l = 0; l <= layers; ++l) {
      v.width[l] = static_cast<int>(net.width(l));
      if (l > 0) v.offset[l] = static_cast<int>(net.offset(l));
      const std::size_t outputs = l < layers ? net.width(l + 1) : 1;
      add(v.weight[l], net.weight(l), outputs * net.width(l));
      if (l < layers) {
        add(v.transposed[l], net.transposed(l), outputs * net.width(l));
        add(v.bias[l], net.bias(l), outputs);
      }
    }
    add(v.first_gram, net.first_gram(), net.width(1) * net.width(1));
    made->data = Buffer<double>(all.size(), nullptr);
    copy(made->data.data(), all.data(), all.size() * sizeof(double), nullptr);
    synchronize(nullptr);
    for (const auto& [to, at] : places) *to = made->data.data() + at;
    kept = made;
  }
  return std::static_pointer_cast<const CudaNetwork>(kept);
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
    throw DeviceError("cuda:" + std::to_string(ordinal) + " does not exist; there are " +
                      found().status);
}

}  // namespace zopo
