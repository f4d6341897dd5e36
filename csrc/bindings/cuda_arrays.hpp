// Arrays on a device as arguments and results of native calls. Only in a build with the CUDA
// engine.
#pragma once

#include <initializer_list>
#include <memory>

#include "bindings/bindings.hpp"
#include "cuda/runtime/array.hpp"

namespace zopo {

using CudaArray = std::shared_ptr<DeviceArray>;

// An array of a call, checked by on_device().
struct DeviceArgument {
  const char* name;
  const DeviceArray* array;
};

// A stream as Python names it: 0 and 1 the legacy default stream, 2 the per-thread one, otherwise a
// cudaStream_t (array API standard, __dlpack__; CUDA Array Interface, version 3).
StreamHandle stream_handle(std::uintptr_t stream);
std::uintptr_t stream_number(StreamHandle stream);

// ArrayError unless it has that many dimensions, `columns` entries in the last (-1: any), and
// float64.
void require_doubles(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns = -1);
void require_shape(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns = -1);
void require_rows(const DeviceArgument& argument, std::size_t rows);
// Makes `stream` wait for the arrays. DeviceError unless all lie on device `ordinal`; ArrayError
// when one holds NaN or infinity. To be called without the GIL.
void on_device(std::initializer_list<DeviceArgument> arguments, int ordinal, StreamHandle stream);

CudaArray new_cuda_array(std::vector<std::size_t> shape, int ordinal, StreamHandle stream,
                         Precision precision = Precision::Double);

}  // namespace zopo
