#!/usr/bin/env bash
# Everything that needs a GPU, in one command of under eight minutes: builds for the device that is here, runs
# the tests of devices on it, the benchmarks, and compute-sanitizer; results and a table go to a folder.
#
#   bench/gpu.sh OUT
#
# Nothing is downloaded or installed. Needed: nvcc, CMake, ninja, and for PYTHON (python3) pip, NumPy, pybind11
# and scikit-build-core; PyTorch for the benchmarks; pytest, hypothesis and compute-sanitizer where they are,
# else the summary says what was left out. COMMIT names the sources where they are no checkout.
#
# Exit code: 0 when all went well; 1 when a test, a check of the sanitizer or a benchmark failed (what can run
# still runs); 2 without a device or without what the build needs.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?the folder for the results}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
root=$PWD
python=${PYTHON:-python3}
readonly total=460  # seconds for everything
failed=0
export PATH=$PATH:/usr/local/cuda/bin PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

stop() {
  echo "bench/gpu.sh: $1" >&2
  exit 2
}

# ---- what is here ------------------------------------------------------------------------------------

device=$("$python" - 2>&1 << 'PY'
import ctypes
import sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit("no CUDA driver is installed (libcuda.so.1)")
count, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
if code := cuda.cuInit(0):
    sys.exit(f"the CUDA driver finds no device (cuInit: error {code})")
if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
    sys.exit("the CUDA driver lists no device")
for value, attribute in ((major, 75), (minor, 76)):
    if code := cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
        sys.exit(f"the device does not say what it is (cuDeviceGetAttribute: error {code})")
print(f"{major.value}{minor.value}")
PY
) || stop "no GPU to measure: $device"
[ "$device" -ge 80 ] || stop "the GPU has compute capability ${device%?}.${device: -1}, at least 8.0 is needed"
for tool in nvcc cmake ninja; do
  command -v $tool > /dev/null || stop "$tool is needed to build, and is not on PATH"
done
has() { "$python" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }
for module in pip numpy pybind11 scikit_build_core; do
  has $module || stop "the Python package $module is needed to build, and $python has it not"
done

# ---- stages ------------------------------------------------------------------------------------------

: > "$out/summary.txt"
note() { printf '%-22s %s\n' "$1" "$2" | tee -a "$out/summary.txt"; }

# stage NAME LIMIT COMMAND...: its output goes to OUT/NAME.log; stopped at its limit or when the time is up.
stage() {
  local name=$1 limit=$2 left=$((total - SECONDS)) begin=$SECONDS code=0
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    note "$name" "left out: the time is up"
    failed=1
    return 1
  fi
  last() { tail -n 1 "$out/$name.log" | cut -c 1-120; }
  timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  case $code in
    0) note "$name" "passed in $((SECONDS - begin)) s: $(last)" ;;
    124 | 137) note "$name" "FAILED: stopped after $limit s" ;;
    *) note "$name" "FAILED (exit code $code, $name.log): $(last)" ;;
  esac
  [ "$code" -eq 0 ] || failed=1
  return "$code"
}

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
stage build 200 env CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" "$python" -m pip install --verbose --no-index --no-deps \
  --no-build-isolation --target "$build/package" -C build-dir="$build/cmake" -C build.verbose=true \
  -C cmake.define.ZOPO_CUDA=ON -C cmake.define.ZOPO_CUDA_ARCHITECTURES="$device-real" "$root"
if [ $failed -ne 0 ]; then
  tail -n 30 "$out/build.log" >&2
  exit 1
fi
export PYTHONPATH=$build/package${PYTHONPATH:+:$PYTHONPATH}
mkdir "$build/run" && cd "$build/run" || exit 1  # not the sources' folder: its zopo_fast has no extension
stage loaded 60 "$python" -c "
from zopo_fast import _core
assert _core.__file__.startswith('$build'), _core.__file__
assert _core.cuda_device_count() > 0, _core.cuda_status()
print(_core.cuda_status())" || exit 1

stage small 60 "$python" "$root/bench/gpu/small.py"

if has pytest; then
  mapfile -t tests < "$root/tests/native/devices.txt"
  tests=("${tests[@]/#/$root/tests/}")
  if ! has hypothesis; then
    note hypothesis "not installed: tests that need it are left out"
    mapfile -t tests < <(grep -L hypothesis "${tests[@]}")
  fi
  # The options of pyproject.toml name plugins that need not be here.
  stage tests 120 "$python" -m pytest -c /dev/null --rootdir="$root/tests" -p no:cacheprovider -q -ra \
    -o pythonpath="$root/tests/support" -m "cuda or emulated or devices" "${tests[@]}"
else
  note tests "left out: pytest is not installed; bench/gpu/small.py compares every operation with the CPU's"
fi

if has torch; then
  commit=${COMMIT:-$(git -C "$root" rev-parse --short=12 HEAD 2> /dev/null)}
  if [ -z "${COMMIT:-}" ] && [ -n "$(git -C "$root" status --porcelain -- . ':(exclude)bench/results' 2> /dev/null)" ]; then
    commit+=-dirty
  fi
  for part in gram step pool batch; do
    stage $part 110 "$python" -m zopo_fast.bench.gpu $part --out "$out" ${commit:+--commit "$commit"}
  done
  "$python" -m zopo_fast.bench.gpu report --out "$out" | tee "$out/table.txt"
else
  note benchmarks "left out: PyTorch is not installed"
  failed=1
fi
# What the runtime asks of an older driver in vain is no error of ours: check() looks at every call.
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    stage $tool 75 compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 9 \
      "$python" "$root/bench/gpu/small.py"
  done
else
  note compute-sanitizer "left out: it is not on PATH"
fi

echo
cat "$out/summary.txt"
echo "$SECONDS s"
exit $failed
