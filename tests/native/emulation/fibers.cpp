// Threads of the emulator: each is a fiber that hands over to the next one where it waits. Blocks run
// one after another; those of a cooperative launch run together.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "emulator.hpp"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulate {
namespace {

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
  std::deque<std::vector<Copy>> groups;  // committed groups not waited for yet
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
const std::function<void()>* work = nullptr;

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
  (*work)();
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

// Return the i-th stack; stacks are kept between launches.
unsigned char* stack(std::size_t i) {
  static auto* stacks = new std::vector<unsigned char*>;
  while (stacks->size() <= i) {
    void* p = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no memory for stacks");
    if (mprotect(p, page_size(), PROT_NONE)) fail("mprotect");
    stacks->push_back(static_cast<unsigned char*>(p));
  }
  return (*stacks)[i];
}

void prepare(Fiber& f, std::size_t i) {
  unsigned char* base = stack(i);
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(base + kStack);
  *--top = nullptr;                          // alignment as after a call
  *--top = reinterpret_cast<void*>(&start);  // target of `ret`
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

// Return 0..n-1 in the order of ZOPO_EMULATE_ORDER.
std::vector<std::size_t> ordered(std::size_t n) {
  static std::mt19937 rng(12345);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
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

// Shared memory of one block; it ends at a closed page.
struct Shared {
  unsigned char *start = nullptr, *data = nullptr;
  std::size_t mapped = 0;

  explicit Shared(std::size_t bytes) {
    const std::size_t page = page_size(), padded = (bytes + 15) / 16 * 16;
    mapped = (std::max<std::size_t>(padded, 1) + page - 1) / page * page;
    void* p =
        mmap(nullptr, mapped + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("no memory for shared memory");
    start = static_cast<unsigned char*>(p);
    if (mprotect(start + mapped, page, PROT_NONE)) fail("mprotect");
    data = start + mapped - padded;
    clear();
  }
  ~Shared() {
    if (start) munmap(start, mapped + page_size());
  }
  Shared(Shared&& o) noexcept
      : start(std::exchange(o.start, nullptr)), data(o.data), mapped(o.mapped) {}
  Shared(const Shared&) = delete;

  void clear() const { std::memset(start, kFill, mapped); }
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
  const auto order = ordered(fibers.size());
  while (live > 0) {
    const std::size_t before = progress;
    for (const std::size_t i : order) {
      Fiber& f = *fibers[i];
      if (f.done) continue;
      running = &f;
      now.thread = f.thread;
      now.block = f.group->block;
      enter(f);
      if (f.done) --live;
    }
    if (progress == before)
      fail("deadlock: threads wait for a barrier or a warp that not all of them reach");
  }
  running = nullptr;
}

}  // namespace

Coordinates now;

void run(dim3 grid, dim3 block, std::size_t bytes, bool cooperative,
         const std::function<void()>& body) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  now.block_size = block;
  now.grid_size = grid;
  work = &body;
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
    for (const std::size_t b : ordered(blocks)) {
      shared.clear();
      std::vector<Group> one;
      one.push_back(make(b, shared));
      link(one[0]);
      run_groups(one);
    }
  }
  memory().protect(false);
}

// ---- functions that kernels call -------------------------------------------------------------------

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
    if (g.arrived == g.live) {  // also when the last missing thread has ended instead of arriving
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

}  // namespace emulate
