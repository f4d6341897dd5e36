#!/usr/bin/env bash
# Run the tests with every dependency of the core at the lowest version that pyproject.toml allows.
#
#   tests/repo/lower_bounds.sh [FOLDER]     creates the virtual environment there; default a temporary folder
#
# PYTHON is a CPython 3.11: the lowest NumPy has no wheels for later versions. ARGS go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
folder=${1:-$(mktemp -d)/lower-bounds}
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet uv packaging
# Write the requirements of the core, and fail where one has no lower bound.
"$folder/bin/python" - pyproject.toml > "$folder/core.txt" << 'EOF'
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

for line in tomllib.loads(Path(sys.argv[1]).read_text())["project"]["dependencies"]:
    if not any(part.operator in (">=", "==", "~=") for part in Requirement(line).specifier):
        sys.exit(f"{line}: no lower bound")
    print(line)
EOF
uv() { "$folder/bin/python" -m uv pip "$@" --python "$folder/bin/python" --quiet; }
# Tests and build use current versions; the direct dependencies of the core, their lowest.
uv install "pytest>=8.0" "pytest-timeout>=2.3" "hypothesis>=6.100" "scikit-build-core>=0.10" "pybind11>=2.13" ninja "cmake>=3.25.2"
uv install --reinstall --resolution lowest-direct -r "$folder/core.txt"
# curve.png is tested too, with the newest Altair that works with these versions.
"$folder/bin/python" -m uv pip freeze --python "$folder/bin/python" --quiet > "$folder/frozen.txt"
uv install --constraint "$folder/frozen.txt" "altair>=5.5" "vl-convert-python>=1.7"
# The build folder lies in the same place, so that a second run compiles only changed files.
nice "$folder/bin/python" -m uv pip install --python "$folder/bin/python" --quiet --no-deps --no-build-isolation \
  --reinstall-package zopo-fast -C cmake.define.ZOPO_CUDA=OFF -C build-dir="$folder/build" .
"$folder/bin/python" - "$folder/core.txt" << 'EOF'
import sys
from importlib.metadata import version

from packaging.requirements import Requirement

for line in open(sys.argv[1]):
    requirement = Requirement(line.strip())
    if requirement.marker is None or requirement.marker.evaluate():
        lowest = min(part.version for part in requirement.specifier)
        found = version(requirement.name)
        print(f"{requirement.name:10} declared {lowest:8} installed {found}")
        if not (found + ".0.0").startswith(lowest + "."):
            sys.exit(f"{requirement.name}: {found} is not the lowest, {lowest}")
EOF
# Tests that use each dependency: arrays, client, retries, command line, progress bar. They run in another folder:
# here Python would import the sources instead of the installed package.
tests=(repo/package gp/kernel gp/gp search/optimizer search/optimizer_state prompts/pool tasks/task
  tasks/template scoring/metrics prompts/generate scoring/evaluate runs/run runs/folder prompts/embed
  prompts/embed_cache llm/llm llm/llm_concurrency llm/llm_embeddings llm/llm_errors llm/llm_retries
  cli/cli cli/cli_errors cli/cli_stop runs/landscape hostile/hostile_arrays hostile/hostile_cli
  hostile/hostile_endpoint hostile/hostile_settings hostile/hostile_text)
root=$PWD
tests=("${tests[@]/\//\/test_}")  # gp/kernel: tests/gp/test_kernel.py
paths=("${tests[@]/#/$root/tests/}")
cd "$folder"
# shellcheck disable=SC2086
bin/pytest -q -p no:cacheprovider --rootdir="$root" -c "$root/pyproject.toml" --hypothesis-profile=few -k "not quick" ${ARGS:-} \
  "${paths[@]/%/.py}" | grep -v "^SKIPPED"
