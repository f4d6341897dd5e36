"""Index arithmetic of the CUDA kernels (csrc/cuda/runtime/index.hpp), exhaustively on the host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/runtime/index.hpp"

using namespace zopo;

void expect(TilePosition p, std::int64_t row, std::int64_t column, std::int64_t t, const char* what) {
  if (p.row == row && p.column == column) return;
  std::printf("%s(%lld): (%d, %d), not (%lld, %lld)\n", what, static_cast<long long>(t), p.row, p.column,
              static_cast<long long>(row), static_cast<long long>(column));
  std::exit(1);
}

int main() {
  // Every tile of the first 3000 rows, and of rows where t is near 2^40 and near the largest for which
  // the root's argument is exact in float64, 2^53.
  std::int64_t t = 0;
  for (std::int64_t row = 0; row < 3000; ++row) {
    if (lower_tiles(row) != t) return 2;
    for (std::int64_t column = 0; column <= row; ++column, ++t)
      expect(lower_tile(t), row, column, t, "lower_tile");
  }
  for (const std::int64_t around : {std::int64_t{1} << 20, std::int64_t{1482910}, std::int64_t{47453132}})
    for (std::int64_t row = around - 2; row <= around + 2; ++row) {
      const std::int64_t first = lower_tiles(row);
      for (std::int64_t k = 0; k < 1000; ++k) {
        expect(lower_tile(first + k), row, k, first + k, "lower_tile");
        expect(lower_tile(first + row - k), row, row - k, first + row - k, "lower_tile");
      }
    }
  for (int ratio = 1; ratio <= 3; ++ratio) {
    t = 0;
    for (int row = 0; row < 300; ++row)
      for (int column = 0; column < ratio * (row + 1); ++column, ++t)
        expect(lower_tile_wide(t, ratio), row, column, t, "lower_tile_wide");
    if (lower_tiles(300) * ratio != t) return 3;
  }
  // Each tile occurs once; bands in order, and column by column within a band.
  for (int rows = 1; rows < 40; ++rows)
    for (int columns = 1; columns < 40; ++columns)
      for (int band : {1, 2, 8}) {
        t = 0;
        for (int first = 0; first < rows; first += band)
          for (int column = 0; column < columns; ++column)
            for (int row = first; row < rows && row < first + band; ++row, ++t)
              expect(banded_tile(t, rows, columns, band), row, column, t, "banded_tile");
      }
  // 2^31 tiles overflow 32-bit arithmetic.
  const int side = 1 << 16;
  expect(banded_tile(std::int64_t{side} * side / 2, side, side, 8), side / 2, 0, 0, "banded_tile");
  return 0;
}
"""


def test_tile_indices_are_exact(tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the check with")
    source, program = tmp_path / "index.cpp", tmp_path / "index"
    source.write_text(PROGRAM)
    command = [
        compiler,
        "-std=c++20",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{CSRC}",
        source,
        "-o",
        program,
    ]
    subprocess.run(command, check=True, timeout=280)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
