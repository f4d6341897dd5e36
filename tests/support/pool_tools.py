"""Native pools, for tests that run on every device."""

from __future__ import annotations

from typing import Any

import numpy as np

from zopo_fast import _core
from zopo_fast.gp.device import parse_device

Pool = Any  # _core.Pool or _core.CudaPool


def make_pool(
    device: str, Z: np.ndarray, mean: np.ndarray | None = None, scale: np.ndarray | None = None
) -> Pool:
    """Return the pool of embeddings (m, d) standardised by `mean` and `scale`; without these, as they are."""
    mean = np.zeros(Z.shape[1]) if mean is None else mean
    scale = np.ones(Z.shape[1]) if scale is None else scale
    ordinal = parse_device(device)
    return _core.Pool(Z, mean, scale) if ordinal is None else _core.CudaPool(Z, mean, scale, ordinal)
