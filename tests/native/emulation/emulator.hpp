// Declarations shared by the sources of the emulator; cuda_runtime.h says what the emulator does.
//
//   memory.cpp   device memory, fenced and closed to the host; page-locked memory
//   fibers.cpp   threads, blocks and warps as fibers, and the functions that kernels call
//   runtime.cpp  streams, launches and the CUDA runtime's functions
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>

#include "cuda_runtime.h"

namespace emulate {

constexpr unsigned char kFill = 0xff;  // fresh memory: a NaN in every precision

// End the process with a message.
[[noreturn]] void fail(const std::string& what);
// Return a number from the environment, or `otherwise` when the variable is unset or empty.
long setting(const char* name, long otherwise);
std::size_t page_size();

// ---- memory ----------------------------------------------------------------------------------------

struct Block {
  std::size_t bytes, mapped;  // requested; mapped, without the closed page behind
  unsigned char* start;       // of the mapping
  int device;
};

class Memory {
 public:
  std::size_t total() const;
  std::size_t taken() const { return taken_; }
  // Open device memory to the host while a kernel or a copy runs, and close it again.
  void protect(bool accessible);
  void* allocate(std::size_t bytes, int device);
  void free(void* pointer);
  // Return the allocation that a pointer lies in, or null.
  const Block* of(const void* pointer) const;

 private:
  void set(const Block& b) const;

  std::map<unsigned char*, Block> blocks_;  // by the address given out
  std::size_t taken_ = 0;
  bool open_ = false;
};

Memory& memory();

// Page-locked host memory and its sizes.
std::map<void*, std::size_t>& pinned();
bool is_pinned(const void* p);

// ---- kernels ---------------------------------------------------------------------------------------

// Run a kernel: call `body` once a thread, with emulate::now set. `shared` is in bytes.
void run(dim3 grid, dim3 block, std::size_t shared, bool cooperative,
         const std::function<void()>& body);

}  // namespace emulate
