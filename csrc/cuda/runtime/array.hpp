// Arrays on a CUDA device: results of this library, and arrays that torch, CuPy and others hand in.
// Plain C++, so that the bindings need no CUDA headers.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/precision.hpp"

namespace zopo {

// A cudaStream_t. Null is the legacy default stream.
using StreamHandle = void*;

// Owner of an array's memory. Memory of this library is freed in the order of the stream that
// allocated it, so memory read by work on another stream must not be freed before that work is
// done.
struct DeviceMemory {
  std::atomic<bool> used_elsewhere{false};
  virtual ~DeviceMemory() = default;
};

// A C-contiguous array on device `ordinal`; its writes are ordered by `stream`.
struct DeviceArray {
  std::shared_ptr<DeviceMemory> memory;
  void* data = nullptr;
  std::vector<std::size_t> shape;
  Precision precision = Precision::Double;
  int ordinal = 0;
  StreamHandle stream = nullptr;
  bool read_only = false;

  std::size_t size() const;
  std::size_t bytes() const;
  std::string device() const { return "cuda:" + std::to_string(ordinal); }
  const double* doubles() const { return static_cast<const double*>(data); }
  double* mutable_doubles() const { return static_cast<double*>(data); }
};

// Allocate an array without initialising it. DeviceMemoryError when there is no room.
DeviceArray device_array(std::vector<std::size_t> shape, Precision precision, int ordinal,
                         StreamHandle stream);
// Copy an array from host memory, which the caller may change as soon as this returns.
DeviceArray device_array_from_host(const void* data, std::vector<std::size_t> shape,
                                   Precision precision, int ordinal, StreamHandle stream);
DeviceArray device_array_copy(const DeviceArray& from, StreamHandle stream);
// Copy an array to host memory; waits for the array's stream.
void copy_to_host(const DeviceArray& from, void* to);

// Order work: what is enqueued on `stream` from now on runs after the current work of the array's
// own stream.
void make_stream_wait(StreamHandle stream, const DeviceArray& array);
void wait_for_stream(int ordinal, StreamHandle stream);

// Return, for each array, the index of the first NaN or infinity, or its size. All arrays are on
// one device. Waits once, for all results.
std::vector<std::size_t> first_non_finite(const std::vector<const DeviceArray*>& arrays,
                                          StreamHandle stream);

// Return the device that a pointer belongs to; ArrayError when it is not device memory.
int device_of(const void* pointer, const char* name);

}  // namespace zopo
