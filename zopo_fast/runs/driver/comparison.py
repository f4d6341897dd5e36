"""Held-out comparison of the winner with the seed prompt, the pool median and a random sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast.errors import LLMError
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import HeldOut, Interval, paired_interval
from zopo_fast.scoring.scorer import Score
from zopo_fast.scoring.unanswered import Unanswered, cannot_be_answered, concerns_call, failure_text

if TYPE_CHECKING:
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.progress import OnProgress
    from zopo_fast.runs.state import RunState
    from zopo_fast.scoring.scorer import Scorer


class Comparison:
    """Scores prompts on held-out examples.

    Args:
        state: state of the run after its search.
        scorer: scores the prompts.
        config: settings of the run.
        on_phase: called with "random sample" and "comparison" as each begins.
        on_progress: called with these names, and the examples scored and in total.
        winner: index of the chosen prompt; None: the prompt of the best score.

    Attributes:
        rows: rows so far, the winner's first; a prompt that cannot be scored has a row with the reason.
        notes: statements on what is missing, and why.
    """

    def __init__(
        self,
        state: RunState,
        scorer: Scorer,
        config: RunConfig,
        on_phase: Callable[[str], Any],
        on_progress: OnProgress,
        winner: int | None = None,
    ) -> None:
        self._state, self._scorer, self._config = state, scorer, config
        self._on_phase, self._on_progress, self._winner = on_phase, on_progress, winner
        self._done = self._prompts = 0  # held-out examples scored, and prompts to score on them
        self._sampled = self._to_sample = 0  # examples of the random sample
        self.rows: list[HeldOut] = []
        self.notes: list[str] = []

    def abandon(self, reason: str) -> None:
        """Note that the comparison has ended before it was complete."""
        state = "incomplete" if self.rows else "missing"
        self.notes.append(f"the held-out comparison is {state}: {reason}")

    async def make(self, seed_prompt: int) -> None:
        """Add the rows of winner, seed prompt, pool median and, if configured, the best random prompt.

        A winner that was chosen for its length is compared with the prompt of the best score too. The median
        is that of the start, or of the random sample.

        Raises:
            ZopoError: a failure of the account or the endpoint, or a limit; the rows so far are kept.
        """
        state = self._state
        top = state.optimizer.best[0]
        winner = top if self._winner is None else self._winner
        self._on_phase("comparison")
        # Fewer where one prompt has two roles.
        self._prompts = 3 + self._config.compare_random + (winner != top)
        self._report()
        best = await self._heldout(winner)
        if best is None:
            return
        self.rows.append(self._row("winner", winner, best, best))
        roles = {"seed prompt": seed_prompt}
        if winner != top:
            roles["best score"] = top
        initial = state.optimizer.config.initial
        drawn = [] if initial is None or isinstance(initial, int) else list(initial)
        sample = [i for i in drawn if i in state.scores and i != seed_prompt] or list(state.scores)
        if self._config.compare_random:
            self._on_phase("random sample")
            sample = await self._random_sample() or sample
            roles["random sample"] = max(sample, key=lambda i: state.scores[i].mean)
            self._on_phase("comparison")
        ranked = sorted(sample, key=lambda i: state.scores[i].mean)
        median = ranked[(len(ranked) - 1) // 2]
        if median != winner:  # of a start of few prompts the winner may be the median: that compares nothing
            roles["pool median"] = median

        self._prompts = len({winner, *roles.values()})
        self._report()
        found: dict[int, Score | str | None] = {winner: best}
        for role, index in roles.items():
            if index not in found:
                found[index] = await self._heldout(index)
            if (score := found[index]) is not None:
                self.rows.append(self._row(role, index, score, best))

    def _row(self, role: str, index: int, score: Score | str, best: Score | str) -> HeldOut:
        """Return the row of a prompt; a score that is a text is the reason why there is none."""
        state = self._state
        train = state.scores[index].mean if state.is_fully_scored(index) else state.pool.scores.get(index)
        prompt = state.pool.prompts[index]
        if isinstance(score, str):
            return HeldOut(role, prompt, train, None, (), error=score)
        ahead = None if role == "winner" or isinstance(best, str) else self._ahead(best, score)
        unanswered = {example: why.code for example, why in score.unanswered.items()}
        return HeldOut(role, prompt, train, score.mean, score.scores, ahead, unanswered=unanswered)

    def _ahead(self, best: Score, other: Score) -> Interval | None:
        """Return the interval of the difference over the examples that count for both; None without any."""
        ours, theirs = self._by_example(best), self._by_example(other)
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            return None
        return paired_interval([ours[i] for i in shared], [theirs[i] for i in shared], seed=self._config.seed)

    def _by_example(self, score: Score) -> dict[int, float]:
        """Return the scores that count, by held-out example."""
        left_out = score.unanswered if self._config.unanswered == "skip" else {}
        count = len(score.scores) + len(left_out)
        return dict(zip((i for i in range(count) if i not in left_out), score.scores, strict=True))

    def _count(self, *_: object) -> None:
        self._done += 1
        self._report()

    def _report(self) -> None:
        self._on_progress("comparison", self._done, self._prompts * self._scorer.heldout_parts)

    async def _heldout(self, index: int) -> Score | str | None:
        """Return the held-out score, or why the prompt has none; None without held-out examples."""
        try:
            score = await self._scorer.heldout(self._state.pool.prompts[index], self._count)
        except LLMError as error:
            if not concerns_call(error):
                raise
            return str(error)
        if score is None:
            return None
        examples = len(self._by_example(score).keys() | score.unanswered.keys())
        if cannot_be_answered(examples, len(score.unanswered), examples):
            return failure_text(list(score.unanswered.values()))
        return score

    async def _train(self, index: int) -> Score | None:
        """Return the score on all train examples, only those without a score from the race being asked.

        Returns:
            None if the prompt cannot be scored.
        """
        race, parts = self._state.race, self._scorer.parts
        known: dict[int, float] = {} if race is None else dict(zip(*race.in_order(index), strict=True))
        unanswered = self._state.asked.reasons(index)

        def on_score(example: int, score: float | None, _: Usage, why: Unanswered | None) -> None:
            if score is not None:
                known[example] = score
            unanswered.pop(example, None)  # asked again after the search
            if why is not None:
                unanswered[example] = why
            self._sampled += 1
            self._on_progress("random sample", self._sampled, self._to_sample)

        try:
            missing = [example for example in range(parts) if example not in known]
            await self._scorer.score(self._state.pool.prompts[index], missing, on_score)
        except LLMError as error:
            if not concerns_call(error):
                raise
            return None
        if cannot_be_answered(parts, len(unanswered), parts):
            return None
        scores = tuple(known[example] for example in sorted(known))
        return Score(math.fsum(scores) / len(scores), scores, Usage())

    async def _random_sample(self) -> list[int]:
        """Return random prompts with full scores, as many as the calls of the search would score."""
        state = self._state
        rng = np.random.default_rng([self._config.seed, 1])
        count = len(state.scores) if state.race is None else state.race.spent // state.race.examples
        sample = [int(i) for i in rng.permutation(len(state.pool))[:count]]
        missing = [i for i in sample if not state.is_fully_scored(i)]
        known = 0 if state.race is None else sum(len(state.race.scores(i)) for i in missing)
        self._sampled, self._to_sample = 0, self._scorer.parts * len(missing) - known
        self._on_progress("random sample", 0, self._to_sample)
        for start in range(0, len(missing), state.in_flight):
            some = missing[start : start + state.in_flight]
            scores = await gather_or_cancel([self._train(i) for i in some])
            for index, score in zip(some, scores, strict=True):
                if score is not None:
                    state.scores[index] = score
                    state.full.add(index)
        full = [i for i in sample if state.is_fully_scored(i)]
        if len(full) < len(sample):
            self.notes.append(
                f"{len(sample) - len(full)} of {len(sample)} random prompts could not be scored"
            )
        return full
