// Definitions of device.hpp for a build without the CUDA engine. CMakeLists.txt sets ZOPO_NO_CUDA
// to the reason.
#include "base/error.hpp"
#include "cuda/runtime/device.hpp"

namespace zopo {

int cuda_device_count() { return 0; }

std::string cuda_status() { return "this build has the CPU engine only: " ZOPO_NO_CUDA; }

void require_cuda(int) { throw DeviceError("no CUDA device: " + cuda_status()); }

CudaDevice cuda_device(int ordinal) {
  require_cuda(ordinal);
  return {};
}

}  // namespace zopo
