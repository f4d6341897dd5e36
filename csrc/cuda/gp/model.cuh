// State of the Gaussian process on a device and the operations on it:
//
//   cuda/gp/engine.cu             the engine: memory and the order of operations
//   cuda/gp/cholesky.cu           append a row, remove a row
//   cuda/gp/cholesky_block.cu     append many rows
//   cuda/gp/inverse.cu            z, alpha, A^-1
//   cuda/gp/posterior.cu          the posterior at one point
//   cuda/gp/posterior_many.cu     the posterior at many points
//   cuda/gp/derivative.cu         the gradient's covariance
//   cuda/gp/variance_gradient.cu  the variance's gradient
//
// The factor C is kept together with C^-1. A triangular solve, n dependent steps, then becomes a
// product, for which a device has the throughput.
#pragma once

#include <algorithm>

#include "cuda/gp/engine.hpp"
#include "cuda/ntk/network.cuh"

namespace zopo {

// Arrays in the form that kernels take. Matrices have leading dimension `ld`; C, Cinv and M hold
// their lower triangle, A holds both.
struct GpView {
  NetworkView net;
  int n;          // observations
  int rows;       // of the factor
  int ld;         // also the number of observations there is room for
  double* x;      // (n, d)
  double* h;      // (n, hidden)
  double* D;      // (n, hidden)
  double* S;      // (n, width[1]) = X W_0^T
  double* y;      // (n,)
  double* noise;  // (n,)
  double* z;      // (n,) = C^-1 y
  double* alpha;  // (n,) = C^-T z
  double* C;      // (n, n)
  double* Cinv;   // (n, n) = C^-1
  double* M;      // (n, n) = X X^T
  double* A;      // (n, n) = A^-1
};

struct GpEngine<Cuda>::Model {
  std::shared_ptr<const Network> network;
  std::shared_ptr<const CudaNetwork> copy_of_network;
  int ordinal = 0;
  struct OwnStream {
    cudaStream_t stream = nullptr;
    ~OwnStream() {
      if (stream) (void)cudaStreamDestroy(stream);
    }
  } own_stream;  // declared before the buffers, which are freed on it
  cudaStream_t stream = nullptr;
  bool lost = false;
  int warps = 8;   // of a block that works on one point
  int widest = 0;  // largest hidden width

  GpView v{};
  Buffer<double> vectors, C, Cinv, M, A;  // vectors: x, h, D, S, y, noise, z, alpha
  Buffer<double> work;                    // scratch of the current operation
  Buffer<double> query;                   // query points
  Buffer<unsigned> words;                 // for grid_barrier(), and a count of finished blocks
  Mailbox<double> results;                // of one point, or a few sums
  Mailbox<double> inbox;                  // one point from the host, with its y and noise: (d + 2,)
  bool waiting = false;                   // the last observation is in the inbox, not in its row
  Mailbox<int> status;                    // not 0: a pivot was not positive

  bool z_fresh = true, alpha_fresh = true;
  int summed = 0;  // rows of C^-1 whose terms A^-1 holds

  void stale() {
    alpha_fresh = false;
    summed = 0;
  }
};

// Operations. All of them only enqueue work on the model's stream unless they return a value.
using GpModel = GpEngine<Cuda>::Model;

// Append factor row `rows` for the observation of that number, with its features and its row of M.
// Sets the status when the pivot is not positive beyond rounding. `from` points to x, y and noise
// in page-locked host memory; null means that they are in their places.
void append_row(GpModel& m, GpView v, const double* from, double jitter, bool with_alpha,
                bool with_inverse);
// Append the factor rows of observations [rows, n) at once, without updating z and alpha.
void append_rows(GpModel& m, GpView v, double jitter);
void remove_row(GpModel& m, int i);

void update_targets(GpModel& m);  // update z
void update_alpha(GpModel& m);    // update z and alpha
void update_inverse(GpModel& m);  // update A^-1
// Compute |z|^2, log det A and, with `diagonal`, the sum of k(x_i, x_i): three numbers in
// `results`, complete on return.
void sums(GpModel& m, bool diagonal);

// Evaluate the posterior at one point into `results`: mean, variance, uncertainty, an unused number
// and, with `gradient`, the gradient (d,). x (d,) is on the device or in page-locked host memory.
// alpha must be up to date, and A^-1 for the uncertainty.
void posterior_one(GpModel& m, const double* x, bool gradient, bool uncertainty);
void posterior_many(GpModel& m, const double* X, std::size_t q, const PosteriorOut& out);
// Compute the variance's gradients, (q, d), at points in host or device memory; complete on return.
// A^-1 must be up to date.
void variance_gradient(GpModel& m, const double* X, std::size_t q, double* out);
void covariance_at(GpModel& m, const double* x, double* out);

// Query points on the device.
struct Queries {
  double* x;  // (q, d)
  double* h;  // (q, hidden)
  double* D;  // (q, hidden)
  int q;
};

// Compute c (n, q) = D_0(X).D_0(queries) and, for the queries [from, from + count), the rows P and
// Q of cuda/gp/point.cuh, (n, count, width[1]). Q may be null.
void relate(GpModel& m, const Queries& queries, int from, int count, double* c, double* P,
            double* Q);
// Compute k(x, x), (q,) and, unless `trace` is null, tr d^2k, (q,).
void priors(GpModel& m, const Queries& queries, double* prior, double* trace);

// Hands out parts of the workspace in order, each at a multiple of 16 bytes.
class Carver {
 public:
  explicit Carver(double* base) : base_(base) {}
  double* take(std::int64_t size) {
    double* p = base_ ? base_ + used_ : nullptr;
    used_ += (size + 1) / 2 * 2;
    return p;
  }
  std::int64_t used() const { return used_; }

 private:
  double* base_;
  std::int64_t used_ = 0;
};

// Return the bytes of shared memory of a block that works on one point: its features, and scratch
// for each warp.
inline std::size_t point_shared(int hidden, int widest, int warps) {
  return sizeof(double) * (2 * static_cast<std::size_t>(hidden) + 40 +
                           static_cast<std::size_t>(warps) *
                               (2 * static_cast<std::size_t>(widest) + kMaxLayers + 2 + 32));
}

}  // namespace zopo
