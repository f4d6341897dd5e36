// The kernel on device arrays. Results are new arrays there, in the order of `stream`; calls do not
// wait. The caller checks shapes. Formulas are those of ntk/ntk.hpp.
#pragma once

#include "cuda/ntk/ntk.hpp"
#include "cuda/runtime/array.hpp"

namespace zopo {

// X (n, d), Y (m, d) or null, of any precision -> (n, m), float32 unless the precision is Float64.
DeviceArray gram_of_arrays(const Network& net, const DeviceArray& X, const DeviceArray* Y,
                           GramPrecision precision, StreamHandle stream);
// X (n, d) -> (n,)
DeviceArray diag_of_arrays(const Network& net, const DeviceArray& X, StreamHandle stream);
// x (d,), X (n, d) -> (n, d)
DeviceArray gradient_of_arrays(const Network& net, const DeviceArray& x, const DeviceArray& X,
                               StreamHandle stream);
// X (n, d), Y (m, d), weight (n, m) -> (n, d)
DeviceArray gram_gradient_of_arrays(const Network& net, const DeviceArray& X, const DeviceArray& Y,
                                    const DeviceArray& weight, StreamHandle stream);

}  // namespace zopo
