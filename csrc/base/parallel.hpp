// Splits independent work over the cores for the duration of one call.
//
// Threads are started and joined inside the call. No thread outlives it, so the process stays
// fork-safe. Starting a thread takes about 20 us; a call too small to repay that runs inline.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace zopo {

// Maximum number of threads of a call; 0 means one per core.
inline std::atomic<std::size_t> thread_limit{0};

// True in a thread that works on a part, so that nested calls are not split again.
inline thread_local bool within_a_part = false;

// Return the number of parts to split work into: one thread per million multiply-adds repays its
// start. Cores are counted (a system call) only when there is something to split.
inline std::size_t parallel_parts(std::size_t n, double work) {
  constexpr double kWorkPerThread = 1e6;
  const auto worth = static_cast<std::size_t>(work / kWorkPerThread);
  if (worth < 2 || n < 2 || within_a_part) return 1;
  const std::size_t limit = thread_limit.load(std::memory_order_relaxed);
  const std::size_t cores =
      limit ? limit : std::max<std::size_t>(1, std::thread::hardware_concurrency());
  return std::min({n, cores, worth});
}

// Call body(begin, end) on disjoint ranges that cover [0, n). `work` estimates the total cost in
// multiply-adds. The first exception is rethrown after all ranges have ended.
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
    } catch (const std::exception&) {  // no thread available: run the part here
      run(p);
    }
  }
  run(0);
  for (auto& t : threads) t.join();
  for (const auto& f : failures)
    if (f) std::rethrow_exception(f);
}

// Like parallel_ranges(), in chunks that the next free thread takes, the last chunk first. For
// uneven work, and for work long enough that other load may hold up a core.
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
