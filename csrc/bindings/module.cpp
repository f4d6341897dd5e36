// The module: build and thread settings, embeddings' moments, and the translation of errors.
#include <atomic>
#include <cstdint>
#include <string>

#include "base/error.hpp"
#include "base/parallel.hpp"
#include "bindings/bindings.hpp"
// The only include of cuda/ outside csrc/cuda and the CUDA bindings: the header is plain C++ and
// has definitions for builds without CUDA too.
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
