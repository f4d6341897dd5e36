#!/usr/bin/env bash
# Install and use the package, without nvcc, under each supported Python found on PATH or among pyenv's versions.
#
#   tests/repo/interpreters.sh
#
# The interpreter PYTHON (default python3) is left out where another one is found: fresh_install.sh covers it.
# The builds are optimised little: what differs between the interpreters is the bindings, not the arithmetic.
set -euo pipefail
cd "$(dirname "$0")/../.."
covered=$("${PYTHON:-python3}" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

declare -A found
for version in 3.11 3.12 3.13 3.14; do
  for python in "$HOME/.pyenv/versions/$version".*/bin/python "$(command -v "python$version" || true)"; do
    # A shim of pyenv may start no interpreter, and Debian's may lack what makes virtual environments.
    if "$python" -c 'import ensurepip, venv' 2> /dev/null; then
      found[$version]=$python
      break
    fi
  done
done
if [ ${#found[@]} -gt 1 ]; then unset "found[$covered]"; fi

for version in "${!found[@]}"; do
  PYTHON=${found[$version]} CUDACXX=none tests/repo/fresh_install.sh \
    -C cmake.define.CMAKE_CXX_FLAGS_RELEASE=-O0 -C cmake.define.ZOPO_OPTIMIZE=-O1
done
