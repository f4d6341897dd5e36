// CudaArray: device arrays, imported and exported without a copy by DLPack (array API standard,
// "Data interchange mechanisms") and __cuda_array_interface__ (version 3).
#include "bindings/cuda_arrays.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/dlpack.hpp"

namespace zopo {
namespace {

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string s = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

py::dtype dtype_of(Precision precision) {
  return py::dtype(precision == Precision::Half     ? "float16"
                   : precision == Precision::Single ? "float32"
                                                    : "float64");
}

std::optional<Precision> precision_of_bits(unsigned bits) {
  if (bits == 16) return Precision::Half;
  if (bits == 32) return Precision::Single;
  if (bits == 64) return Precision::Double;
  return std::nullopt;
}

// Require C order. Strides are in units of `entry`; an axis of length one or an empty array has no
// meaningful strides.
template <class Strides>
void require_contiguous(const char* name, const std::vector<std::size_t>& shape,
                        const Strides& stride_of, std::int64_t entry) {
  for (const std::size_t s : shape)
    if (s == 0) return;
  std::int64_t expected = entry;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && stride_of(i) != expected)
      throw ArrayError(std::string(name) +
                       ": the array is not C-contiguous; pass a contiguous copy (torch: " + name +
                       ".contiguous(), CuPy: cupy.ascontiguousarray(" + name + "))");
    expected *= static_cast<std::int64_t>(shape[i]);
  }
}

py::tuple shape_tuple(const std::vector<std::size_t>& shape) {
  py::tuple t(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) t[i] = shape[i];
  return t;
}

// ---- DLPack in ---------------------------------------------------------------------------------

template <class Managed>
struct ImportedTensor final : DeviceMemory {
  explicit ImportedTensor(Managed* tensor) : managed(tensor) {}
  ~ImportedTensor() override {
    if (managed->deleter) managed->deleter(managed);
  }
  Managed* managed;
};

