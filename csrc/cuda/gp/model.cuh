// What the Gaussian process keeps on a device, and the operations on it: cuda/gp/cholesky.cu (append a
// row, remove one), cuda/gp/cholesky_block.cu (append many), cuda/gp/inverse.cu (z, alpha, A^-1),
// cuda/gp/posterior.cu (one point), cuda/gp/posterior_many.cu (many), cuda/gp/derivative.cu (the gradient's
// covariance). The engine itself, its memory and the order of these, is cuda/gp/engine.cu.
//
// The factor C is kept together with C^-1: a triangular solve, n steps that wait for each other,
// becomes a product, and products are what a device is made for.
#pragma once

#include <algorithm>

#include "cuda/gp/engine.hpp"
#include "cuda/ntk/network.cuh"

namespace zopo {

// The arrays as kernels take them. Matrices have leading dimension `ld`; of C, Cinv and M the lower
// triangle is kept, of A all.
struct GpView {
  NetworkView net;
  int n;          // observations
  int rows;       // of the factor
  int ld;         // also: the observations there is room for
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
  } own_stream;  // before the buffers, which are given back on it
  cudaStream_t stream = nullptr;
  bool lost = false;
  int warps = 8;   // of a block that works on one point
  int widest = 0;  // the largest hidden width

  GpView v{};
  Buffer<double> vectors, C, Cinv, M, A;  // vectors: x, h, D, S, y, noise, z, alpha
  Buffer<double> work;                    // of the operation under way
  Buffer<double> query;                   // the points asked about
  Buffer<unsigned> words;                 // grid_barrier(), and the count of blocks that are done
  Mailbox<double> results;                // of one point, or a few sums
  Mailbox<double> inbox;                  // one point from the host, with its y and noise: (d + 2,)
  bool waiting = false;                   // the last observation lies there, not yet in its row
  Mailbox<int> status;                    // not 0: a pivot was not positive

  bool z_fresh = true, alpha_fresh = true;
  int summed = 0;  // rows of C^-1 that A^-1 holds

  void stale() {
    alpha_fresh = false;
    summed = 0;
  }
};

// Operations; all of them only enqueue work on the model's stream unless they return a value.
using GpModel = GpEngine<Cuda>::Model;

// Appends factor row `rows` for the observation of that number, with its features and its row of M;
// sets the status when its pivot is not positive beyond rounding. `from`: the point, its y and its
// noise, where the host left them; null: they are in their places.
void append_row(GpModel& m, GpView v, const double* from, double jitter, bool with_alpha,
                bool with_inverse);
// The same for observations [rows, n) at once; z and alpha are not brought up to date.
void append_rows(GpModel& m, GpView v, double jitter);
void remove_row(GpModel& m, int i);

void update_targets(GpModel& m);  // z
void update_alpha(GpModel& m);    // z and alpha
void update_inverse(GpModel& m);  // A^-1
// |z|^2, log det A, and with `diagonal` the sum of k(x_i, x_i): three numbers in `results`,
// complete on return.
void sums(GpModel& m, bool diagonal);

// Into `results`: mean, variance, uncertainty, one left out, and with `gradient` the gradient (d,).
// x (d,) on the device, or in page-locked memory of the host. alpha, and A^-1 for the uncertainty,
// are up to date.
void posterior_one(GpModel& m, const double* x, bool gradient, bool uncertainty);
void posterior_many(GpModel& m, const double* X, std::size_t q, const PosteriorOut& out);
// (q, d) of points in host or device memory, complete on return; A^-1 is up to date.
void variance_gradient(GpModel& m, const double* X, std::size_t q, double* out);
void covariance_at(GpModel& m, const double* x, double* out);

// Points asked about, on the device.
struct Queries {
  double* x;  // (q, d)
  double* h;  // (q, hidden)
  double* D;  // (q, hidden)
  int q;
};

// c (n, q) = D_0(X).D_0(queries); and for the queries [from, from + count) the rows P and Q of
// cuda/gp/point.cuh, (n, count, width[1]). Q may be null.
void relate(GpModel& m, const Queries& queries, int from, int count, double* c, double* P,
            double* Q);
// k(x, x), (q,), and unless it is null tr d^2k, (q,).
void priors(GpModel& m, const Queries& queries, double* prior, double* trace);

// Numbers of the workspace, given out one after another, each from a multiple of 16 bytes on.
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

// Shared memory of a block that works on one point: its features, and room for each warp.
inline std::size_t point_shared(int hidden, int widest, int warps) {
  return sizeof(double) * (2 * static_cast<std::size_t>(hidden) + 40 +
                           static_cast<std::size_t>(warps) *
                               (2 * static_cast<std::size_t>(widest) + kMostLayers + 2 + 32));
}

}  // namespace zopo
