"""The benchmark of a search in a large pool that is mapped from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zopo_fast.bench.common.harness import Settings
from zopo_fast.bench.micro import large_pool

QUICK = Settings(quick=True, seconds=0.01)
M = 2_500  # just more than is searched as a whole


def test_a_search_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pool, "QUICK_SIZES", (M,))
    result = large_pool.run(QUICK)
    assert [row.what for row in result.rows] == [f"{name}, m = {M:,}" for name in ("start", "ask", "tell")]
    start, ask, tell = result.rows
    assert start.extra["file_gb"] == M * large_pool.DIM * 2 / 1e9
    assert 0.005 < start.extra["own_gb"] < start.extra["peak_gb"] < 0.5
    assert ask.samples == tell.samples == large_pool.BUDGET
    assert 0.0 < tell.median < start.median


def test_the_pool_is_written_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pool, "BLOCK", 70)
    large_pool.write(tmp_path / "pool.npy", 200, 0)
    Z = np.load(tmp_path / "pool.npy")
    assert (Z.shape, Z.dtype) == ((200, large_pool.DIM), np.float16)
    assert np.isfinite(Z).all()
    assert len(np.unique(Z, axis=0)) == 200


def test_a_pool_that_the_disk_has_no_room_for_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2 * large_pool.DIM * M * 2})
    monkeypatch.setattr(large_pool.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(large_pool, "QUICK_SIZES", (M, 10**15))
    monkeypatch.setattr(large_pool, "_measured", lambda *a: {
        "start": 1.0, "asks": [1.0], "tells": [1.0], "own_gb": 1.0, "peak_gb": 2.0,
    })  # fmt: skip
    result = large_pool.run(QUICK)
    assert list(result.skipped) == [f"m = {10**15:,}"]
    assert {row.what.partition(", ")[2] for row in result.rows} == {f"m = {M:,}"}


def test_the_error_of_the_process_is_shown(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        large_pool._measured(tmp_path / "gone.npy", 10, 0)
