// Splits independent work over the cores for the length of one call.
//
// Threads are started and joined inside the call: nothing outlives it, so the process stays
// fork-safe, and a call too small to repay a thread's start (about 20 us) runs inline.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace zopo {

// The most threads a call may use, 0 for as many as there are cores.
inline std::atomic<std::size_t> thread_limit{0};

// Set while a thread works on its part: what it calls is not split again.
inline thread_local bool within_a_part = false;

// Parts to split work into: below a million multiply-adds a thread, its start is not repaid. The
// cores are counted (a system call) only when there is something to split.
inline std::size_t parallel_parts(std::size_t n, double work) {
  constexpr double kWorkPerThread = 1e6;
  const auto worth = static_cast<std::size_t>(work / kWorkPerThread);
  if (worth < 2 || n < 2 || within_a_part) return 1;
  const std::size_t limit = thread_limit.load(std::memory_order_relaxed);
  const std::size_t cores =
      limit ? limit : std::max<std::size_t>(1, std::thread::hardware_concurrency());
  return std::min({n, cores, worth});
}

// Calls body(begin, end) on disjoint ranges that cover [0, n); `work` estimates the total cost in
// multiply-adds. The first exception is rethrown once all ranges have ended.
template <class Body>
void parallel_ranges(std::size_t n, double work, Body&& body) {
  const std::size_t parts = parallel_parts(n, work);
  if (parts == 1) return body(std::size_t{0}, n);
  std::vector<std::exception_ptr> failures(parts);
  const auto run = [&](std::size_t p) {
    within_a_part = true;
    try {
      body(n * p / parts, n * (p + 1) / parts);
    } catch (...) {
      failures[p] = std::current_exception();
    }
    within_a_part = false;
  };
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (std::size_t p = 1; p < parts; ++p) {
    try {
      threads.emplace_back(run, p);
    } catch (const std::exception&) {  // no thread to be had: do its part here
      run(p);
    }
  }
  run(0);
  for (auto& t : threads) t.join();
  for (const auto& f : failures)
    if (f) std::rethrow_exception(f);
}

// The same in chunks of that size, last ones first, taken by whichever thread is free: for work
// that is uneven, or long enough that a core may be held up by something else.
template <class Body>
void parallel_chunks(std::size_t n, std::size_t chunk, double work, Body&& body) {
  const std::size_t chunks = (n + chunk - 1) / chunk, parts = parallel_parts(chunks, work);
  if (parts == 1) return body(std::size_t{0}, n);
  std::atomic<std::size_t> left{chunks};
  parallel_ranges(parts, work, [&](std::size_t, std::size_t) {
    for (;;) {
      std::size_t at = left.load();
      while (at != 0 && !left.compare_exchange_weak(at, at - 1)) {
      }
      if (at == 0) return;
      body((at - 1) * chunk, std::min(n, at * chunk));
    }
  });
}

}  // namespace zopo
