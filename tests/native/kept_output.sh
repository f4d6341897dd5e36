#!/bin/sh
# Runs a compiler for CMake and keeps its output beside the object file, for tests/native/ptxas.py.
#
#   tests/native/kept_output.sh nvcc ... -c source.cu -o folder/source.cu.o ...
object=
last=
for argument in "$@"; do
  if [ "$last" = -o ]; then object=$argument; fi
  last=$argument
done
if [ -z "$object" ]; then exec "$@"; fi
rm -f "$object.said"
"$@" > "$object.saying" 2>&1
status=$?
cat "$object.saying"
if [ $status = 0 ]; then mv "$object.saying" "$object.said"; fi
exit $status
