// Choice of the instruction set, made once.
#include "simd/simd.hpp"

#include <cstdlib>
#include <string>

#include "base/error.hpp"

namespace zopo {
namespace {

const Simd* choose() {
  const char* wanted = std::getenv("ZOPO_ISA");
  const Simd* best = nullptr;
  for (const Simd* isa : {simd_avx512(), simd_avx2(), simd_baseline()}) {
    if (!isa) continue;
    if (!best) best = isa;
    if (wanted && std::string(wanted) == isa->name) return isa;
  }
  if (wanted && *wanted)
    throw ConfigError("ZOPO_ISA=" + std::string(wanted) +
                      ": not available; this build and processor run baseline" +
                      (simd_avx2() ? ", avx2" : "") + (simd_avx512() ? ", avx512" : ""));
  return best;
}

}  // namespace

const Simd& simd() {
  static const Simd* const kChosen = choose();
  return *kChosen;
}

}  // namespace zopo
