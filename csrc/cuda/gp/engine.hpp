// The Gaussian process's engine on a CUDA device: observations, factor and what follows from them
// stay there. An append sends one row of d numbers and gets one word back.
#pragma once

#include <cstddef>
#include <memory>

#include "gp/engine.hpp"
#include "ntk/ntk.hpp"

namespace zopo {

// Arguments of a call may be in host or in device memory, all on one side; what lies on a device
// must be complete when the call is made, and results are complete when it returns.
template <>
class GpEngine<Cuda> {
 public:
  struct Gram {};  // rows of K are computed as they are needed

  // `stream`: a cudaStream_t of that device; null: a stream of its own.
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
