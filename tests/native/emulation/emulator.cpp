// See cuda_runtime.h.
#include "cuda_runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct EmulatedStream {
  int device;
};
struct EmulatedEvent {
  std::size_t at = 0;  // operations enqueued before it
};
struct EmulatedPool {};

namespace {

std::recursive_mutex mutex;  // one call at a time

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

long setting(const char* name, long otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? std::atol(value) : otherwise;
}

const std::size_t kPage = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
constexpr std::size_t kAlign = 256;
constexpr unsigned char kFill = 0xff;   // a NaN in every precision
constexpr unsigned char kFence = 0xa5;  // behind an allocation, up to its page's end

// ---- device memory ---------------------------------------------------------------------------------

struct Block {
  std::size_t bytes, mapped;  // without the closed page behind it
  unsigned char* start;       // of the mapping
  int device;
};

thread_local int current = 0;  // device

struct Memory {
  std::map<unsigned char*, Block> blocks;  // by the address given out
  std::size_t taken = 0;
  bool open = false;

  std::size_t total() const {
    return static_cast<std::size_t>(setting("ZOPO_EMULATE_MEMORY", 4L << 30));
  }

  void protect(bool accessible) {
    if (open == accessible) return;
    open = accessible;
    for (auto& [p, b] : blocks) set(b);
  }
  void set(const Block& b) const {
    if (mprotect(b.start, b.mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE)) fail("mprotect");
  }
  void* allocate(std::size_t bytes) {
    if (taken + bytes > total()) return nullptr;
    const std::size_t padded = (std::max<std::size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
    const std::size_t mapped = (padded + kPage - 1) / kPage * kPage;
    auto* start = static_cast<unsigned char*>(
        mmap(nullptr, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start == MAP_FAILED) return nullptr;
    if (mprotect(start + mapped, kPage, PROT_NONE)) fail("mprotect");
    unsigned char* p = start + mapped - padded;
    std::memset(start, kFence, static_cast<std::size_t>(p - start));
    std::memset(p, kFill, bytes);
    std::memset(p + bytes, kFence, padded - bytes);
    const Block b{bytes, mapped, start, current};
    blocks[p] = b;
    set(b);
    taken += bytes;
    return p;
  }
  void free(void* pointer) {
    auto* p = static_cast<unsigned char*>(pointer);
    const auto at = blocks.find(p);
    if (at == blocks.end()) fail("freeing what was not allocated, or was freed before");
    const Block b = at->second;
    if (mprotect(b.start, b.mapped, PROT_READ | PROT_WRITE)) fail("mprotect");
    for (auto* q = b.start; q < p; ++q)
      if (*q != kFence) fail("a write before the start of " + std::to_string(b.bytes) + " bytes");
    for (auto* q = p + b.bytes; q < b.start + b.mapped; ++q)
      if (*q != kFence) fail("a write beyond the end of " + std::to_string(b.bytes) + " bytes");
    munmap(b.start, b.mapped + kPage);
    taken -= b.bytes;
    blocks.erase(at);
  }
  const Block* of(const void* pointer) const {
    auto* p = const_cast<unsigned char*>(static_cast<const unsigned char*>(pointer));
    auto at = blocks.upper_bound(p);
    if (at == blocks.begin()) return nullptr;
    --at;
    return p < at->first + at->second.bytes ? &at->second : nullptr;
  }
};

Memory& memory() {
  static auto* m = new Memory;  // outlives every static that frees into it
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

// ---- fibers ----------------------------------------------------------------------------------------

constexpr std::size_t kStack = 256 * 1024;

struct Group;

struct Warp {
  unsigned arrived = 0, alive = 0;
  std::size_t round = 0;
  unsigned char put[2][32][128];  // two rounds: a lane may start the next while others still read
};

struct Fiber {
  uint3 thread;
  Group* group;
  bool done = false;
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes, valid;
  };
  std::vector<Copy> open;                // asynchronous copies not committed yet
  std::deque<std::vector<Copy>> groups;  // committed, not waited for
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// The fibers of one block.
struct Group {
  uint3 block;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned live = 0, arrived = 0;
  std::size_t barriers = 0;
  int counting = 0, counted = 0;
  unsigned char* shared = nullptr;
};

Fiber* running = nullptr;
std::size_t progress = 0;
const std::function<void()>* body = nullptr;

#if defined(__x86_64__)
extern "C" void zopo_switch(void** save, void* load);
asm(R"(
.text
.type zopo_switch,@function
zopo_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size zopo_switch,.-zopo_switch
)");
void* scheduler = nullptr;
void leave() { zopo_switch(&running->stack_pointer, scheduler); }
void enter(Fiber& f) { zopo_switch(&scheduler, f.stack_pointer); }
#else
ucontext_t scheduler;
void leave() { swapcontext(&running->context, &scheduler); }
void enter(Fiber& f) { swapcontext(&scheduler, &f.context); }
#endif

void start() {
  (*body)();
  Fiber& f = *running;
  Group& g = *f.group;
  f.done = true;
  --g.live;
  ++progress;
  const auto index = static_cast<std::size_t>(&f - g.fibers.data());
  g.warps[index / 32].alive &= ~(1u << index % 32);
  leave();
  fail("a finished thread was run again");
}

// Stacks are kept between launches.
unsigned char* stack(std::size_t i) {
  static auto* stacks = new std::vector<unsigned char*>;
  while (stacks->size() <= i) {
    auto* p = static_cast<unsigned char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (p == MAP_FAILED) fail("no memory for stacks");
    if (mprotect(p, kPage, PROT_NONE)) fail("mprotect");
    stacks->push_back(p);
  }
  return (*stacks)[i];
}

void prepare(Fiber& f, std::size_t i) {
  unsigned char* base = stack(i);
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(base + kStack);
  *--top = nullptr;                          // aligned as after a call
  *--top = reinterpret_cast<void*>(&start);  // where `ret` goes
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  f.stack_pointer = top;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = base;
  f.context.uc_stack.ss_size = kStack;
  f.context.uc_link = nullptr;
  makecontext(&f.context, start, 0);
#endif
}

template <class T>
std::vector<T> ordered(std::size_t n) {
  static std::mt19937 rng(12345);
  std::vector<T> order(n);
  std::iota(order.begin(), order.end(), T{0});
  const char* how = std::getenv("ZOPO_EMULATE_ORDER");
  const std::string name = how ? how : "forward";
  if (name == "reverse") {
    std::reverse(order.begin(), order.end());
  } else if (name != "forward") {
    static bool seeded = false;
    if (!seeded) rng.seed(static_cast<unsigned>(std::atol(name.c_str())));
    seeded = true;
    std::shuffle(order.begin(), order.end(), rng);
  }
  return order;
}

struct Shared {  // of one block, ending at a closed page
  unsigned char *start = nullptr, *data = nullptr;
  std::size_t mapped = 0;
  explicit Shared(std::size_t bytes) {
    const std::size_t padded = (bytes + 15) / 16 * 16;
    mapped = (std::max<std::size_t>(padded, 1) + kPage - 1) / kPage * kPage;
    start = static_cast<unsigned char*>(
        mmap(nullptr, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start == MAP_FAILED) fail("no memory for shared memory");
    if (mprotect(start + mapped, kPage, PROT_NONE)) fail("mprotect");
    data = start + mapped - padded;
    clear();
  }
  void clear() const { std::memset(start, kFill, mapped); }
  ~Shared() { munmap(start, mapped + kPage); }
  Shared(Shared&& o) noexcept : start(o.start), data(o.data), mapped(o.mapped) {
    o.start = nullptr;
    o.mapped = 0;
  }
  Shared(const Shared&) = delete;
};

void run_groups(std::vector<Group>& groups) {
  std::size_t stacks = 0, live = 0;
  std::vector<Fiber*> fibers;
  for (auto& g : groups)
    for (auto& f : g.fibers) {
      prepare(f, stacks++);
      fibers.push_back(&f);
    }
  live = fibers.size();
  const auto order = ordered<std::size_t>(fibers.size());
  while (live > 0) {
    const std::size_t before = progress;
    for (const std::size_t i : order) {
      Fiber& f = *fibers[i];
      if (f.done) continue;
      running = &f;
      emulate::now.thread = f.thread;
      emulate::now.block = f.group->block;
      enter(f);
      if (f.done) --live;
    }
    if (progress == before)
      fail("deadlock: threads wait for a barrier or a warp that not all of them reach");
  }
  running = nullptr;
}

void run(dim3 grid, dim3 block, std::size_t bytes, bool cooperative,
         const std::function<void()>& work) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  emulate::now.block_size = block;
  emulate::now.grid_size = grid;
  body = &work;
  const auto make = [&](std::size_t b, const Shared& shared) {
    Group g;
    g.block = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
               static_cast<unsigned>(b / grid.x / grid.y)};
    g.shared = shared.data;
    g.live = static_cast<unsigned>(threads);
    g.warps.resize((threads + 31) / 32);
    g.fibers.resize(threads);
    return g;
  };
  const auto link = [&](Group& g) {
    for (std::size_t t = 0; t < threads; ++t) {
      auto& f = g.fibers[t];
      f.group = &g;
      f.thread = {static_cast<unsigned>(t % block.x), static_cast<unsigned>(t / block.x % block.y),
                  static_cast<unsigned>(t / block.x / block.y)};
      g.warps[t / 32].alive |= 1u << t % 32;
    }
  };
  memory().protect(true);
  if (cooperative) {
    std::vector<Shared> shared;
    std::vector<Group> groups;
    for (std::size_t b = 0; b < blocks; ++b) shared.emplace_back(bytes);
    for (std::size_t b = 0; b < blocks; ++b) groups.push_back(make(b, shared[b]));
    for (auto& g : groups) link(g);
    run_groups(groups);
  } else {
    const Shared shared(bytes);
    for (const std::size_t b : ordered<std::size_t>(blocks)) {
      shared.clear();
      std::vector<Group> one;
      one.push_back(make(b, shared));
      link(one[0]);
      run_groups(one);
    }
  }
  memory().protect(false);
}

// ---- streams ---------------------------------------------------------------------------------------

std::deque<std::function<void()>>& queue() {
  static auto* q = new std::deque<std::function<void()>>;
  return *q;
}
std::size_t enqueued = 0, executed = 0;

void push(std::function<void()> operation) {
  queue().push_back(std::move(operation));
  ++enqueued;
}
void drain() {
  while (!queue().empty()) {
    auto operation = std::move(queue().front());
    queue().pop_front();
    operation();
    ++executed;
  }
}

std::map<const void*, int>& shared_limits() {
  static auto* limits = new std::map<const void*, int>;
  return *limits;
}

int devices() { return static_cast<int>(setting("ZOPO_EMULATE_DEVICES", 1)); }

void move(void* to, const void* from, std::size_t bytes) {
  for (const void* p : {const_cast<const void*>(to), from})
    if (const Block* b = memory().of(p)) {
      const auto* end = static_cast<const unsigned char*>(p) + bytes;
      if (end > b->start + b->mapped) fail("a copy beyond the end of an allocation");
    }
  memory().protect(true);
  std::memmove(to, from, bytes);
  memory().protect(false);
}

}  // namespace

// ---- what kernels call -----------------------------------------------------------------------------

namespace emulate {

Coordinates now;

void yield() {
  const Coordinates kept = now;
  leave();
  now.thread = kept.thread;
  now.block = kept.block;
}

void* shared() { return running->group->shared; }

int block_barrier_count(int predicate) {
  Group& g = *running->group;
  const std::size_t round = g.barriers;
  g.counting += predicate != 0;
  ++g.arrived;
  ++progress;
  while (g.barriers == round) {
    if (g.arrived == g.live) {  // also when the last one to wait for has ended instead
      g.counted = g.counting;
      g.counting = 0;
      g.arrived = 0;
      ++g.barriers;
      ++progress;
      break;
    }
    yield();
  }
  return g.counted;
}
void block_barrier() { block_barrier_count(0); }

int lane() {
  return static_cast<int>(static_cast<std::size_t>(running - running->group->fibers.data()) % 32);
}

Exchanged exchange(unsigned mask, const void* mine, std::size_t bytes) {
  if (bytes > 128) fail("an exchange of more than 128 bytes");
  Group& g = *running->group;
  const auto index = static_cast<std::size_t>(running - g.fibers.data());
  Warp& w = g.warps[index / 32];
  const int me = lane();
  if (!(mask >> me & 1)) fail("a lane outside the mask of its warp operation");
  if (mask != 0xffffffffu && mask != w.alive && g.fibers.size() >= 32)
    fail("warp operations of a part of the warp are not emulated");
  const unsigned wanted = mask & (g.fibers.size() - index / 32 * 32 >= 32
                                      ? 0xffffffffu
                                      : (1u << (g.fibers.size() - index / 32 * 32)) - 1);
  const std::size_t round = w.round;
  std::memcpy(w.put[round % 2][me], mine, bytes);
  w.arrived |= 1u << me;
  ++progress;
  if ((w.arrived & wanted) == wanted) {
    w.arrived = 0;
    ++w.round;
  }
  while (w.round == round) yield();
  Exchanged e;
  for (int l = 0; l < 32; ++l) e.of_lane[l] = w.put[round % 2][l];
  return e;
}

void copy_async(void* to, const void* from, std::size_t bytes, std::size_t valid) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes ||
      (valid && reinterpret_cast<std::uintptr_t>(from) % bytes))
    fail("an asynchronous copy of " + std::to_string(bytes) + " bytes that is not aligned to them");
  running->open.push_back({to, from, bytes, valid});
}
void copy_async_commit() { running->groups.push_back(std::exchange(running->open, {})); }
void copy_async_wait(std::size_t left) {
  while (running->groups.size() > left) {
    for (const auto& c : running->groups.front()) {
      std::memset(c.to, 0, c.bytes);
      if (c.valid) std::memcpy(c.to, c.from, c.valid);
    }
    running->groups.pop_front();
  }
}

cudaError_t enqueue(const void* kernel, dim3 grid, dim3 block, std::size_t shared, cudaStream_t,
                    bool cooperative, std::function<void()> work) {
  const std::lock_guard lock(mutex);
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.y > 65535 || grid.z > 65535 || grid.x == 0)
    return cudaErrorInvalidConfiguration;
  const auto limit = shared_limits().find(kernel);
  const std::size_t allowed =
      limit == shared_limits().end() ? 48 * 1024 : static_cast<std::size_t>(limit->second);
  if (shared > allowed) return cudaErrorInvalidValue;
  if (cooperative && std::size_t{grid.x} * grid.y * grid.z > 8)
    return cudaErrorLaunchOutOfResources;
  push([=, w = std::move(work)] { run(grid, block, shared, cooperative, w); });
  return cudaSuccess;
}

}  // namespace emulate

