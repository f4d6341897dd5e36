"""Search of a pool that is mapped from a file: threads, added candidates, and the file left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import zopo_fast as zf

M, DIM, MORE = 20_037, 100, 70


@pytest.fixture
def _all_threads() -> Iterator[None]:
    yield
    zf.set_num_threads(0)


@pytest.mark.usefixtures("_all_threads")
def test_threads_and_a_map_give_the_search_of_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(M + MORE, DIM)).astype(np.float16)
    wave = rng.normal(size=DIM) / np.sqrt(DIM)
    scores = np.sin(3.0 * (Z @ wave))
    np.save(tmp_path / "z.npy", Z)
    before = (tmp_path / "z.npy").read_bytes()

    def asked(threads: int, rows: np.ndarray) -> list[int]:
        zf.set_num_threads(threads)
        opt = zf.Zopo(rows[:M], zf.ZopoConfig(budget=60, seed=1))
        found = []
        for step in range(60):
            if step == 30:
                opt.add(rows[M:])
            found.append(opt.ask())
            opt.tell(found[-1], float(scores[found[-1]]))
        return [*found, *opt.predict().indices.tolist()]  # type: ignore[union-attr]

    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    expected = asked(1, Z)
    assert len(set(expected[:60])) == 60
    for threads in (1, 2, 5):
        assert asked(threads, mapped) == expected
    assert (tmp_path / "z.npy").read_bytes() == before