template <class Managed>
CudaArray import_tensor(py::capsule capsule, Managed* managed, bool read_only, const char* used,
                        StreamHandle stream, const char* name) {
  const dlpack::DLTensor& t = managed->dl_tensor;
  if (t.device.device_type != dlpack::kCuda && t.device.device_type != dlpack::kCudaManaged)
    throw DeviceError(std::string(name) + ": the DLPack tensor is not on a CUDA device (type " +
                      std::to_string(t.device.device_type) + ")");
  require_cuda(t.device.device_id);
  const auto precision = precision_of_bits(t.dtype.bits);
  if (t.dtype.code != dlpack::kFloat || t.dtype.lanes != 1 || !precision)
    throw ArrayError(std::string(name) + ": expected float16, float32 or float64, got " +
                     (t.dtype.code == dlpack::kBfloat
                          ? "bfloat"
                          : "DLPack type " + std::to_string(t.dtype.code) + " of ") +
                     std::to_string(t.dtype.bits) + " bits");
  std::vector<std::size_t> shape(t.shape, t.shape + t.ndim);
  if (t.strides) require_contiguous(name, shape, [&](std::size_t i) { return t.strides[i]; }, 1);
  auto array = std::make_shared<DeviceArray>();
  array->data = static_cast<char*>(t.data) + t.byte_offset;
  array->shape = std::move(shape);
  array->precision = *precision;
  array->ordinal = t.device.device_id;
  array->stream = stream;
  array->read_only = read_only;
  // The tensor is ours from here on: the capsule's destructor ignores a capsule of the new name.
  if (PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  array->memory = std::make_shared<ImportedTensor<Managed>>(managed);
  return array;
}

CudaArray from_dlpack(const py::object& object, std::uintptr_t stream_, const std::string& name_) {
  const char* name = name_.c_str();
  const StreamHandle stream = stream_handle(stream_);
  if (!PyCapsule_CheckExact(object.ptr()))
    throw ArrayError(name_ + ": expected a DLPack capsule, got " +
                     std::string(py::str(py::type::handle_of(object))));
  const auto capsule = py::reinterpret_borrow<py::capsule>(object);
  if (PyCapsule_IsValid(object.ptr(), "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(object.ptr(), "dltensor_versioned"));
    if (managed->version.major != 1)
      throw ArrayError(name_ + ": unsupported DLPack version " +
                       std::to_string(managed->version.major) + "; ask for max_version=(1, 0)");
    return import_tensor(capsule, managed, managed->flags & dlpack::kReadOnly,
                         "used_dltensor_versioned", stream, name);
  }
  if (PyCapsule_IsValid(object.ptr(), "dltensor"))
    return import_tensor(
        capsule,
        static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(object.ptr(), "dltensor")),
        false, "used_dltensor", stream, name);
  const char* is = PyCapsule_GetName(object.ptr());
  throw ArrayError(name_ + ": the capsule is named '" + (is ? is : "") +
                   "': not a DLPack tensor, or one that was used before; a capsule is used once");
}

// ---- __cuda_array_interface__ and NumPy in -----------------------------------------------------

// Keeps the Python object that owns the memory. A thread without the GIL may destroy it.
struct ObjectMemory final : DeviceMemory {
  explicit ObjectMemory(py::object o) : owner(std::move(o)) {}
  ~ObjectMemory() override {
    if (!Py_IsInitialized()) {
      (void)owner.release();
      return;
    }
    const py::gil_scoped_acquire gil;
    owner = py::object();
  }
  py::object owner;
};

CudaArray from_interface(const py::dict& interface, py::object owner, std::uintptr_t stream_,
                         const std::string& name_) {
  const char* name = name_.c_str();
  const auto entry = [&](const char* key) -> py::object {
    return interface.contains(key) ? py::object(interface[key]) : py::object(py::none());
  };
  auto array = std::make_shared<DeviceArray>();
  try {
    array->shape = entry("shape").cast<std::vector<std::size_t>>();
    const auto type = entry("typestr").cast<std::string>();
    const auto precision =
        type.size() == 3 ? precision_of_bits(8u * unsigned(type[2] - '0')) : std::nullopt;
    if (!precision || type[1] != 'f' || type[0] == '>')
      throw ArrayError(name_ + ": expected float16, float32 or float64, got typestr '" + type +
                       "'");
    array->precision = *precision;
    if (!entry("mask").is_none())
      throw ArrayError(name_ +
                       ": masked arrays are not supported; fill in the masked entries first");
    if (const py::object strides = entry("strides"); !strides.is_none()) {
      const auto given = strides.cast<std::vector<std::int64_t>>();
      if (given.size() != array->shape.size())
        throw ArrayError(name_ + ": expected one stride for each of " +
                         std::to_string(array->shape.size()) + " dimensions, got " +
                         std::to_string(given.size()));
      require_contiguous(
          name, array->shape, [&](std::size_t i) { return given[i]; },
          static_cast<std::int64_t>(precision_bytes(*precision)));
    }
    const auto data = entry("data").cast<std::pair<std::uintptr_t, bool>>();
    array->data = reinterpret_cast<void*>(data.first);
    array->read_only = data.second;
  } catch (const py::cast_error&) {
    throw ArrayError(name_ +
                     ": expected shape, typestr and data as __cuda_array_interface__ version 3 "
                     "defines them, got " +
                     std::string(py::repr(interface)));
  }
  require_cuda(0);
  if (array->size() > 0) array->ordinal = device_of(array->data, name);
  // Wait for the producer's stream, where it names one: work enqueued there may still write.
  array->stream = stream_handle(stream_);
  array->memory = std::make_shared<ObjectMemory>(std::move(owner));
  if (const py::object theirs = entry("stream"); !theirs.is_none()) {
    const StreamHandle ours = array->stream;
    array->stream = stream_handle(theirs.cast<std::uintptr_t>());
    make_stream_wait(ours, *array);
    array->stream = ours;
  }
  return array;
}

CudaArray from_numpy(const py::object& array_, int ordinal, std::uintptr_t stream_,
                     const std::string& name) {
  const py::array a = contiguous(array_, name.c_str());
  const Precision precision = precision_of(a, name.c_str());
  const std::vector<std::size_t> shape(a.shape(), a.shape() + a.ndim());
  const void* data = a.data();
  const StreamHandle stream = stream_handle(stream_);
  const py::gil_scoped_release nogil;
  require_cuda(ordinal);
  return std::make_shared<DeviceArray>(
      device_array_from_host(data, shape, precision, ordinal, stream));
}

// ---- out ---------------------------------------------------------------------------------------

template <class Managed>
struct Exported {
  DeviceArray array;
  std::vector<std::int64_t> shape, strides;
  Managed managed{};
};

template <class Managed>
void delete_exported(Managed* managed) {
  delete static_cast<Exported<Managed>*>(managed->manager_ctx);
}

template <class Managed>
Managed* export_tensor(const DeviceArray& array) {
  auto* e = new Exported<Managed>{array, {}, {}, {}};
  e->shape.assign(array.shape.begin(), array.shape.end());
  e->strides.resize(e->shape.size());
  std::int64_t step = 1;
  for (std::size_t i = e->shape.size(); i-- > 0; step *= e->shape[i]) e->strides[i] = step;
  e->managed.dl_tensor = {
      array.data,
      {dlpack::kCuda, array.ordinal},
      static_cast<std::int32_t>(e->shape.size()),
      {dlpack::kFloat, static_cast<std::uint8_t>(8 * precision_bytes(array.precision)), 1},
      e->shape.data(),
      e->strides.data(),
      0};
  e->managed.manager_ctx = e;
  e->managed.deleter = &delete_exported<Managed>;
  return &e->managed;
}

// Wrap a tensor in a capsule whose destructor frees it unless a consumer renamed the capsule.
template <class Managed>
py::object capsule_of(Managed* managed, const char* name) {
  PyObject* capsule = PyCapsule_New(managed, name, [](PyObject* c) {
    for (const char* unused : {"dltensor", "dltensor_versioned"})
      if (PyCapsule_IsValid(c, unused)) {
        auto* m = static_cast<Managed*>(PyCapsule_GetPointer(c, unused));
        m->deleter(m);
      }
  });
  if (!capsule) {
    managed->deleter(managed);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

py::object to_dlpack(const CudaArray& self, const py::object& stream, const py::object& max_version,
                     const py::object& dl_device, const py::object& copy) {
  if (!dl_device.is_none()) {
    const auto [type, id] = dl_device.cast<std::pair<int, int>>();
    if (type != dlpack::kCuda || id != self->ordinal)
      throw py::buffer_error("the array is on " + self->device() +
                             ", and __dlpack__ does not move it; numpy() copies it to the host");
  }
  // None is the legacy default stream; -1 leaves the order to the consumer.
  const auto number = stream.is_none() ? std::int64_t{1} : stream.cast<std::int64_t>();
  if (number == 0 || number < -1)
    throw py::buffer_error("stream " + std::to_string(number) +
                           ": expected None, -1, 1 (legacy default), 2 (per-thread default) or a "
                           "stream's address");
  const bool versioned =
      !max_version.is_none() && max_version.cast<std::pair<int, int>>().first >= 1;
  const bool copied = !copy.is_none() && copy.cast<bool>();
  const DeviceArray array = copied ? device_array_copy(*self, self->stream) : *self;
  if (number == -1)
    array.memory->used_elsewhere = true;
  else
    make_stream_wait(stream_handle(static_cast<std::uintptr_t>(number)), array);
  if (!versioned) {
    if (array.read_only)
      throw py::buffer_error(
          "DLPack before 1.0 cannot express a read-only array; ask with max_version=(1, 0)");
    return capsule_of(export_tensor<dlpack::DLManagedTensor>(array), "dltensor");
  }
  auto* managed = export_tensor<dlpack::DLManagedTensorVersioned>(array);
  managed->version = {1, 0};
  managed->flags = (array.read_only ? dlpack::kReadOnly : 0) | (copied ? dlpack::kIsCopied : 0);
  return capsule_of(managed, "dltensor_versioned");
}

py::dict to_interface(const CudaArray& self) {
  self->memory->used_elsewhere = true;  // the protocol does not say which stream will read it
  py::dict d;
  d["shape"] = shape_tuple(self->shape);
  d["typestr"] = dtype_of(self->precision).attr("str");
  d["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(self->size() ? self->data : nullptr),
                             self->read_only);
  d["strides"] = py::none();
  d["stream"] = stream_number(self->stream);
  d["version"] = 3;
  return d;
}

py::array to_numpy(const CudaArray& self) {
  py::array out(dtype_of(self->precision),
                std::vector<py::ssize_t>(self->shape.begin(), self->shape.end()));
  void* to = out.mutable_data();
  const py::gil_scoped_release nogil;
  copy_to_host(*self, to);
  return out;
}

CudaArray reshape(const CudaArray& self, std::vector<std::size_t> shape) {
  auto array = std::make_shared<DeviceArray>(*self);
  array->shape = std::move(shape);
  if (array->size() != self->size())
    throw ArrayError("shape: an array of shape " + shape_text(self->shape) +
                     " cannot be reshaped to " + shape_text(array->shape));
  return array;
}

py::object to_array(const CudaArray& self, const py::object& dtype, const py::object& copy) {
  if (!copy.is_none() && !copy.cast<bool>())
    throw py::value_error("an array on " + self->device() +
                          " cannot be a NumPy array without a copy");
  const py::array a = to_numpy(self);
  return dtype.is_none() ? py::object(a) : a.attr("astype")(dtype, "copy"_a = false);
}

}  // namespace

// ---- used by other bindings --------------------------------------------------------------------

StreamHandle stream_handle(std::uintptr_t stream) {
  return stream <= 1 ? nullptr : reinterpret_cast<StreamHandle>(stream);
}
std::uintptr_t stream_number(StreamHandle stream) {
  return stream ? reinterpret_cast<std::uintptr_t>(stream) : 1;
}

void require_shape(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns) {
  const auto& shape = argument.array->shape;
  if (shape.size() != ndim || (columns >= 0 && shape.back() != static_cast<std::size_t>(columns)))
    throw ArrayError(std::string(argument.name) + ": expected " + std::to_string(ndim) +
                     " dimension(s)" +
                     (columns >= 0 ? " with " + std::to_string(columns) + " in the last" : "") +
                     ", got shape " + shape_text(shape));
}

void require_doubles(const DeviceArgument& argument, std::size_t ndim, std::ptrdiff_t columns) {
  if (argument.array->precision != Precision::Double)
    throw ArrayError(std::string(argument.name) + ": expected float64 on the device, got " +
                     (argument.array->precision == Precision::Half ? "float16" : "float32"));
  require_shape(argument, ndim, columns);
}

void require_rows(const DeviceArgument& argument, std::size_t rows) {
  if (argument.array->shape[0] != rows)
    throw ArrayError(std::string(argument.name) + ": expected " + std::to_string(rows) +
                     " rows, one for each of X, got shape " + shape_text(argument.array->shape));
}

void on_device(std::initializer_list<DeviceArgument> arguments, int ordinal, StreamHandle stream) {
  std::vector<const DeviceArray*> arrays;
  for (const auto& [name, array] : arguments) {
    if (array->ordinal != ordinal)
      throw DeviceError(std::string(name) + ": the array is on " + array->device() +
                        ", but the call runs on cuda:" + std::to_string(ordinal) +
                        "; move all arrays to one device");
    make_stream_wait(stream, *array);
    arrays.push_back(array);
  }
  const std::vector<std::size_t> first = first_non_finite(arrays, stream);
  for (std::size_t k = 0; k < first.size(); ++k)
    if (first[k] != arrays[k]->size())
      throw ArrayError(std::string(arguments.begin()[k].name) + ": NaN or infinity at flat index " +
                       std::to_string(first[k]));
}

CudaArray new_cuda_array(std::vector<std::size_t> shape, int ordinal, StreamHandle stream,
                         Precision precision) {
  return std::make_shared<DeviceArray>(device_array(std::move(shape), precision, ordinal, stream));
}

void bind_cuda_arrays(py::module_& m) {
  py::class_<DeviceArray, CudaArray>(m, "CudaArray",
                                     "A C-contiguous array on a CUDA device, exchanged without a "
                                     "copy by DLPack and __cuda_array_interface__.")
      .def_property_readonly("shape", [](const CudaArray& a) { return shape_tuple(a->shape); })
      .def_property_readonly("dtype", [](const CudaArray& a) { return dtype_of(a->precision); })
      .def_property_readonly("device", [](const CudaArray& a) { return a->device(); })
      .def_property_readonly("stream", [](const CudaArray& a) { return stream_number(a->stream); })
      .def_property_readonly("__cuda_array_interface__", &to_interface)
      .def("__dlpack__", &to_dlpack, py::kw_only(), "stream"_a = py::none(),
           "max_version"_a = py::none(), "dl_device"_a = py::none(), "copy"_a = py::none())
      .def("__dlpack_device__",
           [](const CudaArray& a) { return py::make_tuple(int{dlpack::kCuda}, a->ordinal); })
      .def("reshape", &reshape, "shape"_a, "The same memory under another shape.")
      .def("numpy", &to_numpy, "A copy on the host; waits for the device.")
      .def("__array__", &to_array, "dtype"_a = py::none(), "copy"_a = py::none())
      .def("__len__",
           [](const CudaArray& a) {
             if (a->shape.empty()) throw py::type_error("len() of an array without dimensions");
             return a->shape[0];
           })
      .def("__repr__", [](const CudaArray& a) {
        return "CudaArray(shape=" + shape_text(a->shape) +
               ", dtype=" + std::string(py::str(dtype_of(a->precision))) + ", device='" +
               a->device() + "')";
      });
  m.def("cuda_from_numpy", &from_numpy, "array"_a, "ordinal"_a, "stream"_a = 1, "name"_a = "array",
        "Copy a host array to the device.");
  m.def("cuda_from_dlpack", &from_dlpack, "capsule"_a, "stream"_a = 1, "name"_a = "array",
        "Import the array of a DLPack capsule requested with this stream; no copy.");
  m.def("cuda_from_interface", &from_interface, "interface"_a, "owner"_a, "stream"_a = 1,
        "name"_a = "array", "Import a __cuda_array_interface__ and keep its owner alive; no copy.");
  m.def(
      "cuda_require_finite",
      [](const CudaArray& array, std::uintptr_t stream, const std::string& name) {
        const py::gil_scoped_release nogil;
        on_device({{name.c_str(), array.get()}}, array->ordinal, stream_handle(stream));
      },
      "array"_a, "stream"_a = 1, "name"_a = "array", "Raise ArrayError at NaN or infinity.");
  m.def(
      "cuda_synchronize",
      [](int ordinal, std::uintptr_t stream) {
        const py::gil_scoped_release nogil;
        require_cuda(ordinal);
        wait_for_stream(ordinal, stream_handle(stream));
      },
      "ordinal"_a, "stream"_a = 1, "Wait until the stream has finished its work.");
}

}  // namespace zopo
