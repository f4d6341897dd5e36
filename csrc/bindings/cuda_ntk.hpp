// Declarations shared by the bindings of the kernel on a device.
#pragma once

#include <string>

#include "cuda/ntk/ntk.hpp"

namespace zopo {

// Parse the name of a precision; ConfigError for an unknown one.
GramPrecision gram_precision(const std::string& name);

}  // namespace zopo
