"""Work of a round: the writers write, the guards reject, and the rest is embedded and screened."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.aio import gather_or_cancel
from zopo_fast._utils.text import printable, short_repr
from zopo_fast.errors import (
    ArrayError,
    ConfigError,
    LimitReachedError,
    LLMError,
    MetricError,
    StoreError,
    ZopoError,
)
from zopo_fast.llm.types import Usage
from zopo_fast.prompts.pool import normalise
from zopo_fast.prompts.writing.guards import Guard, near_duplicates
from zopo_fast.prompts.writing.types import Draft, Failure, Parent, Writer, WriteRequest, Written
from zopo_fast.runs.growth.screening import screen
from zopo_fast.runs.growth.state import ENTERED, SCREENED, Round, encoded
from zopo_fast.scoring.unanswered import concerns_call

if TYPE_CHECKING:
    from zopo_fast.llm.middleware import SpentModel
    from zopo_fast.runs.growth.config import Growth
    from zopo_fast.runs.growth.describe import Description
    from zopo_fast.runs.state import RunState
    from zopo_fast.scoring.scorer import Scorer
    from zopo_fast.tasks.example import Example

MAX_FAILURES = 5
"""Wrong answers that writers are shown."""
MAX_REJECTED = 200
"""Characters of a rejected draft that the log keeps."""
NEAR = 0.9999
"""Cosine of two embeddings from which two prompts count as the same."""
_log = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], Awaitable[tuple[NDArray[Any], Usage]]]
"""Embeds texts: (k, d) rows, and what that cost."""


@dataclass
class Drafts:
    """Drafts of a round, with their cost.

    Attributes:
        rows: fields of each draft: writer, prompt, parents, note and fate; "" where it is not decided.
        embeddings: (k, d) rows of the drafts without a fate, in order.
        calls: model calls by writer.
        usage: of the writers and the embedding.
        failed: error of each writer that failed.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    embeddings: NDArray[Any] | None = None
    calls: dict[str, int] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    failed: dict[str, str] = field(default_factory=dict)


