// Device tags: every operation is declared once, templated on one of these, and defined in the
// file of that device (ntk/ntk.cpp, cuda/ntk/ntk.cu, ...). Host logic (gp/gaussian_process.hpp) is written once over the
// tag.
#pragma once

namespace zopo {

struct Cpu {};
struct Cuda {};

}  // namespace zopo
