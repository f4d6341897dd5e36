// CUDA devices, or the reason for none. Plain C++ with one definition for builds with the CUDA
// engine (device.cu) and one for builds without (no_device.cpp).
#pragma once

#include <string>

namespace zopo {

struct CudaDevice {
  std::string name;
  int major, minor;     // compute capability
  int multiprocessors;  // streaming multiprocessors
  std::size_t memory;   // bytes
};

// Return the number of devices this build can use; looks for them at the first call, never at
// import. cuda_status() has the reason for 0.
int cuda_device_count();
CudaDevice cuda_device(int ordinal);
// Describe in one line the devices found, or why none is usable.
std::string cuda_status();
// Throw DeviceError, with a remedy, when the device cannot be used.
void require_cuda(int ordinal);

}  // namespace zopo
