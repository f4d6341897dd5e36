// The module: build and thread settings, embeddings' moments, random numbers, and the translation of
// errors.
#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "bindings/bindings.hpp"
// The only include of cuda/ outside csrc/cuda and the CUDA bindings: the header is plain C++ and
// has definitions for builds without CUDA too.
#include "base/random.hpp"
#include "cuda/runtime/device.hpp"
#include "pool/pool.hpp"
#include "simd/simd.hpp"

namespace zopo {
namespace {

py::tuple moments(const py::object& Z_) {
  const py::array Z = contiguous(Z_, "embeddings");
  const Precision precision = precision_of(Z, "embeddings");
  if (Z.ndim() != 2 || Z.size() == 0)
    throw ArrayError("embeddings: expected (m, d), not empty, got shape " + shape_of(Z));
  require_finite(Z.data(), precision, static_cast<std::size_t>(Z.size()), "embeddings");
  const auto [mean, deviation] =
      column_moments(Z.data(), precision, static_cast<std::size_t>(Z.shape(0)),
                     static_cast<std::size_t>(Z.shape(1)));
  return py::make_tuple(Array(mean.size(), mean.data()), Array(deviation.size(), deviation.data()));
}

// Read all bytes of an array: an upper bound of what a scan can reach on this machine.
std::uint64_t read_pass(const py::object& array_) {
  const py::array a = contiguous(array_, "array");
  const auto* data = static_cast<const char*>(a.data());
  const auto size = static_cast<std::size_t>(a.nbytes());
  const py::gil_scoped_release nogil;
  std::atomic<std::uint64_t> word{0};
  parallel_ranges(size / 64, static_cast<double>(size), [&](std::size_t begin, std::size_t end) {
    word ^= simd().read(data + 64 * begin, 64 * (end - begin));
  });
  return word ^ simd().read(data + size / 64 * 64, size % 64);
}

// ---- random numbers ----------------------------------------------------------------------------

std::array<std::uint64_t, 4> philox_words(const std::array<std::uint64_t, 2>& key,
                                          const std::array<std::uint64_t, 4>& counter) {
  const RandomWords out =
      philox({key[0], key[1]}, {{counter[0], counter[1], counter[2], counter[3]}});
  return {out.word[0], out.word[1], out.word[2], out.word[3]};
}

Array normal_numbers(std::uint64_t seed_low, std::uint64_t seed_high, std::uint64_t stream,
                     std::size_t n, std::size_t first) {
  Array out = vector(n);
  double* p = out.mutable_data();
  const py::gil_scoped_release nogil;
  normals({seed_low, seed_high}, stream, n, p, first);
  return out;
}

// ---- errors -----------------------------------------------------------------------------------

void translate(std::exception_ptr p) {
  const auto raise = [](const char* name, const std::exception& e) {
    const py::object type = py::module_::import("zopo_fast.errors").attr(name);
    py::set_error(type, e.what());
  };
  try {
    if (p) std::rethrow_exception(p);
  } catch (const ArrayError& e) {
    raise("ArrayError", e);
  } catch (const IndexError& e) {
    raise("UnknownIndexError", e);
  } catch (const NotPositiveDefiniteError& e) {
    raise("NotPositiveDefiniteError", e);
  } catch (const ConfigError& e) {
    raise("ConfigError", e);
  } catch (const DeviceMemoryError& e) {
    raise("DeviceMemoryError", e);
  } catch (const DeviceLostError& e) {
    raise("DeviceLostError", e);
  } catch (const DeviceError& e) {
    raise("DeviceError", e);
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native operations of zopo_fast: C-contiguous float64 in, new arrays out.";
  py::register_local_exception_translator(translate);

  m.def("isa", [] { return simd().name; }, "The instruction set in use: baseline, avx2 or avx512.");
  m.def(
      "set_threads", [](std::size_t n) { thread_limit = n; }, "n"_a,
      "Set the number of threads a call may use; 0 means one per core.");
  m.def(
      "threads", [] { return parallel_parts(SIZE_MAX, 1e18); },
      "Number of threads a large call uses.");
  m.def("read_pass", &read_pass, "array"_a,
        "Read an array on all threads, for benchmarks; returns the xor of its 64-bit words.");
  m.def("column_moments", &moments, "embeddings"_a,
        "Compute column means and standard deviations in float64.");

  m.def("philox", &philox_words, "key"_a, "counter"_a,
        "Encrypt a counter by Philox4x64-10: four words, the lowest first.");
  m.def("normals", &normal_numbers, "seed_low"_a, "seed_high"_a, "stream"_a, "n"_a, "first"_a = 0,
        "Compute the standard normal numbers [first, first + n) of a stream.");

  bind_ntk(m);
  bind_gp(m);
  bind_pool(m);
  bind_local_gradient(m);
  bind_region_posterior(m);
  bind_search(m);

  m.def("cuda_device_count", &cuda_device_count, "Number of CUDA devices that this build can use.");
  m.def("cuda_status", &cuda_status,
        "Describe the devices found, or the reason for none, in a line.");
#ifdef ZOPO_HAS_CUDA
  bind_cuda_arrays(m);
  bind_cuda_models(m);
  bind_cuda_ntk(m);
  m.attr("built_with_cuda") = true;
#else
  m.attr("built_with_cuda") = false;
#endif
}

}  // namespace zopo
