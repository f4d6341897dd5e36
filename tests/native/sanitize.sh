#!/usr/bin/env bash
# Builds the extension with sanitizers, apart from the installed one, and runs its tests against that build.
#
#   tests/native/sanitize.sh address     AddressSanitizer and UndefinedBehaviorSanitizer, native tests
#   tests/native/sanitize.sh thread      ThreadSanitizer, the tests that use objects from several threads
#
# PYTHON is an interpreter with the test dependencies. The first fault ends the run. CPython and NumPy are
# not instrumented: their errors on our memory go unseen, ours on their heap memory do not.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:?address or thread}
python=${PYTHON:-python3}
root=$PWD
build=$root/build/sanitize/$kind

case $kind in
  address)
    sanitizers=address,undefined
    libraries="libasan.so libubsan.so"
    # CPython frees little of its memory at exit, so leaks are not checked.
    export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    tests=(gp/kernel gp/gp gp/gp_limits search/local_gradient search/pool_scan native/dispatch
      native/threads native/boundary search/long_lived gp/properties_kernel gp/properties_gp
      search/properties_search search/optimizer search/official_loop search/region_posterior search/batch
      search/same_search search/region_candidates search/prior_kernel
      search/region_proposals search/region_errors search/region_process search/random_numbers)
    ;;
  thread)
    sanitizers=thread
    libraries=libtsan.so
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
    tests=(native/threads native/dispatch)
    ;;
  *)
    echo "address or thread, not '$kind'" >&2
    exit 2
    ;;
esac

# An interpreter without the editable install, which would take precedence; other packages are shared.
"$python" -m venv --without-pip "$build/venv"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$build/package"
"$python" -m pip install --quiet --no-build-isolation --no-deps --target "$build/package" \
  -C build-dir="$build/cmake" -C cmake.build-type=RelWithDebInfo \
  -C cmake.define.CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O0 -C cmake.define.ZOPO_OPTIMIZE=-O1 \
  -C cmake.define.ZOPO_SANITIZE=$sanitizers -C cmake.define.ZOPO_CUDA=OFF .

# The sanitizer's library must load first, and must see C++ exceptions from the start.
preload=
for library in $libraries libstdc++.so; do preload+="$(${CXX:-c++} -print-file-name=$library) "; done
export PYTHONPATH=$build/package:$packages
run=$build/run
mkdir -p "$run" && cd "$run"  # not the sources' folder: its zopo_fast has no extension

# ThreadSanitizer's memory map does not fit where Linux randomises more than 28 bits of the address space.
instrumented=(env "LD_PRELOAD=$preload")
if setarch "$(uname -m)" -R true 2>/dev/null; then instrumented=(setarch "$(uname -m)" -R "${instrumented[@]}"); fi
instrumented+=("$build/venv/bin/python")

loaded=$("${instrumented[@]}" -c 'from zopo_fast import _core; print(_core.__file__)')
case $loaded in "$build"/*) ;; *) echo "the build was not loaded, but $loaded" >&2; exit 1 ;; esac

# Deselected: tests that limit the address space, of which sanitizers reserve terabytes; tests that measure
# time; and sizes and units beyond those that reach every line.
tests=("${tests[@]/\//\/test_}")  # gp/kernel: tests/gp/test_kernel.py
tests=("${tests[@]/#/$root/tests/}")
"${instrumented[@]}" -m pytest -c "$root/pyproject.toml" --rootdir="$root" \
  -p no:cacheprovider --hypothesis-profile=few --capture=sys -q -r fE --timeout=300 \
  -k "not without_memory and not rescore_everything and not cuda and not 150- and not 5000 \
    and not (any_unit and float32)" \
  "${tests[@]/%/.py}" 2>&1 | sed "s|$root/||g"
