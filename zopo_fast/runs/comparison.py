"""The end of a run: its winner beside the seed prompt, the pool's median and a random sample, held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import HeldOut, Interval, paired_interval
from zopo_fast.scoring.scorer import OF_THE_PROMPT, Score

if TYPE_CHECKING:
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.state import RunState
    from zopo_fast.scoring.scorer import Scorer


class Comparison:
    """Scores on the examples that the search has never seen."""

    def __init__(
        self, study: RunState, scorer: Scorer, config: RunConfig, phase: Callable[[str], Any]
    ) -> None:
        self._study, self._scorer, self._config, self._phase = study, scorer, config, phase

    async def rows(self, seed_prompt: int) -> list[HeldOut]:
        """Score winner, seed prompt, pool median (and random sample's best) on the held-out examples."""
        study = self._study
        winner = study.optimizer.best[0]
        self._phase("comparison")
        best = await self._heldout(winner)
        if best is None:
            return []
        roles = {"seed prompt": seed_prompt}
        initial = study.optimizer.config.initial
        drawn = [] if isinstance(initial, int) else list(initial)
        sample = [i for i in drawn if i in study.scores and i != seed_prompt] or list(study.scores)
        if self._config.compare_random:
            self._phase("random sample")
            sample = await self._random_sample() or sample
            roles["random sample"] = max(sample, key=lambda i: study.scores[i].mean)
            self._phase("comparison")
        ranked = sorted(sample, key=lambda i: study.scores[i].mean)
        roles["pool median"] = ranked[(len(ranked) - 1) // 2]

        compared = [self._row("winner", winner, best, None)]
        found: dict[int, Score | None] = {winner: best}
        for role, index in roles.items():
            if index not in found:
                found[index] = await self._heldout(index)
            score = found[index]
            if score is not None:
                ahead = paired_interval(best.scores, score.scores, seed=self._config.seed)
                compared.append(self._row(role, index, score, ahead))
        return compared

    def _row(self, role: str, index: int, score: Score, ahead: Interval | None) -> HeldOut:
        study = self._study
        train = study.scores[index].mean if study.is_fully_scored(index) else study.pool.scores.get(index)
        return HeldOut(role, study.pool.prompts[index], train, score.mean, score.scores, ahead)

    async def _heldout(self, index: int) -> Score | None:
        """Held-out score, or None where the model refuses this prompt."""
        try:
            return await self._scorer.heldout(self._study.pool.prompts[index])
        except OF_THE_PROMPT:
            return None

    async def _train(self, index: int) -> Score | None:
        """Score on all train examples, of which those are asked that a race has not."""
        race = self._study.race
        known = {} if race is None else dict(zip(*race.in_order(index), strict=True))
        missing = [place for place in range(self._scorer.parts) if place not in known]
        try:
            await self._scorer.score(
                self._study.pool.prompts[index], missing, lambda place, score, _: known.update({place: score})
            )
        except OF_THE_PROMPT:
            return None
        scores = tuple(known[place] for place in sorted(known))
        return Score(math.fsum(scores) / len(scores), scores, Usage())

    async def _random_sample(self) -> list[int]:
        """Random prompts for as many calls as the run made; what was scored is not scored again."""
        study = self._study
        rng = np.random.default_rng([self._config.seed, 1])
        count = len(study.scores) if study.race is None else study.race.spent // study.race.examples
        sample = [int(i) for i in rng.permutation(len(study.pool))[:count]]
        full = {i for i in sample if study.is_fully_scored(i)}
        missing = [i for i in sample if i not in full]
        for start in range(0, len(missing), study.in_flight):
            some = missing[start : start + study.in_flight]
            scores = await gather_or_cancel([self._train(i) for i in some])
            for index, score in zip(some, scores, strict=True):
                if score is not None:
                    study.scores[index] = score
                    full.add(index)
        return [i for i in sample if i in full]
