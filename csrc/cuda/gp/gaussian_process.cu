// Host logic of the Gaussian process on the CUDA engine. The CPU twin is gp/gaussian_process.cpp.
#include "gp/gaussian_process.inl"

#include "cuda/gp/engine.hpp"

namespace zopo {

template class GaussianProcess<Cuda>;

}  // namespace zopo
