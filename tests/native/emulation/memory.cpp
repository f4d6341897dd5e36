// Device memory of the emulator. An allocation ends at a closed page and is surrounded by a fence, so
// that writes outside it fault or are found when it is freed.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator.hpp"

namespace emulate {
namespace {

constexpr std::size_t kAlign = 256;
constexpr unsigned char kFence = 0xa5;  // fills an allocation's pages outside the requested bytes

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

long setting(const char* name, long otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? std::atol(value) : otherwise;
}

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::size_t Memory::total() const {
  return static_cast<std::size_t>(setting("ZOPO_EMULATE_MEMORY", 4L << 30));
}

void Memory::protect(bool accessible) {
  if (open_ == accessible) return;
  open_ = accessible;
  for (auto& [p, b] : blocks_) set(b);
}

void Memory::set(const Block& b) const {
  if (mprotect(b.start, b.mapped, open_ ? PROT_READ | PROT_WRITE : PROT_NONE)) fail("mprotect");
}

void* Memory::allocate(std::size_t bytes, int device) {
  if (taken_ + bytes > total()) return nullptr;
  const std::size_t page = page_size();
  const std::size_t padded = (std::max<std::size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  const std::size_t mapped = (padded + page - 1) / page * page;
  void* mapping =
      mmap(nullptr, mapped + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  auto* start = static_cast<unsigned char*>(mapping);
  if (mprotect(start + mapped, page, PROT_NONE)) fail("mprotect");
  unsigned char* p = start + mapped - padded;
  std::memset(start, kFence, static_cast<std::size_t>(p - start));
  std::memset(p, kFill, bytes);
  std::memset(p + bytes, kFence, padded - bytes);
  const Block b{bytes, mapped, start, device};
  blocks_[p] = b;
  set(b);
  taken_ += bytes;
  return p;
}

void Memory::free(void* pointer) {
  auto* p = static_cast<unsigned char*>(pointer);
  const auto at = blocks_.find(p);
  if (at == blocks_.end()) fail("freeing what was not allocated, or was freed before");
  const Block b = at->second;
  if (mprotect(b.start, b.mapped, PROT_READ | PROT_WRITE)) fail("mprotect");
  for (auto* q = b.start; q < p; ++q)
    if (*q != kFence) fail("a write before the start of " + std::to_string(b.bytes) + " bytes");
  for (auto* q = p + b.bytes; q < b.start + b.mapped; ++q)
    if (*q != kFence) fail("a write beyond the end of " + std::to_string(b.bytes) + " bytes");
  munmap(b.start, b.mapped + page_size());
  taken_ -= b.bytes;
  blocks_.erase(at);
}

const Block* Memory::of(const void* pointer) const {
  auto* p = const_cast<unsigned char*>(static_cast<const unsigned char*>(pointer));
  auto at = blocks_.upper_bound(p);
  if (at == blocks_.begin()) return nullptr;
  --at;
  return p < at->first + at->second.bytes ? &at->second : nullptr;
}

Memory& memory() {
  static auto* m = new Memory;  // never destroyed: it must outlive every static that frees into it
  return *m;
}

std::map<void*, std::size_t>& pinned() {
  static auto* p = new std::map<void*, std::size_t>;
  return *p;
}

bool is_pinned(const void* p) {
  auto at = pinned().upper_bound(const_cast<void*>(p));
  if (at == pinned().begin()) return false;
  --at;
  return p < static_cast<char*>(at->first) + at->second;
}

}  // namespace emulate
