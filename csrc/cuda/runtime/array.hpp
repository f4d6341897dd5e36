// Arrays on a CUDA device, whoever made them: our own results, and what torch, CuPy and others hand
// in. Plain C++, so that the bindings need no CUDA headers.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "pool/pool.hpp"

namespace zopo {

// A cudaStream_t. Null is the legacy default stream.
using StreamHandle = void*;

// What keeps an array's memory. Our own is given back in the order of the stream it was taken on,
// so memory that work on another stream has read is not given back before that work is done.
struct DeviceMemory {
  std::atomic<bool> used_elsewhere{false};
  virtual ~DeviceMemory() = default;
};

// A C-contiguous array on device `ordinal`; what writes it is in the order of `stream`.
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

std::size_t precision_bytes(Precision precision);

// A new array, not initialised. DeviceMemoryError when there is no room.
DeviceArray device_array(std::vector<std::size_t> shape, Precision precision, int ordinal,
                         StreamHandle stream);
// From host memory, which may be changed as soon as this returns.
DeviceArray device_array_from_host(const void* data, std::vector<std::size_t> shape,
                                   Precision precision, int ordinal, StreamHandle stream);
DeviceArray device_array_copy(const DeviceArray& from, StreamHandle stream);
// Waits for the array's stream.
void copy_to_host(const DeviceArray& from, void* to);

// What is enqueued on `stream` from here on comes after what the array's own stream holds now.
void make_stream_wait(StreamHandle stream, const DeviceArray& array);
void wait_for_stream(int ordinal, StreamHandle stream);

// For each array, all of one device: the index of the first entry that is NaN or infinite, or its
// size. Waits for the result, once for all.
std::vector<std::size_t> first_non_finite(const std::vector<const DeviceArray*>& arrays,
                                          StreamHandle stream);

// The device that a pointer belongs to; ArrayError when it is no device memory.
int device_of(const void* pointer, const char* name);

}  // namespace zopo
