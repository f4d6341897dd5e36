// Typed failures of the native layer; bindings/module.cpp turns each into the Python class of that name.
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
// The device cannot be used, or not for this; the object is as it was before the call.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// The device has too little memory left; the object is as it was before the call.
struct DeviceMemoryError : DeviceError {
  using DeviceError::DeviceError;
};
// The device or the process's context on it is gone, and with it whatever lay there.
struct DeviceLostError : DeviceError {
  using DeviceError::DeviceError;
};

}  // namespace zopo
