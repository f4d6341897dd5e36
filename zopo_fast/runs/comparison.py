"""Held-out comparison of the winner with the seed prompt, the pool median and a random sample."""

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
    """Scores prompts on held-out examples.

    Args:
        state: state of the run after its search.
        scorer: scores the prompts.
        config: settings of the run.
        on_phase: called with "random sample" and "comparison" as each begins.
    """

    def __init__(
        self, state: RunState, scorer: Scorer, config: RunConfig, on_phase: Callable[[str], Any]
    ) -> None:
        self._state, self._scorer, self._config, self._on_phase = state, scorer, config, on_phase

    async def rows(self, seed_prompt: int) -> list[HeldOut]:
        """Return the rows of winner, seed prompt, pool median and, if configured, the best random prompt."""
        state = self._state
        winner = state.optimizer.best[0]
        self._on_phase("comparison")
        best = await self._heldout(winner)
        if best is None:
            return []
        roles = {"seed prompt": seed_prompt}
        initial = state.optimizer.config.initial
        drawn = [] if isinstance(initial, int) else list(initial)
        sample = [i for i in drawn if i in state.scores and i != seed_prompt] or list(state.scores)
        if self._config.compare_random:
            self._on_phase("random sample")
            sample = await self._random_sample() or sample
            roles["random sample"] = max(sample, key=lambda i: state.scores[i].mean)
            self._on_phase("comparison")
        ranked = sorted(sample, key=lambda i: state.scores[i].mean)
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
        state = self._state
        train = state.scores[index].mean if state.is_fully_scored(index) else state.pool.scores.get(index)
        return HeldOut(role, state.pool.prompts[index], train, score.mean, score.scores, ahead)

    async def _heldout(self, index: int) -> Score | None:
        """Return the held-out score; None where the model refuses this prompt."""
        try:
            return await self._scorer.heldout(self._state.pool.prompts[index])
        except OF_THE_PROMPT:
            return None

    async def _train(self, index: int) -> Score | None:
        """Return the score on all train examples; only those without a score from the race are asked."""
        race = self._state.race
        known = {} if race is None else dict(zip(*race.in_order(index), strict=True))
        missing = [place for place in range(self._scorer.parts) if place not in known]
        try:
            await self._scorer.score(
                self._state.pool.prompts[index], missing, lambda place, score, _: known.update({place: score})
            )
        except OF_THE_PROMPT:
            return None
        scores = tuple(known[place] for place in sorted(known))
        return Score(math.fsum(scores) / len(scores), scores, Usage())

    async def _random_sample(self) -> list[int]:
        """Return random prompts with full scores, as many as the calls of the search would score."""
        state = self._state
        rng = np.random.default_rng([self._config.seed, 1])
        count = len(state.scores) if state.race is None else state.race.spent // state.race.examples
        sample = [int(i) for i in rng.permutation(len(state.pool))[:count]]
        full = {i for i in sample if state.is_fully_scored(i)}
        missing = [i for i in sample if i not in full]
        for start in range(0, len(missing), state.in_flight):
            some = missing[start : start + state.in_flight]
            scores = await gather_or_cancel([self._train(i) for i in some])
            for index, score in zip(some, scores, strict=True):
                if score is not None:
                    state.scores[index] = score
                    full.add(index)
        return [i for i in sample if i in full]
