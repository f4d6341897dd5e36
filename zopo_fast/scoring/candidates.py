"""Candidates of a race: their scores so far, and what a search predicts for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zopo_fast.gp.arrays import Array
from zopo_fast.scoring.futility import Duel


@dataclass(frozen=True)
class Predictions:
    """Predictions of a search for candidates, (c,) each.

    Attributes:
        index: of the candidates.
        mean: of the score over all examples, without the candidate's own scores.
        variance: of that score around `mean`.
        fresh: candidates that the search can propose.
    """

    index: NDArray[np.int64]
    mean: Array
    variance: Array
    fresh: NDArray[np.bool_]


@dataclass
class Candidate:
    """State of one candidate in a race."""

    order: list[int] = field(default_factory=list)
    """Indices of the examples of all looks so far, the running one included."""
    scores: list[float] = field(default_factory=list)
    """Scores in that order."""
    units: list[float] = field(default_factory=list)
    """The scores in units of the bounds."""
    looks: list[int] = field(default_factory=list)
    """Numbers of scores after each look."""
    duel: Duel | None = None
    """Comparison with the incumbent on the same examples."""
    running: int = 0
    """Number of examples being scored."""
    is_given_up: bool = False
    is_revived: bool = False
    """The candidate was given up, and is now scored on all examples."""

    @property
    def total(self) -> float:
        """Sum of the scores in units of the bounds."""
        return math.fsum(self.units)
