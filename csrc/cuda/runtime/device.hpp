// Which CUDA devices there are, and why there is none: plain C++, for a build with the CUDA engine
// (cuda/runtime/device.cu) and for one without (cuda/runtime/no_device.cpp).
#pragma once

#include <string>

namespace zopo {

struct CudaDevice {
  std::string name;
  int major, minor;     // compute capability
  int multiprocessors;  // streaming multiprocessors
  std::size_t memory;   // bytes
};

// Devices this build can use; looked for at the first call, never at import. 0 with the reason in
// cuda_status().
int cuda_device_count();
CudaDevice cuda_device(int ordinal);
// One line: what was found, or why nothing can be used.
std::string cuda_status();
// DeviceError, with what to do about it, when that device cannot be used.
void require_cuda(int ordinal);

}  // namespace zopo
