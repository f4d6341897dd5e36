"""Scores of an earlier search on the same pool, such as one with another model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.checks import real
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import InputError
from zopo_fast.gp.arrays import Array

OTHERS = 3  # prompts at the start beside the winners, at least
MIN_SPREAD = 1e-12  # of the scores of a source, relative to their size: below it, they are equal


@dataclass(frozen=True)
class Source:
    """Scores of an earlier search.

    Attributes:
        source: name.
        indices: pool index of each scored prompt, distinct.
        scores: score of each, higher is better; in any unit.
        noise: variance of each score, in squared units of the scores.
    """

    source: str
    indices: tuple[int, ...]
    scores: tuple[float, ...]
    noise: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments of `Zopo.learn_from` as JSON values."""
        return {
            "indices": list(self.indices),
            "scores": list(self.scores),
            "noise": list(self.noise),
            "source": self.source,
        }

    @property
    def says_something(self) -> bool:
        """True unless there are fewer than two scores, or all are equal."""
        y = np.array(self.scores)
        return len(y) > 1 and float(np.ptp(y)) > MIN_SPREAD * float(np.abs(y).max())

    @property
    def best(self) -> int:
        """Index of the best prompt, by scores that are shrunk towards their mean according to their noise."""
        y, noise = np.array(self.scores), np.array(self.noise)
        signal = y.var()
        shrunk = (y - y.mean()) * (signal / (signal + noise))
        return self.indices[int(np.argmax(shrunk))]


class FittedTrends(Protocol):
    """Trends of sources over a pool (`search/trends.py`)."""

    over_pool: Array

    def at(self, rows: NDArray[Any]) -> Array:
        """Return the trends at rows of other candidates."""
        ...


def winners(sources: Iterable[Source]) -> list[int]:
    """Return the distinct best prompts of the sources."""
    return list(dict.fromkeys(source.best for source in sources if source.says_something))


def beside_winners(count: int, best: int) -> int:
    """Return the number of other prompts at the start, beside `best` winners, of which `count` were planned.

    Where the earlier scores do not apply, those show it.
    """
    return max(count - best, min(count, OTHERS))


def checked_source(indices: Sequence[int], scores: Any, noise: Any, source: Any) -> Source:
    """Return a source from the arguments of `Zopo.learn_from`; the indices are checked already.

    Raises:
        InputError: The lengths differ, an index occurs twice, a value is NaN or infinite, or a variance is
            negative.
    """
    if not isinstance(source, str):
        raise InputError(f"learn_from: source: expected a name, got {short_repr(source)}")
    n = len(indices)
    if len(set(indices)) < n:
        raise InputError("learn_from: indices: a prompt occurs twice; give its mean score")
    values = _numbers("scores", scores, n)
    if noise is None:
        variances = (0.0,) * n
    else:
        variances = _numbers("noise", noise if isinstance(noise, Iterable) else [noise] * n, n)
    if min(variances, default=0.0) < 0:
        raise InputError(f"learn_from: noise: expected variances of at least 0, got {min(variances)}")
    return Source(source, tuple(indices), values, variances)


def _numbers(name: str, values: Any, n: int) -> tuple[float, ...]:
    found = []
    try:
        for value in values:
            found.append(float(real(value)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"learn_from: {name}: expected {n} finite numbers, one for each index") from error
    if len(found) != n:
        raise InputError(f"learn_from: {name}: expected {n} numbers, one for each index, got {len(found)}")
    if not all(math.isfinite(value) for value in found):
        raise InputError(f"learn_from: {name}: NaN or infinity")
    return tuple(found)
