#!/usr/bin/env bash
# Install the package as README.md says, `pip install .` in an empty virtual environment, and use it.
#
#   tests/repo/fresh_install.sh [PIP OPTIONS]     for example -C cmake.define.ZOPO_CUDA=OFF
#
# PYTHON is the interpreter; default python3. CUDACXX=none hides nvcc. The sources are a clone of the last commit:
# the build must neither find nor change this tree's build folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

git clone --quiet . "$folder/clone"
"${PYTHON:-python3}" -m venv "$folder/venv"
# With ccache as compiler launcher, objects of this tree are found again although the clone lies elsewhere.
export CCACHE_BASEDIR=$folder/clone
(cd "$folder/clone" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check . "$@")

cd "$folder" # not the sources' folder: Python would import them
venv/bin/pip check
venv/bin/python "$root/tests/repo/smoke.py"
# The CUDA engine is built exactly where a compiler is found.
built=$(venv/bin/python -c 'import zopo_fast as zf; print("CPU engine only" not in zf.cuda_status())')
wanted=$(if [[ "$*" != *ZOPO_CUDA=OFF* ]] && command -v "${CUDACXX:-nvcc}" > /dev/null; then echo True; else echo False; fi)
if [ "$built" != "$wanted" ]; then
  echo "CUDA engine built: $built, expected: $wanted" >&2
  exit 1
fi
