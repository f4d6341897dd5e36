// CUDA engine of the Gaussian process: memory, validity of derived quantities and the order of
// operations. All work of an object is on one stream.
#include "cuda/gp/model.cuh"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.hpp"
#include "cuda/runtime/device.hpp"

namespace zopo {
namespace {

// Up to this number of new observations are appended row by row: one launch each, with no wait
// between them.
constexpr int kMaxRowAppends = 32;
constexpr std::size_t kMinRoom = 64;

bool is_on_device(const void* p) {
  cudaPointerAttributes attributes{};
  return cudaPointerGetAttributes(&attributes, p) == cudaSuccess &&
         attributes.type == cudaMemoryTypeDevice;
}

}  // namespace

// Call f with the device current. A lost device is remembered and reported by every later call.
template <class F>
auto GpEngine<Cuda>::on_device(F&& f) const {
  if (model_->lost)
    throw DeviceLostError(
        "the device's context was lost in an earlier call, and this object with it: start a new "
        "process, or continue with device='cpu'");
  try {
    const DeviceGuard guard(model_->ordinal);
    return f(*model_);
  } catch (const DeviceLostError&) {
    model_->lost = true;
    throw;
  }
}

GpEngine<Cuda>::GpEngine(std::shared_ptr<const Network> net, int ordinal, void* stream)
    : model_(std::make_unique<Model>()) {
  require_cuda(ordinal);
  model_->network = std::move(net);
  model_->ordinal = ordinal;
  on_device([&](Model& m) {
    m.copy_of_network = cuda_network(*m.network);
    m.v.net = m.copy_of_network->view;
    for (std::size_t l = 1; l <= m.network->layers(); ++l)
      m.widest = std::max(m.widest, m.v.net.width[l]);
    const auto limit = static_cast<std::size_t>(device_limits().shared_per_block);
    while (m.warps > 1 && point_shared(m.v.net.hidden, m.widest, m.warps) > limit) m.warps /= 2;
    if (point_shared(m.v.net.hidden, m.widest, m.warps) > limit)
      throw ConfigError("network: the features of a point with " + std::to_string(m.v.net.hidden) +
                        " hidden units do not fit into the shared memory of a block; use "
                        "device='cpu'");
    if (stream) {
      m.stream = static_cast<cudaStream_t>(stream);
    } else {
      check(cudaStreamCreateWithFlags(&m.stream, cudaStreamNonBlocking), "cudaStreamCreate");
      m.own_stream.stream = m.stream;
    }
    m.words = Buffer<unsigned>(4, m.stream);
    check(cudaMemsetAsync(m.words.data(), 0, 4 * sizeof(unsigned), m.stream), "cudaMemsetAsync");
    m.status = Mailbox<int>(1);
    m.inbox = Mailbox<double>(static_cast<std::size_t>(m.v.net.dim) + 2);
    m.results = Mailbox<double>(4 + static_cast<std::size_t>(m.v.net.dim));
  });
}

// Buffers are freed on the device that allocated them, page-locked memory after the last kernel
// that uses it.
GpEngine<Cuda>::~GpEngine() {
  int before = 0;
  const bool other = cudaGetDevice(&before) == cudaSuccess && before != model_->ordinal &&
                     cudaSetDevice(model_->ordinal) == cudaSuccess;
  (void)cudaStreamSynchronize(model_->stream);
  model_.reset();
  if (other) (void)cudaSetDevice(before);
}

std::size_t GpEngine<Cuda>::size() const { return static_cast<std::size_t>(model_->v.n); }

namespace {

// Set the vectors' positions in their buffer, each at a multiple of 16 bytes; return their total
// size.
std::size_t place(GpView& v, std::size_t room, double* base) {
  const auto hidden = static_cast<std::size_t>(v.net.hidden);
  std::size_t at = 0;
  const auto next = [&](double*& p, std::size_t columns) {
    p = base + at;
    at += (room * columns + 1) / 2 * 2;
  };
  next(v.x, static_cast<std::size_t>(v.net.dim));
  next(v.h, hidden);
  next(v.D, hidden);
  next(v.S, static_cast<std::size_t>(v.net.width[1]));
  for (double** p : {&v.y, &v.noise, &v.z, &v.alpha}) next(*p, 1);
  return at;
}

// Make room for n observations, at least doubling it. Nothing changes when memory is exhausted.
void reserve(GpModel& m, std::size_t n) {
  const GpView& old = m.v;
  const auto before = static_cast<std::size_t>(old.ld), kept = static_cast<std::size_t>(old.n);
  if (n <= before) return;
  if (n > (std::size_t{1} << 30))
    throw DeviceMemoryError("X: " + std::to_string(n) +
                            " observations are too many for a device; the limit is 2^30");
  const std::size_t room = std::max({2 * before, kMinRoom, (n + 7) / 8 * 8});
  GpView v = old;
  v.ld = static_cast<int>(room);
  Buffer<double> vectors(place(v, room, nullptr), m.stream);
  place(v, room, vectors.data());
  const auto rows = [&](double* to, const double* from, int columns) {
    copy(to, from, kept * static_cast<std::size_t>(columns) * sizeof(double), m.stream);
  };
  rows(v.x, old.x, v.net.dim);
  rows(v.h, old.h, v.net.hidden);
  rows(v.D, old.D, v.net.hidden);
  rows(v.S, old.S, v.net.width[1]);
  rows(v.y, old.y, 1);
  rows(v.noise, old.noise, 1);
  rows(v.z, old.z, 1);
  rows(v.alpha, old.alpha, 1);
  const auto grown = [&](const Buffer<double>& from) {
    Buffer<double> to(room * room, m.stream);
    if (kept)
      check(
          cudaMemcpy2DAsync(to.data(), room * sizeof(double), from.data(), before * sizeof(double),
                            kept * sizeof(double), kept, cudaMemcpyDefault, m.stream),
          "cudaMemcpy2DAsync");
    return to;
  };
  Buffer<double> C = grown(m.C), Cinv = grown(m.Cinv), M = grown(m.M), A = grown(m.A);
  m.vectors.swap(vectors);
  m.C.swap(C);
  m.Cinv.swap(Cinv);
  m.M.swap(M);
  m.A.swap(A);
  v.C = m.C.data();
  v.Cinv = m.Cinv.data();
  v.M = m.M.data();
  v.A = m.A.data();
  m.v = v;
}

// Append factor rows [v.rows, v.n); return whether every pivot was positive.
bool factorise(GpModel& m, GpView v, double jitter) {
  m.status[0] = 0;
  const double* from = std::exchange(m.waiting, false) ? m.inbox.data() : nullptr;
  if (v.n - v.rows > kMaxRowAppends) {
    append_rows(m, v, jitter);
    m.z_fresh = m.alpha_fresh = false;
  } else {
    for (; v.rows < v.n; ++v.rows) {
      const bool inverse = m.summed == v.rows;
      append_row(m, v, from, jitter, m.alpha_fresh, inverse);
      if (inverse) m.summed = v.rows + 1;
    }
  }
  synchronize(m.stream);
  return m.status[0] == 0;
}

}  // namespace

void GpEngine<Cuda>::add(const double* X, const double* y, const double* noise, std::size_t count) {
  on_device([&](Model& m) {
    const auto n = size();
    reserve(m, n + count);
    const auto d = static_cast<std::size_t>(m.v.net.dim);
    m.waiting = count == 1 && !is_on_device(X);
    if (m.waiting) {
      std::copy_n(X, d, m.inbox.data());
      m.inbox[d] = *y;
      m.inbox[d + 1] = *noise;
    } else {
      copy(m.v.x + n * d, X, count * d * sizeof(double), m.stream);
      copy(m.v.y + n, y, count * sizeof(double), m.stream);
      copy(m.v.noise + n, noise, count * sizeof(double), m.stream);
    }
    m.v.n += static_cast<int>(count);
  });
}

bool GpEngine<Cuda>::extend(std::size_t from, double jitter) {
  return on_device([&](Model& m) {
    m.v.rows = static_cast<int>(from);
    update_targets(m);  // an append continues from the z of the existing rows
    if (!factorise(m, m.v, jitter)) {
      m.stale();
      return false;
    }
    m.v.rows = m.v.n;
    return true;
  });
}

double GpEngine<Cuda>::mean_diagonal(const Gram&) {
  return on_device([&](Model& m) {
    sums(m, true);
    return m.results[2] / static_cast<double>(m.v.n);
  });
}

bool GpEngine<Cuda>::refactor(const Gram&, double jitter) {
  return on_device([&](Model& m) {
    const auto room = static_cast<std::size_t>(m.v.ld);
    Buffer<double> C(room * room, m.stream), Cinv(room * room, m.stream), z(room, m.stream);
    GpView fresh = m.v;
    fresh.rows = 0;
    fresh.C = C.data();
    fresh.Cinv = Cinv.data();
    fresh.z = z.data();  // preserve the existing z
    m.stale();
    const bool done = factorise(m, fresh, jitter);
    m.stale();  // sums made on the way belong to the other factor
    if (!done) return false;
    m.C.swap(C);
    m.Cinv.swap(Cinv);
    m.v.C = fresh.C;
    m.v.Cinv = fresh.Cinv;
    m.v.rows = m.v.n;
    m.z_fresh = false;
    return true;
  });
}

void GpEngine<Cuda>::truncate(std::size_t n) noexcept {
  Model& m = *model_;
  m.v.n = static_cast<int>(n);
  m.v.rows = std::min(m.v.rows, m.v.n);
  m.waiting = false;
  m.stale();
}

void GpEngine<Cuda>::remove(std::size_t i) {
  on_device([&](Model& m) {
    remove_row(m, static_cast<int>(i));
    --m.v.n;
    --m.v.rows;
    m.stale();
    m.z_fresh = false;
  });
}

void GpEngine<Cuda>::set_targets(const double* y) {
  on_device([&](Model& m) {
    copy(m.v.y, y, size() * sizeof(double), m.stream);
    synchronize(m.stream);
    m.z_fresh = m.alpha_fresh = false;
  });
}

void GpEngine<Cuda>::posterior(const double* X, std::size_t q, const PosteriorOut& out) {
  constexpr std::size_t kMinBatch = 8;  // fewer points than this are evaluated one by one
  on_device([&](Model& m) {
    const auto d = static_cast<std::size_t>(m.v.net.dim);
    if (q == 0) return;
    update_alpha(m);
    if (out.uncertainty || out.variance_gradient) update_inverse(m);
    if (out.variance_gradient) variance_gradient(m, X, q, out.variance_gradient);
    if (q >= kMinBatch) return posterior_many(m, X, q, out);
    const bool there = is_on_device(X), device = is_on_device(out.mean ? out.mean : out.gradient);
    const auto give = [&](double* to, std::size_t from, std::size_t count) {
      if (!to) return;
      if (device)
        copy(to, m.results.data() + from, count * sizeof(double), m.stream);
      else
        std::copy_n(m.results.data() + from, count, to);
    };
    for (std::size_t i = 0; i < q; ++i) {
      if (!there) std::copy_n(X + i * d, d, m.inbox.data());
      posterior_one(m, there ? X + i * d : m.inbox.data(), out.gradient, out.uncertainty);
      synchronize(m.stream);
      give(out.mean ? out.mean + i : nullptr, 0, 1);
      give(out.variance ? out.variance + i : nullptr, 1, 1);
      give(out.uncertainty ? out.uncertainty + i : nullptr, 2, 1);
      give(out.gradient ? out.gradient + i * d : nullptr, 4, d);
    }
    if (device) synchronize(m.stream);
  });
}

void GpEngine<Cuda>::gradient_covariance(const double* x, double* out) {
  on_device([&](Model& m) {
    const auto d = static_cast<std::size_t>(m.v.net.dim);
    m.query.need(d, m.stream);
    copy(m.query.data(), x, d * sizeof(double), m.stream);
    covariance_at(m, m.query.data(), out);
    synchronize(m.stream);
  });
}

// y^T A^-1 y = |z|^2
double GpEngine<Cuda>::fit() {
  return on_device([&](Model& m) {
    update_targets(m);
    sums(m, false);
    return m.results[0];
  });
}

double GpEngine<Cuda>::log_determinant() {
  return on_device([&](Model& m) {
    sums(m, false);
    return m.results[1];
  });
}

GpState GpEngine<Cuda>::state() const {
  return on_device([&](Model& m) {
    const std::size_t n = size(), d = static_cast<std::size_t>(m.v.net.dim);
    GpState s = {Doubles(n * d), Doubles(n), Doubles(n)};
    copy(s.X.data(), m.v.x, n * d * sizeof(double), m.stream);
    copy(s.y.data(), m.v.y, n * sizeof(double), m.stream);
    copy(s.noise.data(), m.v.noise, n * sizeof(double), m.stream);
    synchronize(m.stream);
    return s;
  });
}

}  // namespace zopo
