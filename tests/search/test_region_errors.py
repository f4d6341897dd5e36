"""Invalid calls on the posterior of a region: typed errors, and no changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from region_tools import NUGGETS, Twin, assert_promising

import zopo_fast as zf
from zopo_fast import _core

GRAM = 2e-5  # error of single precision in a posterior's units, at the noise that is searched with
POINTS = 1e-3  # with the kernel's own, near coincident points: half the digits of an angle there

SIZES = [1, 2, 63, 64, 65, 128, 200]


def region_of(n: int = 3) -> _core.RegionPosterior:
    region = _core.RegionPosterior.of_gram(np.eye(6), NUGGETS)
    for c in range(n):
        region.append(c, float(c))
    return region


MADE = {"depth": 2, "weight_variance": 2.0, "bias_variance": 0.1, "ntk": True, "scale": 1.0}
X = np.random.default_rng(0).normal(size=(6, 3))
INFINITE = (np.nan, np.inf, -np.inf)


def made(**changed: Any) -> Any:
    return _core.RegionPosterior(**{"X": X, **MADE, "nuggets": NUGGETS, **changed})


REFUSED: list[tuple[str, Callable[[Any], Any], tuple[Any, ...]]] = [
    ("X", lambda a: made(X=a), (np.empty((0, 3)), np.empty((3, 0)), np.ones(3), X.astype(np.float32), X.T,
                                np.full((2, 2), np.nan), None, [[1.0]], 1e200 * X)),
    ("depth", lambda a: made(depth=a), (0,)),
    ("weight_variance", lambda a: made(weight_variance=a), (0.0, -1.0, *INFINITE)),
    ("bias_variance", lambda a: made(bias_variance=a), (-1e-9, *INFINITE)),
    ("scale", lambda a: made(scale=a), (0.0, -1.0, *INFINITE)),
    ("nuggets", lambda a: made(nuggets=a), (np.empty(0), np.array([-0.1]), np.array([np.nan]), 0.1,
                                            np.ones((1, 1)), [0.1], np.array([0.1, np.inf]))),
    ("nuggets", lambda a: _core.RegionPosterior.of_gram(np.eye(3), a), (np.empty(0), np.array([-0.1]), None)),
    ("K", lambda a: _core.RegionPosterior.of_gram(a, NUGGETS), (np.empty((0, 0)), np.ones((2, 3)), np.ones(3),
                                                               np.full((2, 2), np.inf), 1e200 * np.eye(2))),
    ("column", lambda a: region_of().append(a, 1.0), (-1, 6, 2**62, -(2**62))),
    ("y", lambda a: region_of().append(0, a), (*INFINITE, 1e200, -1e200)),
    ("noise", lambda a: region_of().append(0, 1.0, a), (-1e-300, *INFINITE)),
    ("i", lambda a: region_of().revise(a, 1.0), (3, -1, 2**62)),
    ("y", lambda a: region_of().revise(0, a), (*INFINITE, 1e200, -1e200)),
    ("noise", lambda a: region_of().revise(0, 1.0, a), (-1e-300, *INFINITE)),
    ("y", lambda a: region_of().rescore(a), (np.ones(2), np.ones(4), np.array([1.0, 2.0, np.nan]),
                                             np.ones((3, 1)), np.array([1.0, 2.0, 1e200]), [1.0, 2.0, 3.0])),
    ("column", lambda a: region_of().exclude(a), (-1, 6)),
    ("pending", lambda a: region_of().propose(a, 1.0), ([6], [-1], [0, 2**62])),
    ("incumbent", lambda a: region_of().propose([], a), (*INFINITE, 1e200)),
    ("power", lambda a: region_of().propose([], 1.0, a), (0, 3, -1)),
    ("center", lambda a: region_of().propose([], 1.0, 1, a), (-1, 6)),
    ("nearest", lambda a: region_of().propose([], 1.0, 1, 0, a), (0,)),
    ("level", lambda a: region_of().propagate(a, np.ones(3)), (-1, 4)),
    ("r", lambda a: region_of().propagate(0, a), (np.ones(2), np.ones(4), np.full(3, np.nan), np.eye(3))),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=lambda i: f"{i} {REFUSED[i][0]}")
def test_invalid_arguments_raise_typed_errors(case: int) -> None:
    name, call, values = REFUSED[case]
    for bad in values:
        with pytest.raises((zf.ArrayError, zf.UnknownIndexError)) as caught:
            call(bad)
        assert str(caught.value).startswith(name), str(caught.value)


def test_wrong_types_are_type_errors() -> None:
    region = region_of()
    for call in (
        lambda: region.append("0", 1.0),
        lambda: region.append(0, "high"),
        lambda: region.revise("0", 1.0),
        lambda: region.propose(["a"], 1.0),
        lambda: region.propose([0.5], 1.0),
        lambda: region.propose([], 1.0, nearest=-1),
        lambda: region.propose(3, 1.0),
        lambda: made(depth=-1),
        lambda: made(capacity=-1),
    ):
        with pytest.raises(TypeError):
            call()
    assert len(region) == 3


def test_a_refused_observation_changes_nothing() -> None:
    """The first level accepts the observation and the second does not: the first must be undone."""
    K = np.eye(66)
    region = _core.RegionPosterior.of_gram(K, np.array([1.0, 0.0]))
    region.append(3, 1.0)
    region.append(4, 0.0)
    asked = [region.propose([5, 6], 1.0), *np.concatenate(region.posterior())]
    with pytest.raises(zf.NotPositiveDefiniteError, match=r"observation 2.*candidate 3"):
        region.append(3, 2.0)
    assert len(region) == 2
    assert [region.propose([5, 6], 1.0), *np.concatenate(region.posterior())] == asked
    twin = Twin(K, np.array([1.0, 0.0]))
    twin.append(3, 1.0)
    twin.append(4, 0.0)
    for pending in ([5], [5, 6, 7], [8]):
        found = region.propose(pending, 1.0)
        left = [c for c in range(66) if c not in pending]
        assert_promising(found, twin, left, pending, 1.0, 1, GRAM)
    region.append(7, 2.0)
    assert len(region) == 3


def test_a_refused_observation_leaves_pending_candidates_intact() -> None:
    """Pending candidates use the row of the next observation: it must not stay half written."""
    K = np.full((64, 64), 0.0)
    K[:32, :32] = reference_block(32)
    K[32:, 32:] = np.eye(32)
    K[63, 63] = 0.0  # no uncertainty
    region, fresh = (_core.RegionPosterior.of_gram(K, np.array([1.0, 0.0])) for _ in range(2))
    for one in (region, fresh):
        one.append(40, 1.0)
        one.append(41, 0.0)
        for c in (40, 41, 63):
            one.exclude(c)
    region.propose([0, 1], 0.5)
    with pytest.raises(zf.NotPositiveDefiniteError):
        region.append(63, 2.0)
    for pending in ([0, 1], [0, 1, 2], [0, 1, 2, 9]):
        assert region.propose(pending, 0.5) == fresh.propose(pending, 0.5)


def reference_block(n: int) -> np.ndarray:
    x = np.linspace(0, 1, n)
    return np.asarray(np.exp(-8 * (x[:, None] - x[None, :]) ** 2))
