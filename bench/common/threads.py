"""How many threads everybody computes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import zopo_fast as zf

from . import machine


@contextmanager
def threads(count: int) -> Iterator[None]:
    """NumPy's BLAS, PyTorch and our engine on `count` threads, and back again.

    JAX takes as many as there are cores when it starts, and cannot be told otherwise afterwards.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    _set(count, count if torch else 0)
    try:
        with machine.blas_threads(count) or nullcontext():
            yield
    finally:
        _set(0, before)


def _set(count: int, torch_count: int) -> None:
    zf.set_num_threads(count)
    if torch_count:
        sys.modules["torch"].set_num_threads(torch_count)
