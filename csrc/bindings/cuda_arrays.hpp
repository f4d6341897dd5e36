// Device arrays as arguments and results of native calls; only in builds with the CUDA engine.
#pragma once

#include <initializer_list>
#include <memory>

#include "bindings/bindings.hpp"
#include "cuda/runtime/array.hpp"

namespace zopo {

using CudaArray = std::shared_ptr<DeviceArray>;

// An argument of a call, to be checked by on_device().
struct DeviceArgument {
  const char* name;
  const DeviceArray* array;
};

// Convert a stream's number in Python: 0 and 1 are the legacy default stream, 2 is the per-thread
// one, any other number a cudaStream_t (array API standard, __dlpack__; CUDA Array Interface,
// version 3).
StreamHandle stream_handle(std::uintptr_t stream);
std::uintptr_t stream_number(StreamHandle stream);

// Check dimensions: `ndim` of them, with `columns` entries in the last (-1: any) or `rows` in the
// first. require_doubles() also demands float64. ArrayError otherwise.
void require_doubles(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns = -1);
void require_shape(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns = -1);
void require_rows(const DeviceArgument& argument, std::size_t rows);
// Make `stream` wait for the arrays and check their entries. DeviceError unless all are on device
// `ordinal`; ArrayError at NaN or infinity. Call without the GIL.
void on_device(std::initializer_list<DeviceArgument> arguments, int ordinal, StreamHandle stream);

CudaArray new_cuda_array(std::vector<std::size_t> shape, int ordinal, StreamHandle stream,
                         Precision precision = Precision::Double);

}  // namespace zopo
