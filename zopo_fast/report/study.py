"""A finished or running study for readers: trials, answers, and what the model of the scores believes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast._utils.public import public
from zopo_fast._utils.text import printable
from zopo_fast.errors import StoreError
from zopo_fast.llm.limits import Prices
from zopo_fast.llm.types import Usage
from zopo_fast.runs import resume
from zopo_fast.runs.cost.front import FrontPoint, front
from zopo_fast.runs.folder import RESULT
from zopo_fast.runs.growth.describe import Description, space_of
from zopo_fast.runs.growth.record import GrowthRecord, with_rows
from zopo_fast.runs.growth.state import Grown
from zopo_fast.runs.inspection import Inspection, PromptScore, ScoredAnswer, mean_variances
from zopo_fast.runs.prior import PRIOR
from zopo_fast.runs.result import HeldOut, Interval, Trial
from zopo_fast.search.config import ZopoConfig
from zopo_fast.search.optimizer import Zopo
from zopo_fast.storage.snapshot import snapshot
from zopo_fast.storage.store import STUDY, Store
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Posterior(NamedTuple):
    """Belief about the full scores of k prompts, given the scores so far.

    Attributes:
        indices: (k,) int64, pool indices: the whole pool, or the region that the search considers.
        mean: (k,) float64, in units of the score.
        std: (k,) float64, standard deviation in units of the score; 0 for a prompt scored in full.
    """

    indices: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@public
class Study:
    """Study of a run, read without a lock: the run may continue meanwhile.

        study = zf.Study.open("runs/rhymes")
        for row in study.ranked[:3]:
            print(row.score, row.prompt)
        print(study.answers(study.winner.index)[0])

    Use it in a `with` block, or close it: it holds a temporary copy of the study.

    Attributes:
        name: of the folder.
        task: the task; None for a function, and where the study does not hold it.
        prompts: texts of the pool: those it began with, then those that entered it.
        grown: list of Grown, the prompts that entered the pool, by ascending index.
        embeddings: (m, d) array, one row a prompt; None before the pool is embedded.
        trials: list of Trial, in order of their end; last those that a race left unfinished.
        ranked: PromptScore of each prompt with a score, best first.
        failed: PromptScore of each prompt that failed.
        result: fields of the result as in result.json; empty during the run.
        heldout: rows of the held-out comparison, the winner's first.
        prices: of a million tokens; None if unknown.
        measured: FrontPoint of each prompt scored in full whose tokens are known, by ascending index.
        front: those of `measured` that no other one beats in both score and tokens, by ascending tokens.
        initial: indices of the initial prompts.
        incumbent: index of the prompt in use today; None if there is none.
    """

    def __init__(self, name: str, prompts: Sequence[str]) -> None:
        self.name, self.prompts = name, tuple(prompts)
        self.task: Task | None = None
        self.embeddings: NDArray[Any] | None = None
        self.trials: list[Trial] = []
        self.ranked: list[PromptScore] = []
        self.failed: list[PromptScore] = []
        self.result: dict[str, Any] = {}
        self.heldout: list[HeldOut] = []
        self.prices: Prices | None = None
        self.measured: list[FrontPoint] = []
        self.front: list[FrontPoint] = []
        self.initial: tuple[int, ...] = ()
        self.incumbent: int | None = None
        self.run: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.command: str | None = None
        self.version: str | None = None
        self.began: float | None = None
        self.usages: dict[str, Usage] = {}
        self.sources: list[dict[str, Any]] = []
        self.config = ZopoConfig()
        self.growth = GrowthRecord()
        self.given = len(self.prompts)
        self._has_words = False
        self._inspection: Inspection | None = None
        self._opened = ExitStack()

    # ---- opening -----------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open a copy of a study.

        Args:
            path: folder of a run, or a study file.

        Raises:
            StoreError: there is no study, or it cannot be read.
        """
        path = Path(path)
        file = path / STUDY if path.is_dir() else path
        opened = ExitStack()
        with opened:
            store = opened.enter_context(snapshot(file))
            study = cls._of_store(store, _result_beside(file), file.absolute().parent.name)
            study._opened = opened.pop_all()
        return study

    @classmethod
    def _of_store(cls, store: Store, beside: Mapping[str, Any], name: str) -> Study:
        task = task_of(store)
        result = store.get(resume.RESULT) or dict(beside)
        heldout = heldout_rows(result)
        inspection = Inspection(store, task, heldout)
        study = cls(name, inspection.prompts)
        study.task, study.result, study._inspection = task, result, inspection
        study.heldout = [_heldout(row) for row in heldout]
        study.ranked, study.failed = inspection.ranked(), inspection.failed()
        study.trials = [_trial(values) for values in store.trials()]
        study._add_unfinished_trials()
        study.growth, study.given = inspection.growth, inspection.given
        study.embeddings = with_rows(store.array("embeddings"), inspection.growth.embeddings)
        config = store.config
        study.options = dict(config.get("options") or {})
        study.command, study.version = config.get("command"), store.get(resume.VERSION)
        study.began = store.get(resume.BEGAN)
        study.run = store.get("run") or {}
        study.prices = _prices(store.get(resume.PRICES), study.options)
        study.measured = inspection.measured(study.prices)
        study.front = front(study.measured)
        study.initial = tuple(store.get("initial") or ())
        study.sources = list(store.get(PRIOR) or ())
        study.config = ZopoConfig.from_dict(study.run["search"]) if "search" in study.run else ZopoConfig()
        study._has_words = bool(store.get("words"))
        incumbent = study.options.get("incumbent") or study.run.get("incumbent")
        if incumbent in study.prompts:
            study.incumbent = study.prompts.index(incumbent)
        for part in ("writing", "embedding"):
            study.usages[part] = Usage(**(store.get(part) or {}))
        answered = store.usage()
        scored = sum((row.usage for row in (*study.ranked, *study.failed)), Usage())
        study.usages["search"], study.usages["growth"] = scored, study.growth.usage
        study.usages["comparison"] = _less(answered, scored)
        return study

    def _add_unfinished_trials(self) -> None:
        """Add the trials of prompts that a race neither completed nor gave up, as a Result has them.

        The study holds none of them: a resumed run continues these prompts.
        """
        known = {trial.index for trial in self.trials}
        best = self.trials[-1].best_score if self.trials else None
        rest = sorted((row for row in self.ranked if row.index not in known), key=lambda row: row.ended)
        for number, row in enumerate(rest, start=len(self.trials) + 1):
            places = sorted(row.scores)
            self.trials.append(
                Trial(
                    number, row.index, row.prompt, row.score, tuple(row.scores[i] for i in places),
                    row.usage, row.ended - row.began, best, row.total, None, tuple(places),
                )
            )  # fmt: skip

    @classmethod
    def of_search(
        cls,
        name: str,
        prompts: Sequence[str],
        embeddings: NDArray[Any] | None,
        scores: Mapping[int, float],
        asked: Sequence[int] = (),
        config: ZopoConfig | None = None,
    ) -> Study:
        """Return the study of a search by ask and tell.

        Args:
            name: of the search.
            prompts: m texts.
            embeddings: (m, d) array; None: unknown.
            scores: by index, in order of their arrival.
            asked: indices in order of asking.
            config: settings of the search.
        """
        study = cls(name, prompts)
        study.embeddings, study.config = embeddings, config or ZopoConfig()
        order = {index: place for place, index in enumerate(dict.fromkeys([*asked, *scores]), start=1)}
        rows = [
            PromptScore(i, prompts[i], 1, {0: score}, order=order[i], total=Usage(calls=place))
            for place, (i, score) in enumerate(scores.items(), start=1)
        ]
        study.ranked = sorted(rows, key=lambda row: -row.scores[0])
        for rank, row in enumerate(study.ranked, start=1):
            row.rank = rank
        best = -np.inf
        for number, (index, score) in enumerate(scores.items(), start=1):
            best = max(best, score)
            usage = Usage()
            study.trials.append(
                Trial(number, index, prompts[index], score, (score,), usage, 0.0, best, usage)
            )
        return study

    # ---- reading -----------------------------------------------------------------------------------

    @property
    def winner(self) -> PromptScore | None:
        """Best prompt of the run, or so far; None before there is a score."""
        index = self.result.get("best_index")
        if isinstance(index, int) and 0 <= index < len(self.prompts):
            return self.prompt(index)
        return self.ranked[0] if self.ranked else None

    @property
    def grown(self) -> list[Grown]:
        return self.growth.grown

    def grown_at(self, index: int) -> Grown | None:
        """Return how a prompt entered the pool; None for a prompt that the pool began with."""
        return self.grown[index - self.given] if index >= self.given else None

    @property
    def given_up(self) -> FrontPoint | None:
        """Prompt of a better score that the run gave up for a shorter one; None without one."""
        winner, best = self.winner, self.front[-1] if self.front else None
        if winner is None or best is None or winner.score is None or self.result.get("prefer_short") is None:
            return None
        return best if winner.is_full and best.score > winner.score else None

    @property
    def is_finished(self) -> bool:
        """True once the study holds a result."""
        return bool(self.result)

    @property
    def search_seconds(self) -> float:
        """Seconds into the run of the last score."""
        return max((row.ended for row in self.ranked), default=0.0)

    def prompt(self, index: int) -> PromptScore:
        """Return the scores of a prompt.

        Raises:
            InputError: the pool has no such prompt.
        """
        if self._inspection is not None:
            return self._inspection.prompt(index)
        found = (row for row in self.ranked if row.index == index)
        return next(found, None) or PromptScore(index, self.prompts[index], 1)

    def answers(self, index: int) -> list[ScoredAnswer]:
        """Return the answers of a prompt, held-out ones last, in each part the worst scores first.

        Raises:
            InputError: the pool has no such prompt.
        """
        return [] if self._inspection is None else self._inspection.answers(index)

    def posterior(self) -> Posterior | None:
        """Return what the model of the scores believes about every prompt of its region.

        A search with the settings of the run gets all scores, partial means with their variance. For a scored
        prompt, its prediction from the other scores is combined with its own score: the product of two normal
        densities.

        Returns:
            The belief; None before there are embeddings and a score, and for a search without such a model.
        """
        known = [row for row in self.ranked if row.score is not None]
        if self.embeddings is None or not known or len(self.prompts) < 2:
            return None
        given, more = self.prompts[: self.given], self.prompts[self.given :]
        about = Description(given, space_of(self.task), words=self._has_words)
        settings = {**self.config.to_dict(), "budget": len(self.prompts), "initial": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about settings, which the run has reported
            rows = self.embeddings[: self.given]
            search = Zopo(rows, ZopoConfig.from_dict(settings), None, **about.arrays(given))
        for source in self.sources:
            search.learn_from(**source)
        if more:  # described and standardized by the first prompts, as in the run
            search.add(self.embeddings[self.given :], **about.arrays(more))
        variances = dict(zip((row.index for row in known), mean_variances(known), strict=True))
        for row in known:
            assert row.score is not None
            search.tell(row.index, row.score, variances[row.index] or None, final=row.is_full)
        prediction = search.predict()
        if prediction is None:
            return None
        mean, variance = prediction.mean.copy(), prediction.variance.copy()
        scores = {row.index: row.score for row in known}
        for k, index in enumerate(prediction.indices.tolist()):
            if index in scores:
                noise = variances[index]
                share = variance[k] / (variance[k] + noise) if variance[k] + noise > 0 else 1.0
                mean[k] += share * (scores[index] - mean[k])
                variance[k] *= 1.0 - share
        return Posterior(prediction.indices, mean, np.sqrt(np.maximum(variance, 0.0)))

    def role(self, row: HeldOut) -> str:
        """Return the role of a prompt in the comparison: the first prompt of a pool may be the incumbent."""
        is_incumbent = self.incumbent is not None and row.prompt == self.prompts[self.incumbent]
        is_named = row.role in ("winner", "best score")
        return "incumbent" if is_incumbent and not is_named else printable(row.role)

    def cost(self, usage: Usage) -> float | None:
        """Return the cost of a usage in the unit of the prices; None without prices."""
        return None if self.prices is None else self.prices.of(usage.prompt_tokens, usage.completion_tokens)

    # ---- closing -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Delete the temporary copy of the study; scores stay readable, answers do not."""
        self._opened.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "unfinished"
        return f"<Study {self.name!r}: {len(self.ranked)} of {len(self.prompts)} prompts scored, {state}>"


def task_of(store: Store) -> Task | None:
    """Return the task of a study; None if the study does not hold one."""
    values = store.config.get("task") or store.get(resume.TASK)
    with suppress(LookupError, TypeError, ValueError):
        return Task.from_dict(values)
    return None


def heldout_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result's comparison that have scores; a file edited by hand may hold anything."""
    rows = result.get("heldout")
    return [
        row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and isinstance(row.get("prompt"), str)
        and isinstance(row.get("scores"), list)
        and all(isinstance(score, (int, float)) for score in row["scores"])
        and isinstance(row.get("unanswered") or {}, dict)
    ]


def _result_beside(file: Path) -> dict[str, Any]:
    """Return result.json beside a study; empty without one. Older studies do not hold their result."""
    with suppress(OSError, ValueError):
        document = json.loads((file.parent / RESULT).read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
    return {}


def _heldout(row: Mapping[str, Any]) -> HeldOut:
    ahead = row.get("winner_ahead")
    return HeldOut(
        str(row.get("role", "")),
        row["prompt"],
        row.get("train_score"),
        row.get("score"),
        tuple(row["scores"]),
        None if not ahead else Interval(ahead["mean"], ahead["low"], ahead["high"]),
        row.get("error"),
        {int(index): str(why) for index, why in (row.get("unanswered") or {}).items()},
    )


def _trial(values: Mapping[str, Any]) -> Trial:
    """Return the trial that a study stores as JSON values."""
    try:
        return Trial(
            **{
                **values,
                "scores": tuple(values["scores"]),
                "examples": tuple(values["examples"]),
                "usage": Usage(**values["usage"]),
                "total": Usage(**values["total"]),
                "unanswered": {int(i): why for i, why in (values.get("unanswered") or {}).items()},
            }
        )
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"a trial of the study cannot be read ({error!r})") from error


def _prices(stored: Any, options: Mapping[str, Any]) -> Prices | None:
    if isinstance(stored, Mapping):
        return Prices(**stored)
    prompt, completion = options.get("price_in"), options.get("price_out")  # of older studies
    return None if prompt is None or completion is None else Prices(prompt, completion)


def _less(whole: Usage, part: Usage) -> Usage:
    """Return the calls and tokens of a usage without those of a part of it."""
    names = ("prompt_tokens", "completion_tokens", "calls", "retries", "cached")
    return Usage(**{name: max(0, getattr(whole, name) - getattr(part, name)) for name in names})
