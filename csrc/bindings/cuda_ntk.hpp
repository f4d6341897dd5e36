// What the bindings of the kernel on a device share.
#pragma once

#include <string>

#include "cuda/ntk/ntk.hpp"

namespace zopo {

// ConfigError for a name that is none.
GramPrecision gram_precision(const std::string& name);

}  // namespace zopo
