"""One thread count for NumPy, PyTorch and zopo_fast."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import zopo_fast as zf

from . import machine


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit NumPy's BLAS, PyTorch and our engine to `count` threads inside the context.

    JAX uses all cores from its start and cannot be limited afterwards.
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