// ---- runtime ---------------------------------------------------------------------------------------

#define LOCKED const std::lock_guard lock(mutex)

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
  if (ordinal < 0 || ordinal >= devices()) return cudaErrorInvalidDevice;
  current = ordinal;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated on the host");
  p->major = 9;
  p->multiProcessorCount = 4;
  p->totalGlobalMem = memory().total();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchOutOfResources:
      return "too many blocks in a cooperative launch";
    default:
      return "an error";
  }
}
const char* cudaGetErrorName(cudaError_t e) {
  return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  LOCKED;
  *p = memory().allocate(bytes);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* p) {
  LOCKED;
  drain();
  if (p) memory().free(p);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = memory().total();
  *free = *total - memory().taken;
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = new EmulatedPool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
  return cudaMalloc(p, bytes);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  LOCKED;
  push([p] { memory().free(p); });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  LOCKED;
  *p = std::malloc(std::max<std::size_t>(bytes, 1));
  if (!*p) return cudaErrorMemoryAllocation;
  std::memset(*p, kFill, bytes);
  pinned()[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  LOCKED;
  drain();
  pinned().erase(p);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  LOCKED;
  if (memory().of(from) || is_pinned(from)) {
    push([=] { move(to, from, bytes); });
  } else {  // read before the call returns
    const auto* p = static_cast<const unsigned char*>(from);
    push([to, kept = std::vector<unsigned char>(p, p + bytes)] {
      move(to, kept.data(), kept.size());
    });
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t s) {
  LOCKED;
  for (std::size_t i = 0; i < height; ++i)
    cudaMemcpyAsync(static_cast<char*>(to) + i * to_pitch,
                    static_cast<const char*>(from) + i * from_pitch, width, kind, s);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t) {
  LOCKED;
  push([=] {
    memory().protect(true);
    std::memset(p, value, bytes);
    memory().protect(false);
  });
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  LOCKED;
  const Block* block = memory().of(p);
  a->device = block ? block->device : 0;
  a->type = block          ? cudaMemoryTypeDevice
            : is_pinned(p) ? cudaMemoryTypeHost
                           : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new EmulatedStream{current};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  LOCKED;
  e->at = enqueued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  LOCKED;
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  LOCKED;
  return executed >= e->at ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  LOCKED;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > 227 * 1024) return cudaErrorInvalidValue;
    shared_limits()[kernel] = value;
  }
  return cudaSuccess;
}