class Grower:
    """Writes the rounds of a run.

    Args:
        writers: of the run; their names are distinct.
        settings: of the growth.
        embed: embeds texts as the pool was embedded.
        description: describes prompts to the search.
        guard: rejects drafts.
        examples: train examples, for the failures of a prompt.
        model: of the writers, which counts the usage of an unfinished round; None: no writer asks a model.
        pool: (m, d) embeddings of the first pool.
        tells_apart: whether prompts with equal embeddings may differ, by the linear part of the kernel.
        given: wrong answers of the study, by prompt and example; None: those that the scorer remembers.
        seed: of every random choice.

    Raises:
        ConfigError: two writers have the same name.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        settings: Growth,
        embed: Embed,
        description: Description,
        guard: Guard,
        examples: Sequence[Example],
        model: SpentModel | None,
        pool: NDArray[Any],
        seed: int,
        *,
        tells_apart: bool = False,
        given: Callable[[str, int], str] | None = None,
    ) -> None:
        self._writers = {writer.name: writer for writer in writers}
        if len(self._writers) < len(writers):
            names = [writer.name for writer in writers]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"writers: two are named {twice!r}; give each a name of its own")
        self._settings, self._embed, self._description = settings, embed, description
        self._guard, self._examples, self._seed = guard, examples, seed
        self._model, self._pool, self._tells_apart = model, pool, tells_apart
        self._given = given
        self._known = 0  # prompts of the pool that the guard knows

    def with_failures(self, order: Round, state: RunState, scorer: Scorer) -> Round:
        """Return the round with wrong answers of its best parent, where a writer may learn from them."""
        if not self._examples or not any(
            self._writers[name].calls for name in order.asked if name in self._writers
        ):
            return order
        index = order.parents[0]
        if state.race is not None:
            examples, scores = state.race.in_order(index)
        else:
            scores = state.scores[index].scores
            examples = tuple(range(len(scores))) if len(scores) == state.parts else ()
        ranked = sorted(zip(scores, examples, strict=False))
        prompt = state.pool.prompts[index]
        best = max(scores) if scorer.perfect is None else scorer.perfect
        wrong = [example for score, example in ranked if score < best][:MAX_FAILURES]
        given = self._given or scorer.given
        return replace(order, failures=tuple((example, given(prompt, example)) for example in wrong))

    @property
    def cut_off(self) -> Usage:
        """Usage of the calls of the round in progress."""
        return Usage() if self._model is None else self._model.spent

    async def write(self, order: Round, state: RunState) -> Drafts:
        """Let the writers write, reject drafts, and embed the others.

        Raises:
            LimitReachedError: a limit leaves no room for a call.
            LLMError: the embedder failed.
            ArrayError: the embeddings are not like those of the pool.
            StoreError: the study cannot be written.
        """
        requests = self._requests(order, state)
        if self._model is not None:
            self._model.spent = Usage()
        drafts = Drafts(calls=dict.fromkeys(requests, 0))
        outcomes = await gather_or_cancel(
            [self._written(self._writers[name], request) for name, request in requests.items()]
        )
        for name, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, ZopoError):
                drafts.failed[name] = str(outcome)
                drafts.calls[name] = requests[name].n * self._writers[name].calls
                _log.warning("writer %s failed: %s", name, printable(str(outcome)))
                continue
            drafts.usage += outcome.usage
            drafts.calls[name] = outcome.usage.calls + outcome.usage.cached
            drafts.rows += [_row(name, draft) for draft in outcome.drafts[: requests[name].n]]
            drafts.rows += [_row(name, Draft("", ()), reason) for reason in outcome.rejected]
        self._reject(drafts.rows, state.pool.prompts)
        fit = [row for row in drafts.rows if not row["fate"]]
        if fit:
            await self._embed_rows(drafts, fit, state)
        return drafts

    async def _embed_rows(self, drafts: Drafts, fit: Sequence[dict[str, Any]], state: RunState) -> None:
        """Embed drafts; those of one instruction, which may be that of the pool, share its embedding."""
        texts = self._description.to_embed([row["prompt"] for row in fit])
        known: dict[str, NDArray[Any]] = {}
        if self._tells_apart:
            of_pool = np.concatenate([self._pool, *state.growth.embeddings]) if state.growth else self._pool
            known = dict(zip(self._description.to_embed(state.pool.prompts), of_pool, strict=True))
        new = [text for text in dict.fromkeys(texts) if text not in known]
        try:
            rows, usage = await self._embed(new) if new else (self._pool[:0], Usage())
        except ZopoError as error:
            if not concerns_call(error):
                raise
            for row in fit:
                row["fate"] = printable(f"not embedded: {error}"[:MAX_REJECTED])
            return
        except Exception as error:
            raise LLMError(f"embedder: failed on drafts: {short_repr(error, 200)}") from error
        expected = (len(new), self._pool.shape[1])
        if rows.shape != expected or not np.isfinite(rows).all():
            raise ArrayError(
                f"embedder: expected finite embeddings of shape {expected} for drafts, got {rows.shape}"
                f"{'' if rows.shape != expected else ' with NaN or infinity'}; use the embedder of the pool"
            )
        known |= dict(zip(new, rows, strict=True))
        drafts.embeddings = np.stack([known[text] for text in texts])
        drafts.usage += usage

    def outcome(self, order: Round, drafts: Drafts, state: RunState) -> dict[str, Any]:
        """Screen the drafts on what the search knows now, and return the fields of the log entry."""
        open_rows = [row for row in drafts.rows if not row["fate"]]
        entered: list[int] = []
        if open_rows and drafts.embeddings is not None:
            new = self._new(open_rows, drafts.embeddings, state)
            found = self._screen([open_rows[k] for k in new], drafts.embeddings[new], state) if new else []
            entered = [new[k] for k in found]
        chosen = [open_rows[k] for k in entered]
        for row in chosen:
            row["fate"] = ENTERED
        others = [row for row in drafts.rows if row["fate"] != ENTERED]
        rows = None if drafts.embeddings is None else drafts.embeddings[entered]
        return {
            "round": order.number,
            "written": [*chosen, *others],
            "embeddings": None if rows is None or not entered else encoded(rows),
            "calls": drafts.calls,
            "usage": asdict(drafts.usage),
            "failed": drafts.failed,
        }

    def _requests(self, order: Round, state: RunState) -> dict[str, WriteRequest]:
        """Return the request to each writer."""
        prompts = state.pool.prompts
        failures = tuple(
            Failure(self._examples[i].input, self._examples[i].outputs[0], given)
            for i, given in order.failures
        )
        parents = tuple(
            Parent(index, prompts[index], score, failures if place == 0 else ())
            for place, (index, score) in enumerate(zip(order.parents, order.scores, strict=True))
        )
        numbers = {name: k for k, name in enumerate(self._writers)}
        return {
            name: WriteRequest(parents, n, self._seed_of(order.number, numbers[name]), prompts)
            for name, n in order.asked.items()
            if name in self._writers
        }

    def _seed_of(self, round_number: int, writer: int) -> int:
        return int(np.random.SeedSequence([self._seed, round_number, writer]).generate_state(1)[0])

    async def _written(self, writer: Writer, request: WriteRequest) -> Written | ZopoError:
        """Return what a writer has written, or why it failed: the run continues without it."""
        try:
            written = await writer.write(request)
            _check_written(writer.name, written, len(request.known))
            return written
        except (LimitReachedError, StoreError):
            raise
        except ZopoError as error:
            return error
        except Exception as error:  # of a writer of the caller
            return MetricError(f"writer {writer.name!r} failed: {short_repr(error, 200)}")

    def _reject(self, rows: Sequence[dict[str, Any]], prompts: Sequence[str]) -> None:
        """Decide the fate of the drafts that the guards reject, and normalise the texts of the others.

        The guards check instructions: the demonstrations of a prompt are training examples by design.
        """
        drafts = [row for row in rows if not row["fate"]]
        texts = self._description.to_embed([row["prompt"] for row in drafts])
        known: set[str] = set(self._description.to_embed(prompts)) if self._tells_apart else set()
        is_new = [text not in known for text in texts]  # else only its demonstrations may be new
        self._guard.add(self._description.to_embed(prompts[self._known :]))
        self._known = len(prompts)
        reasons = iter(self._guard.reasons([text for text, new in zip(texts, is_new, strict=True) if new]))
        seen = set(prompts) if self._tells_apart else set()
        for row, new in zip(drafts, is_new, strict=True):
            reason = next(reasons) if new else None
            text = normalise(row["prompt"]) if reason is None else ""
            if self._tells_apart and reason is None and text in seen:
                reason = "equals a known prompt"
            seen.add(text)
            if reason is None:
                row["prompt"] = text
            else:
                row["prompt"], row["fate"] = printable(row["prompt"][:MAX_REJECTED]), reason

    def _new(self, rows: Sequence[dict[str, Any]], embeddings: NDArray[Any], state: RunState) -> list[int]:
        """Return the indices of the rows whose embedding is not that of another prompt."""
        if self._tells_apart:
            return list(range(len(rows)))
        assert state.growth is not None
        known = np.concatenate([self._pool, *state.growth.embeddings])
        try:
            marked = near_duplicates(embeddings, known, NEAR)
        except ArrayError as error:
            _set_unusable(rows, error)
            return []
        for row, is_near in zip(rows, marked, strict=True):
            if is_near:
                row["fate"] = "has the embedding of another prompt"
        return np.flatnonzero(~marked).tolist()

    def _screen(self, rows: Sequence[dict[str, Any]], embeddings: NDArray[Any], state: RunState) -> list[int]:
        """Return the indices of the rows that enter, and note what the search predicts for each."""
        optimizer, settings = state.optimizer, self._settings
        arrays = self._description.arrays([row["prompt"] for row in rows])
        pool = optimizer.predict(latent=True)
        try:
            found = optimizer.predict(embeddings, **arrays, latent=True)
        except ArrayError as error:  # such as an embedding too far from the pool
            _set_unusable(rows, error)
            return []
        if pool is None or found is None:
            for row in rows:
                row["fate"] = "no prediction"
            return []
        for row, mean, variance in zip(rows, found.mean, found.variance, strict=True):
            row["mean"], row["deviation"] = float(mean), math.sqrt(variance)
            row["fate"] = SCREENED
        growth = state.growth
        assert growth is not None
        if not settings.screen:
            rng = np.random.default_rng(self._seed_of(growth.rounds + 1, len(self._writers)))
            return [int(i) for i in rng.permutation(len(rows))[: settings.entrants]]
        fresh = state.fresh[pool.indices]
        target = max(state.standings().values())
        return screen(
            found.mean, found.variance, pool.mean[fresh], pool.variance[fresh], target, settings.entrants
        )


def _check_written(name: str, written: object, size: int) -> None:
    """Check the outcome of a writer, which may be a class of the caller.

    Raises:
        MetricError: it is no `Written`, or a draft has no text or no parent in a pool of `size`.
    """
    if not isinstance(written, Written):
        raise MetricError(f"writer {name!r} returned {type(written).__name__}; expected zf.Written")
    for draft in written.drafts:
        if not isinstance(draft, Draft) or not isinstance(draft.prompt, str):
            raise MetricError(f"writer {name!r}: {short_repr(draft)} is no zf.Draft with a text")
        if strange := [i for i in draft.parents if not isinstance(i, int) or not 0 <= i < size]:
            raise MetricError(
                f"writer {name!r}: parent {short_repr(strange[0])} of a draft is no index of a pool of {size}"
            )


def _set_unusable(rows: Sequence[dict[str, Any]], error: ArrayError) -> None:
    for row in rows:
        row["fate"] = printable(f"not usable: {error}"[:MAX_REJECTED])


def _row(name: str, draft: Draft, fate: str = "") -> dict[str, Any]:
    parents = list(draft.parents)
    return {
        "writer": name, "prompt": draft.prompt, "parents": parents, "note": draft.note, "fate": fate
    }  # fmt: skip
