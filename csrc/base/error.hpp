// Typed errors of the native layer; bindings/module.cpp raises the Python class of the same name.
#pragma once

#include <stdexcept>
#include <string>

namespace zopo {

struct ArrayError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct IndexError : std::out_of_range {
  using std::out_of_range::out_of_range;
};
struct NotPositiveDefiniteError : std::domain_error {
  using std::domain_error::domain_error;
};
struct ConfigError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// The device is unusable, or cannot do what was asked; the object is unchanged.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The device has too little free memory; the object is unchanged.
struct DeviceMemoryError : DeviceError {
  using DeviceError::DeviceError;
};
// The device, or the process's context on it, is lost with everything stored there.
struct DeviceLostError : DeviceError {
  using DeviceError::DeviceError;
};

}  // namespace zopo
