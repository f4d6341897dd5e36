// CUDA engine of the Gaussian process: observations, factor and derived quantities stay on the
// device. An append sends one row of d numbers and receives one word. The CPU twin is
// gp/cpu_engine.hpp.
#pragma once

#include <cstddef>
#include <memory>

#include "gp/engine.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

// Arguments of a call are all in host or all in device memory. Device arguments must be complete
// when the call is made; results are complete when it returns.
template <>
class GpEngine<Cuda> {
 public:
  struct Gram {};  // empty: rows of K are computed where they are needed

  // `stream` is a cudaStream_t of the device; null creates a stream.
  GpEngine(std::shared_ptr<const Network> net, int ordinal, void* stream = nullptr);
  ~GpEngine();
  GpEngine(const GpEngine&) = delete;
  GpEngine& operator=(const GpEngine&) = delete;

  std::size_t size() const;
  void add(const double* X, const double* y, const double* noise, std::size_t count);
  bool extend(std::size_t from, double jitter);
  Gram gram() const { return {}; }
  double mean_diagonal(const Gram&);
  bool refactor(const Gram&, double jitter);
  void truncate(std::size_t n) noexcept;
  void remove(std::size_t i);
  void set_targets(const double* y);
  void posterior(const double* X, std::size_t q, const PosteriorOut& out);
  void gradient_covariance(const double* x, double* out);
  double fit();
  double log_determinant();
  GpState state() const;

  struct Model;

 private:
  template <class F>
  auto on_device(F&& f) const;
  std::unique_ptr<Model> model_;
};

}  // namespace zopo
