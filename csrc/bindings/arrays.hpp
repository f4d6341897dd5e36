// Arrays that come from Python. Shape, dtype, order and finiteness of host arrays are checked here
// and nowhere else.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "base/aligned.hpp"
#include "base/error.hpp"
#include "base/precision.hpp"

namespace zopo {

namespace py = pybind11;
using Array = py::array_t<double>;

inline std::string shape_of(const py::array& a) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + (a.ndim() == 1 ? ",)" : ")");
}

inline py::array contiguous(const py::handle& object, const char* name) {
  if (!py::isinstance<py::array>(object))
    throw ArrayError(std::string(name) + ": expected a NumPy array, got " +
                     std::string(py::str(py::type::handle_of(object))));
  auto a = py::reinterpret_borrow<py::array>(object);
  if (!(a.flags() & py::array::c_style))
    throw ArrayError(std::string(name) +
                     ": the array is not C-contiguous; pass numpy.ascontiguousarray(" + name + ")");
  return a;
}

inline void require_finite(const void* data, Precision precision, std::size_t size,
                           const char* name) {
  const std::size_t at = first_non_finite(data, precision, size);
  if (at != size)
    throw ArrayError(std::string(name) + ": NaN or infinity at flat index " + std::to_string(at));
}

// Return a float64 array of `ndim` dimensions; `columns` is the length of the last one, -1 for any.
inline Array doubles(const py::handle& object, const char* name, py::ssize_t ndim,
                     py::ssize_t columns = -1) {
  const py::array a = contiguous(object, name);
  if (!py::isinstance<Array>(a))
    throw ArrayError(std::string(name) + ": expected float64, got " +
                     std::string(py::str(a.dtype())));
  if (a.ndim() != ndim || (columns >= 0 && a.shape(ndim - 1) != columns))
    throw ArrayError(std::string(name) + ": expected " + std::to_string(ndim) + " dimension(s)" +
                     (columns >= 0 ? " with " + std::to_string(columns) + " in the last" : "") +
                     ", got shape " + shape_of(a));
  auto typed = py::reinterpret_borrow<Array>(a);
  require_finite(typed.data(), Precision::Double, static_cast<std::size_t>(typed.size()), name);
  return typed;
}

inline Array doubles_like(const py::handle& object, const char* name, py::ssize_t rows) {
  Array a = doubles(object, name, 1);
  if (a.shape(0) != rows)
    throw ArrayError(std::string(name) + ": expected " + std::to_string(rows) + " entries, got " +
                     std::to_string(a.shape(0)));
  return a;
}

// Return the noise variances, one for each of `rows` rows of X.
inline Array variances(const py::handle& object, py::ssize_t rows) {
  Array a = doubles_like(object, "noise", rows);
  for (py::ssize_t i = 0; i < rows; ++i)
    if (a.data()[i] < 0.0)
      throw ArrayError("noise: a variance cannot be negative, got " + std::to_string(a.data()[i]));
  return a;
}

inline Precision precision_of(const py::array& a, const char* name) {
  if (a.dtype().kind() == 'f' && a.dtype().byteorder() != '>') switch (a.itemsize()) {
      case 2:
        return Precision::Half;
      case 4:
        return Precision::Single;
      case 8:
        return Precision::Double;
    }
  throw ArrayError(std::string(name) + ": expected float16, float32 or float64, got " +
                   std::string(py::str(a.dtype())));
}

inline std::size_t rows(const Array& a) { return static_cast<std::size_t>(a.shape(0)); }

inline Array vector(std::size_t n) { return Array(static_cast<py::ssize_t>(n)); }
inline Array matrix(std::size_t n, std::size_t m) {
  return Array({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(m)});
}

using Indices = py::array_t<std::int64_t>;

// Return a one-dimensional array of indices, of this size unless any is allowed.
inline Indices indices(const py::object& object, const char* name, std::size_t size,
                       bool any_size) {
  const py::array a = contiguous(object, name);
  if (!py::isinstance<Indices>(a) || a.ndim() != 1 ||
      (!any_size && static_cast<std::size_t>(a.shape(0)) != size))
    throw ArrayError(std::string(name) + ": expected int64 of shape (" +
                     (any_size ? "n" : std::to_string(size)) + ",), got " +
                     std::string(py::str(a.dtype())) + " of shape " + shape_of(a));
  return py::reinterpret_borrow<Indices>(a);
}

inline Doubles doubles_of(const py::handle& object, const char* name, py::ssize_t size = -1) {
  const Array a = doubles(object, name, 1, size);
  return {a.data(), a.data() + a.size()};
}

}  // namespace zopo
