"""Operations that instructions.py counts: fixed inputs, warmed up, one marked call each."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

STEP = "ask + tell, m = 500, d = 384, n = 100"
GRADIENT_STEP = "ask + tell of the gradient search, m = 500, d = 384, n = 100"
NEW_CENTER = "the same, the told prompt the new center"
REGION_APPEND = "region: append, 500 candidates, d = 384, n = 100"
REGION_PROPOSE = "region: propose, 500 candidates, n = 100"
GRAM = "gram, 200 x 200, d = 384"
APPEND = "append, n = 165, d = 384"
POSTERIOR = "posterior of one point, n = 165, d = 384"
SCAN = "nearest of 2,000, d = 384, float16"

Operation = Callable[[], object]


def prepared() -> dict[str, Operation]:
    """Return the operations by name, each ready for its one counted call."""
    import numpy as np

    import zopo_fast as zf
    from zopo_fast import _core

    rng = np.random.default_rng(0)
    kernel = zf.NTK.random(384, seed=0)
    X = rng.normal(size=(200, 384))
    grown, fitted = zf.GaussianProcess(kernel, noise=1.0), zf.GaussianProcess(kernel, noise=1.0)
    for gp in (grown, fitted):
        gp.append(X[:165], rng.normal(size=165))
    for gp in (grown, fitted):  # allocate once, and return
        gp.append(X[170], 1.0)
        gp.posterior(X[171])
        gp.pop()
        gp.posterior(X[171])
    kernel.gram(X)
    grown_region, region = (
        _core.RegionPosterior(
            rng.normal(size=(500, 384)), 2, 2.0, 0.1, True, 1.0, np.logspace(-2, 0.5, 4), 200
        )
        for _ in range(2)
    )
    for of in (grown_region, region):
        for k in range(100):
            of.append(k, float(rng.normal()))
        of.propose([], 2.0, 2)
    Z = rng.normal(size=(2000, 384)).astype(np.float16)
    pool, x = _core.Pool(Z, *_core.column_moments(Z)), rng.normal(size=384)
    pool.nearest(x)
    return {
        STEP: searching("improvement", better=False),
        GRADIENT_STEP: searching("gradient", better=False),
        NEW_CENTER: searching("gradient", better=True),
        REGION_APPEND: lambda: grown_region.append(450, 1.0),
        REGION_PROPOSE: lambda: region.propose([], 2.0, 2),
        GRAM: lambda: kernel.gram(X),
        APPEND: lambda: grown.append(X[170], 1.0),
        POSTERIOR: lambda: fitted.posterior(X[172]),
        SCAN: lambda: pool.nearest(x),
    }


def searching(search: Any, better: bool) -> Operation:
    """Return one ask + tell at n = 100, with a constant center or one that moves at every tell."""
    import numpy as np

    import zopo_fast as zf

    rng = np.random.default_rng(1)
    Z = rng.normal(size=(500, 384)).astype(np.float32)
    # Default settings without exploration, whose timing depends on the last digits.
    config = zf.ZopoConfig(budget=200, initial=40, seed=0, search=search, exploration=0)
    opt: Any = zf.Zopo(Z, config)
    scores = iter(np.arange(200.0) if better else -np.arange(200.0))

    def step() -> None:
        opt.tell(opt.ask(), next(scores))

    for _ in range(100):
        step()
    return step


def main(markers: str) -> None:
    """Run every operation between the markers of a library of valgrind client requests."""
    library = ctypes.CDLL(markers)
    for name, operation in prepared().items():
        library.start()
        operation()
        library.stop(name.encode())


if __name__ == "__main__":
    main(sys.argv[1])
