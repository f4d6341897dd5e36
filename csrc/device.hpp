// Device tags: every operation is declared once, templated on one of these, and defined in the
// file of that device (ntk_cpu.cpp, ntk_cuda.cu, ...). Host logic (gp.hpp) is written once over the
// tag.
#pragma once

namespace zopo {

struct Cpu {};
struct Cuda {};

}  // namespace zopo
