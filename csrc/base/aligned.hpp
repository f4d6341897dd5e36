// Vectors of numbers that start on a cache line, because a 64-byte load across two lines costs two
// loads.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace zopo {

template <class T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}

  T* allocate(std::size_t n) {
    if (n > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(::operator new(n * sizeof(T), kLine));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kLine); }
  bool operator==(const CacheLineAllocator&) const { return true; }
};

using Doubles = std::vector<double, CacheLineAllocator<double>>;
using Floats = std::vector<float, CacheLineAllocator<float>>;

}  // namespace zopo
