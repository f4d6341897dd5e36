// Structures of the DLPack protocol, by which array libraries exchange memory: a fixed ABI (DLPack
// 1.0; array API standard, "Data interchange mechanisms"). Before 1.0 an array travels as
// DLManagedTensor in a capsule named "dltensor", since then as DLManagedTensorVersioned in
// "dltensor_versioned". A consumer renames the capsule and calls `deleter` when done.
#pragma once

#include <cstdint>

namespace zopo::dlpack {

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2, kCudaManaged = 13 };
enum TypeCode : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6
};
constexpr std::uint64_t kReadOnly = 1, kIsCopied = 2;  // bits of `flags`

struct DLDevice {
  std::int32_t device_type, device_id;
};
struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in entries; null: C-contiguous
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
struct DLPackVersion {
  std::uint32_t major, minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor dl_tensor;
};

}  // namespace zopo::dlpack
