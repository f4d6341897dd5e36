// Host logic of the Gaussian process on the CPU engine. The CUDA twin is
// cuda/gp/gaussian_process.cu.
#include "gp/gaussian_process.inl"

#include "gp/cpu_engine.hpp"

namespace zopo {

template class GaussianProcess<Cpu>;

}  // namespace zopo
