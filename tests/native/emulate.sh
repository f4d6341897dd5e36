#!/usr/bin/env bash
# Builds the extension with its CUDA kernels emulated on the host (tests/native/emulation), apart from the
# installed one, and runs the tests that use a device against that build: all of them with threads and blocks
# in reverse order, a selection in forward order and a smaller one in a random order. A missing barrier shows
# in one order or another at any size, so the selections have every kernel but not the large sizes.
# About six minutes on two cores.
#
#   tests/native/emulate.sh            all of it
#   tests/native/emulate.sh reverse    the whole list in one order only: forward, reverse or a seed
#
# PYTHON is an interpreter with the test dependencies.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
root=$PWD
build=$root/build/emulate

# Files with tests of devices; tests/native/test_cuda_collection.py checks that the list is complete.
mapfile -t tests < tests/native/devices.txt
# Tests left out of the other orders, as pytest's -k: many repetitions, or long for their size.
left_out=(properties thousand large_pool any_unit take_and_release any_sequence 5000 7000 very_different
  gradcheck opcheck golden no_room given_back too_little)
selection=$(printf ' and not %s' "${left_out[@]}")
selection="${selection# and } and not (every_height and (float16 or float64))"

# An interpreter without the editable install, which would take precedence; other packages are shared.
"$python" -m venv --without-pip "$build/venv"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$build/package"
"$python" -m pip install --quiet --no-build-isolation --no-deps --target "$build/package" \
  -C build-dir="$build/cmake" -C cmake.build-type=RelWithDebInfo \
  -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO="-O0 -g1" -C cmake.define.ZOPO_OPTIMIZE=-O2 \
  -C install.strip=false -C cmake.define.ZOPO_WERROR="${WERROR:-OFF}" -C cmake.define.ZOPO_CUDA=EMULATE .

export PYTHONPATH=$build/package:$packages
run=$build/run
mkdir -p "$run" && cd "$run"  # not the sources' folder: its zopo_fast has no extension
status=$("$build/venv/bin/python" -c 'from zopo_fast import _core; print(_core.__file__, _core.cuda_status())')
case $status in
  "$build"/*"emulated on the host"*) ;;
  *) echo "the emulated build was not loaded, but $status" >&2; exit 1 ;;
esac

tests=("${tests[@]/#/$root/tests/}")
in_order() {
  echo "threads and blocks in the order $1"
  ZOPO_EMULATE_ORDER=$1 "$build/venv/bin/python" -m pytest -c "$root/pyproject.toml" --rootdir="$root" \
    -p no:cacheprovider --hypothesis-profile=few -q -r fE --timeout=300 \
    -m "cuda or emulated or devices" -k "${2:-test}" \
    "${tests[@]}" 2>&1 | sed "s|$root/||g"
}

if [ $# -gt 0 ]; then
  in_order "$1"
  exit
fi
# Kernels run on one core: the whole list takes one core, the other orders another.
in_order reverse > "$build/reverse.log" &
reverse=$!
failed=0
in_order forward "$selection" || failed=1
in_order 20240305 "$selection and (batch or gp_cuda or device_models)" || failed=1
wait $reverse || failed=1
cat "$build/reverse.log"
exit $failed
