"""Most promising prompt of a run that has no full score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zopo_fast.runs.log.work import Work
    from zopo_fast.scoring.race import Race
    from zopo_fast.scoring.scorer import Score


def best_partial(
    full: Mapping[int, Score], running: Mapping[int, Work], race: Race | None
) -> tuple[int, float] | None:
    """Return index and mean so far of the most promising partially scored prompt; None if there is none.

    Prompts are ranked by their mean, in a race by their estimated quality, shrunk towards 1/2.

    Args:
        full: scores so far, by pool index.
        running: prompts in flight.
        race: of the run; None for one without.
    """
    scores: dict[int, tuple[float, ...]] = {i: score.scores for i, score in full.items()}
    scores |= {i: (*scores.get(i, ()), *work.scores.values()) for i, work in running.items()}
    means = {i: math.fsum(each) / len(each) for i, each in scores.items() if each}
    if not means:
        return None
    known = {i: race.quality(i)[0] for i in means if race.scores(i)} if race is not None else {}
    n = {i: len(scores[i]) for i in means}
    index = max(means, key=lambda i: (known.get(i, means[i]) * n[i] + 1.0) / (n[i] + 2.0))
    return index, means[index]
