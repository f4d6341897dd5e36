#!/bin/sh
# Run a compiler as CMake calls it, and keep its output beside the object file, for tests/native/ptxas.py.
#
#   tests/native/kept_output.sh nvcc ... -c source.cu -o folder/source.cu.o ...
#
# CMake calls this in place of the launcher that CMAKE_CUDA_COMPILER_LAUNCHER in the environment names, so that
# one, such as ccache, is called from here.
object=
last=
for argument in "$@"; do
  if [ "$last" = -o ]; then object=$argument; fi
  last=$argument
done
# Unquoted: empty when unset.
set -- ${CMAKE_CUDA_COMPILER_LAUNCHER-} "$@"
if [ -z "$object" ]; then exec "$@"; fi
rm -f "$object.said"
"$@" > "$object.saying" 2>&1
status=$?
cat "$object.saying"
if [ $status = 0 ]; then mv "$object.saying" "$object.said"; fi
exit $status
