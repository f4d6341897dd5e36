# Enables CUDA, or sets ZOPO_NO_CUDA to the reason why the CUDA engine cannot be compiled here.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(ZOPO_NO_CUDA "no working CUDA compiler (nvcc) was found: put nvcc on PATH or set CUDACXX")
  # Forget the result: a compiler installed later is found although the build folder stays.
  unset(CMAKE_CUDA_COMPILER CACHE)
  return()
endif()

enable_language(CUDA)
# Set the architectures after enable_language, which stops with an error at one that nvcc does not know.
set(CMAKE_CUDA_ARCHITECTURES ${ZOPO_CUDA_ARCHITECTURES})
if(NOT "cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
  string(CONCAT ZOPO_NO_CUDA "CMake ${CMAKE_VERSION} knows no C++20 for nvcc ${CMAKE_CUDA_COMPILER_VERSION}: "
    "the CUDA engine needs CMake 3.25.2 and nvcc 12.0 or later")
  return()
endif()

set(ZOPO_CHECK ${CMAKE_BINARY_DIR}/cuda_check)
file(WRITE ${ZOPO_CHECK}.cu "#include <cuda_runtime.h>\n#include <memory>\n"
  "template <class T> requires(sizeof(T) > 0) __global__ void fill(T* x) { *x = T{}; }\n"
  "int main() { fill<<<1, 1>>>(static_cast<int*>(nullptr)); return cudaDeviceSynchronize(); }\n")
try_compile(ZOPO_CUDA_COMPILES ${ZOPO_CHECK} ${ZOPO_CHECK}.cu
  CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON OUTPUT_VARIABLE ZOPO_CHECK_OUTPUT)
if(NOT ZOPO_CUDA_COMPILES)
  list(JOIN ZOPO_CUDA_ARCHITECTURES ", " ZOPO_CHECK)
  string(CONCAT ZOPO_NO_CUDA "nvcc ${CMAKE_CUDA_COMPILER_VERSION} with this host compiler does not compile C++20 "
    "for the architectures ${ZOPO_CHECK}")
  message(VERBOSE "${ZOPO_CHECK_OUTPUT}")
  unset(ZOPO_CUDA_COMPILES CACHE)
endif()
