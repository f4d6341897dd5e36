"""How many threads everybody computes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from zopo_fast import _core

from . import machine


def ours_can_be_limited() -> bool:
    """Whether this build lets the number of its threads be set."""
    return hasattr(_core, "set_threads")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """NumPy's BLAS, PyTorch and, where it can be, our engine on `count` threads, and back again.

    JAX takes as many as there are cores when it starts, and cannot be told otherwise afterwards.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    _set(count, count if torch else 0)
    try:
        with machine.blas_threads(count) or nullcontext():
            yield
    finally:
        _set(machine.cores(), before)


def _set(count: int, torch_count: int) -> None:
    set_ours = getattr(_core, "set_threads", None)
    if set_ours is not None:
        set_ours(count)
    if torch_count:
        sys.modules["torch"].set_num_threads(torch_count)
