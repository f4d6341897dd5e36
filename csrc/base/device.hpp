// Device tags. An operation with a CPU and a CUDA implementation is a template over one of these,
// or an overload that takes a stream; the CUDA twin of csrc/<domain>/ is in csrc/cuda/<domain>/.
#pragma once

namespace zopo {

struct Cpu {};
struct Cuda {};

}  // namespace zopo
