// Device arrays: memory, order between streams, and the check for NaN and infinity.
//
// find_non_finite reads an array once, 16 bytes a load, and keeps the lowest index found. Memory
// bounds it: n bytes and no arithmetic. A single version serves few and many entries alike.
#include <algorithm>

#include "cuda/runtime/array.hpp"
#include "cuda/runtime/support.cuh"

namespace zopo {
namespace {

cudaStream_t stream_of(StreamHandle stream) { return static_cast<cudaStream_t>(stream); }

class OwnMemory final : public DeviceMemory {
 public:
  OwnMemory(std::size_t bytes, int ordinal, cudaStream_t stream)
      : buffer_(bytes, stream), ordinal_(ordinal) {}
  ~OwnMemory() override {
    try {
      const DeviceGuard guard(ordinal_);
      if (used_elsewhere) (void)cudaDeviceSynchronize();
      Buffer<unsigned char>().swap(buffer_);
    } catch (const DeviceError&) {  // the context is lost, and its memory is freed already
    }
  }
  void* data() const { return buffer_.data(); }

 private:
  Buffer<unsigned char> buffer_;
  int ordinal_;
};

// ---- first non-finite entry --------------------------------------------------------------------

// Exponent bits of a type: an entry is NaN or infinite when all of them are set.
template <class Bits>
struct Exponent;
template <>
struct Exponent<std::uint16_t> {
  static constexpr std::uint16_t mask = 0x7c00;
};
template <>
struct Exponent<std::uint32_t> {
  static constexpr std::uint32_t mask = 0x7f800000;
};
template <>
struct Exponent<std::uint64_t> {
  static constexpr std::uint64_t mask = 0x7ff0000000000000;
};

template <class Bits>
__device__ inline bool non_finite(Bits x) {
  return (x & Exponent<Bits>::mask) == Exponent<Bits>::mask;
}

// Test the entries within a 32-bit word; for 64-bit entries the word must be an upper half.
template <class Bits>
__device__ inline bool non_finite_within(unsigned word) {
  if constexpr (sizeof(Bits) == 2)
    return non_finite<std::uint16_t>(static_cast<std::uint16_t>(word & 0xffffu)) ||
           non_finite<std::uint16_t>(static_cast<std::uint16_t>(word >> 16));
  else if constexpr (sizeof(Bits) == 4)
    return non_finite<std::uint32_t>(word);
  else
    return (word & 0x7ff00000u) == 0x7ff00000u;
}

// Search data[0, size); the first 16 * quads bytes are aligned and read 16 bytes at a time.
template <class Bits>
__global__ void find_non_finite(const Bits* data, std::int64_t size, std::int64_t quads,
                                unsigned long long* first) {
  constexpr int kEach = 16 / static_cast<int>(sizeof(Bits));
  const auto thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const auto threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const auto look = [&](std::int64_t i) {
    if (non_finite<Bits>(data[i])) atomicMin(first, static_cast<unsigned long long>(i));
  };
  const auto* vectors = reinterpret_cast<const uint4*>(data);
  for (std::int64_t v = thread; v < quads; v += threads) {
    const uint4 w = vectors[v];
    const bool found =
        (sizeof(Bits) < 8 && (non_finite_within<Bits>(w.x) || non_finite_within<Bits>(w.z))) ||
        non_finite_within<Bits>(w.y) || non_finite_within<Bits>(w.w);
    if (found)
      for (int k = 0; k < kEach; ++k) look(v * kEach + k);
  }
  for (std::int64_t i = quads * kEach + thread; i < size; i += threads) look(i);
}

template <class Bits>
void launch_find(const DeviceArray& array, unsigned long long* first, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const auto* data = static_cast<const Bits*>(array.data);
  const auto size = static_cast<std::int64_t>(array.size());
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  constexpr std::int64_t kEach = 16 / static_cast<std::int64_t>(sizeof(Bits));
  const std::int64_t quads = aligned ? size / kEach : 0;
  const std::int64_t work = std::max(quads, size - quads * kEach);
  const std::int64_t max_blocks = 8LL * device_limits().multiprocessors;
  const auto blocks =
      static_cast<unsigned>(std::min(divide_up<std::int64_t>(work, kThreads), max_blocks));
  launch("find_non_finite", find_non_finite<Bits>,
         {.grid = blocks, .block = kThreads, .stream = stream}, data, size, quads, first);
}

}  // namespace

std::size_t DeviceArray::size() const {
  std::size_t n = 1;
  for (const std::size_t s : shape) n *= s;
  return n;
}
std::size_t DeviceArray::bytes() const { return size() * precision_bytes(precision); }

DeviceArray device_array(std::vector<std::size_t> shape, Precision precision, int ordinal,
                         StreamHandle stream) {
  const DeviceGuard guard(ordinal);
  DeviceArray array{nullptr, nullptr, std::move(shape), precision, ordinal, stream, false};
  auto memory = std::make_shared<OwnMemory>(array.bytes(), ordinal, stream_of(stream));
  array.data = memory->data();
  array.memory = std::move(memory);
  return array;
}

DeviceArray device_array_from_host(const void* data, std::vector<std::size_t> shape,
                                   Precision precision, int ordinal, StreamHandle stream) {
  DeviceArray array = device_array(std::move(shape), precision, ordinal, stream);
  const DeviceGuard guard(ordinal);
  copy(array.data, data, array.bytes(), stream_of(stream));
  synchronize(stream_of(stream));  // until then page-locked memory may still be read
  return array;
}

DeviceArray device_array_copy(const DeviceArray& from, StreamHandle stream) {
  DeviceArray array = device_array(from.shape, from.precision, from.ordinal, stream);
  make_stream_wait(stream, from);
  const DeviceGuard guard(from.ordinal);
  copy(array.data, from.data, array.bytes(), stream_of(stream));
  return array;
}

void copy_to_host(const DeviceArray& from, void* to) {
  const DeviceGuard guard(from.ordinal);
  copy(to, from.data, from.bytes(), stream_of(from.stream));
  synchronize(stream_of(from.stream));
}

void make_stream_wait(StreamHandle stream, const DeviceArray& array) {
  if (stream == array.stream) return;
  array.memory->used_elsewhere = true;
  const DeviceGuard guard(array.ordinal);
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(event, stream_of(array.stream));
  const cudaError_t waits =
      recorded == cudaSuccess ? cudaStreamWaitEvent(stream_of(stream), event, 0) : recorded;
  (void)cudaEventDestroy(event);  // deferred by the runtime until the event has completed
  check(waits, "making one stream wait for another");
}

void wait_for_stream(int ordinal, StreamHandle stream) {
  const DeviceGuard guard(ordinal);
  synchronize(stream_of(stream));
}

std::vector<std::size_t> first_non_finite(const std::vector<const DeviceArray*>& arrays,
                                          StreamHandle stream) {
  std::vector<unsigned long long> first;
  for (const DeviceArray* array : arrays) first.push_back(array->size());
  if (arrays.empty()) return {};
  const DeviceGuard guard(arrays.front()->ordinal);
  const cudaStream_t s = stream_of(stream);
  const Buffer<unsigned long long> found(first.size(), s);
  const std::size_t bytes = first.size() * sizeof first[0];
  copy(found.data(), first.data(), bytes, s);
  for (std::size_t k = 0; k < arrays.size(); ++k) {
    const DeviceArray& array = *arrays[k];
    if (array.precision == Precision::Half)
      launch_find<std::uint16_t>(array, found.data() + k, s);
    else if (array.precision == Precision::Single)
      launch_find<std::uint32_t>(array, found.data() + k, s);
    else
      launch_find<std::uint64_t>(array, found.data() + k, s);
  }
  copy(first.data(), found.data(), bytes, s);
  synchronize(s);
  return {first.begin(), first.end()};
}

int device_of(const void* pointer, const char* name) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    throw ArrayError(std::string(name) + ": its pointer is not in device memory");
  return attributes.device;
}

}  // namespace zopo
