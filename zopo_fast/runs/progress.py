"""Progress of a run's phases: the callback, models that report to it, and bars that show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast._utils.columns import shorten
from zopo_fast._utils.text import printable
from zopo_fast.llm.middleware import ModelWrapper
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer, CallKey, ChatModel, EmbeddingModel, Message, Payer
    from zopo_fast.runs.result import Trial

OnProgress = Callable[[str, int, int], Any]
"""Called with the name of a phase, the units done and the units in total; the total may change."""

LOCAL_CHUNK = 16
"""Texts that a model in this process embeds between two reports."""

_MAX_PROMPT = 400  # characters of the best prompt that a line shows at most
_BAR_COLUMNS = 80  # of the best prompt behind a bar


class Phase(NamedTuple):
    """Message that announces a phase, and the unit of its progress."""

    message: str
    unit: str


PHASES = {
    "generating": Phase("Generating prompts", "answer"),
    "embedding": Phase("Embedding the pool", "prompt"),
    "search": Phase("Scoring prompts", "example"),
    "random sample": Phase("Scoring a random sample for comparison", "example"),
    "comparison": Phase("Scoring the held-out examples", "example"),
    "check": Phase("Checking the prompt", "example"),
}


class ChunkedEmbedder:
    """Embedding model that embeds chunk by chunk and reports after each.

    Args:
        model: embeds the texts.
        size: texts in a chunk; at an endpoint enough for all concurrent batches.
        on_progress: called with "embedding".
    """

    def __init__(self, model: EmbeddingModel, size: int, on_progress: OnProgress) -> None:
        self._model, self._size, self._on_progress = model, size, on_progress

    @property
    def name(self) -> str | None:
        """Name of the model; None if it has none."""
        return getattr(self._model, "name", None)

    @property
    def usage(self) -> Usage:
        """Usage of the model."""
        return self._model.usage

    async def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one row a text: (n, d) float32."""
        parts = []
        for start in range(0, len(texts), self._size):
            self._on_progress("embedding", start, len(texts))
            parts.append(await self._model.embed(texts[start : start + self._size]))
        self._on_progress("embedding", len(texts), len(texts))
        return np.concatenate(parts) if parts else await self._model.embed(texts)

    async def aclose(self) -> None:
        """Close the model."""
        await self._model.aclose()


class CountedModel(ModelWrapper):
    """Chat model that reports the number of its answers as progress.

    Args:
        model: answers the calls.
        phase: name of the phase.
        total: answers that are expected; more are possible.
        on_progress: the callback.
    """

    def __init__(self, model: ChatModel, phase: str, total: int, on_progress: OnProgress) -> None:
        super().__init__(model)
        self._phase, self._total, self._on_progress = phase, total, on_progress
        self._answers = 0

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` by the wrapped model, whose errors it raises."""
        answer = await super().chat(messages, key=key, account=account)
        self._answers += 1
        self._on_progress(self._phase, self._answers, max(self._answers, self._total))
        return answer


class BestSoFar:
    """Best full score of a run so far, and its prompt.

    Attributes:
        score: None before there is one.
        prompt: start of the prompt, escaped for a terminal.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.prompt = ""

    def take(self, trial: Trial) -> None:
        """Take the best score so far from a trial, and its prompt if it set that score."""
        if trial.best_score is not None and trial.best_score != self.score:
            self.score, self.prompt = trial.best_score, printable(trial.prompt[:_MAX_PROMPT])

    def line(self, columns: int) -> str:
        """Return score and prompt as a line of at most `columns` columns; "" before there is a score."""
        return "" if self.score is None else shorten(f"Best so far {self.score:.3f}: {self.prompt}", columns)


class PhaseBar:
    """tqdm bar of one phase.

    Args:
        tqdm: class of the bar: of `tqdm` for a terminal, of `tqdm.auto` for a notebook.
        done: units done so far.
        total: units in total.
        options: of the bar.
    """

    def __init__(self, tqdm: Any, done: int, total: int, **options: Any) -> None:
        self.tqdm = tqdm(total=total, initial=done, dynamic_ncols=True, **options)

    def update(self, done: int, total: int, facts: str) -> None:
        """Show the units done, their total, and facts behind them; both numbers may shrink."""
        bar = self.tqdm
        self._set_total(total)
        bar.set_postfix_str(facts, refresh=False)
        if done < bar.n:
            bar.n = done
            bar.refresh()
        bar.update(done - bar.n)

    def close(self, is_complete: bool = False) -> None:
        """Leave the bar as it is, or full: a race ends with calls to spare, which is no failure."""
        if is_complete:
            self._set_total(self.tqdm.n)
        self.tqdm.close()

    def _set_total(self, total: int) -> None:
        if total != self.tqdm.total:
            self.tqdm.total = total
            if (widget := getattr(self.tqdm, "container", None)) is not None:  # has a maximum of its own
                widget.children[1].max = total


def _nothing(*_: object) -> None:
    """Do nothing: a callback that is not given."""


class RunBars:
    """tqdm bars of a run, one a phase, with the best prompt so far behind the bar; a context manager.

    Args:
        is_shown: show the bars: widgets in a notebook, else lines on stderr.
    """

    def __init__(self, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._best, self._total = BestSoFar(), Usage()
        self._bar: PhaseBar | None = None

    def callbacks(
        self,
        on_trial: Callable[[Trial], Any] | None,
        on_resume: Callable[[list[Trial]], Any] | None,
        on_phase: Callable[[str], Any] | None,
        on_progress: OnProgress | None,
    ) -> tuple[Any, Any, Any, Any]:
        """Return callbacks of a run that show the bars and call the given ones."""
        if not self._is_shown:
            return on_trial, on_resume, on_phase or _nothing, on_progress or _nothing
        return (
            _both(self._show, on_trial),
            _both(self._resume, on_resume),
            _both(self._phase, on_phase),
            _both(self._update, on_progress),
        )

    def __enter__(self) -> RunBars:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._close(is_complete=error is None)

    def _phase(self, _: str) -> None:
        self._close(is_complete=True)

    def _update(self, name: str, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            message, unit = PHASES[name]
            self._bar = PhaseBar(tqdm, done, total, unit=unit, desc=message)
        usage = f"{self._total.calls} calls, {self._total.total_tokens} tokens"
        self._bar.update(done, total, ", ".join(filter(None, (usage, self._best.line(_BAR_COLUMNS)))))

    def _resume(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._show(trial)

    def _show(self, trial: Trial) -> None:
        self._best.take(trial)
        self._total = trial.total

    def _close(self, is_complete: bool) -> None:
        if self._bar is not None:
            self._bar.close(is_complete)
            self._bar = None


def _both(own: Callable[..., Any], given: Callable[..., Any] | None) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        own(*args)
        return None if given is None else given(*args)

    return call
