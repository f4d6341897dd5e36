"""State of a growing pool: rounds, what was written, and what each writer has earned.

Like the state of the run, it has no clock and no I/O: the same entries of the log give the same state.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zopo_fast._utils.public import public
from zopo_fast.errors import InputError

if TYPE_CHECKING:
    from zopo_fast.runs.growth.config import Growth
    from zopo_fast.search.optimizer import Zopo

ENTERED, SCREENED = "entered", "screened out"
"""Fates of a draft; any other fate is the reason why it was rejected."""
PATIENCE = 100
"""Entrants of a writer in a row that may lose before others are asked instead; a call counts as one."""
BARREN = 3
"""Rounds in a row without an entrant after which a writer is no longer asked."""
MAX_ROUNDS = 50
"""Rounds of a run; one begins also whenever the pool is exhausted."""
MIN_SCORED = 4
"""Prompts with a score before the first round: fewer say little about what is best."""
MIN_IDLE = 2
"""Prompts with a score before a round of an exhausted pool."""


class GrowingRun(Protocol):
    """Run of a growing pool, as its rounds see it."""

    parts: int
    """Number of examples of a full score."""
    fresh: NDArray[np.bool_]
    """(m,) array: prompts neither asked nor scored before."""

    @property
    def calls(self) -> tuple[int, int]:
        """Calls spent, and calls of the budget."""
        ...

    def standings(self) -> dict[int, float]:
        """Return the estimated score of every prompt with a score in this study, by pool index."""
        ...


class Describes(Protocol):
    """Description of prompts to a search."""

    def arrays(self, texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Return the arrays of prompts by the name of the argument of `Zopo.add`."""
        ...


@dataclass(frozen=True)
class Round:
    """Order to the writers.

    Attributes:
        number: from 1.
        parents: pool indices of the prompts to start from, best first.
        scores: estimated score of each parent.
        asked: number of drafts by writer.
        target: best estimated score at the time.
        failures: of the best parent: index of the train example, and the answer given.
    """

    number: int
    parents: tuple[int, ...]
    scores: tuple[float, ...]
    asked: dict[str, int]
    target: float
    failures: tuple[tuple[int, str], ...] = ()

    def to_entry(self) -> dict[str, Any]:
        """Return the fields of a log entry."""
        return {
            "round": self.number,
            "parents": list(self.parents),
            "scores": list(self.scores),
            "asked": dict(self.asked),
            "target": self.target,
            "failures": [list(each) for each in self.failures],
        }

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Round:
        """Return the round of `to_entry`."""
        return cls(
            int(entry["round"]),
            tuple(int(i) for i in entry["parents"]),
            tuple(float(score) for score in entry["scores"]),
            {str(name): int(n) for name, n in entry["asked"].items()},
            float(entry["target"]),
            tuple((int(i), str(given)) for i, given in entry["failures"]),
        )


@dataclass
class Earned:
    """Account of a writer: its calls, entrants and wins.

    Attributes:
        calls: model calls that a draft takes.
        spent: calls made.
        entered: number of its prompts in the pool.
        judged: number of these with a score at the begin of a later round.
        won: number of these that beat the best score of the time when they were written.
        losses: entrants and calls since the last win.
        barren: rounds since one of its drafts entered.
    """

    calls: int
    spent: int = 0
    entered: int = 0
    judged: int = 0
    won: int = 0
    losses: int = 0
    barren: int = 0

    @property
    def is_barren(self) -> bool:
        """True when its drafts no longer enter."""
        return self.barren >= BARREN

    @property
    def is_over(self) -> bool:
        """True when the writer is no longer asked where others are left."""
        return self.losses >= PATIENCE or self.is_barren

    @property
    def weight(self) -> float:
        """Weight of the writer among the others: its share of winners, with one win and two losses before."""
        return (self.won + 1.0) / (self.judged + 3.0)


@public
@dataclass(frozen=True)
class Grown:
    """Prompt that entered the pool during the run.

    Attributes:
        index: in the pool.
        prompt: its text.
        writer: name of its writer.
        parents: pool indices of the prompts it was made from.
        note: what was done; "" for nothing to say.
        round: in which it was written.
        target: best score at the time.
    """

    index: int
    prompt: str
    writer: str
    parents: tuple[int, ...]
    note: str
    round: int
    target: float


@dataclass
class GrowthState:
    """Rounds of a run and their outcomes.

    Args:
        settings: of the growth.
        calls: model calls that a draft takes, by writer.
        given: number of prompts in the first pool.
    """

    settings: Growth
    calls: Mapping[str, int]
    given: int
    writing: Round | None = None
    rounds: int = 0
    grown: list[Grown] = field(default_factory=list)
    earned: dict[str, Earned] = field(init=False)
    embeddings: list[NDArray[Any]] = field(default_factory=list)
    """(k, d) rows of the prompts that entered, round by round."""
    spent: int = 0
    """Calls of all writers."""
    _unjudged: list[Grown] = field(default_factory=list)  # entrants without a score so far
    _last: float = -math.inf  # share of the budget spent at the begin of the last round

    def __post_init__(self) -> None:
        self.earned = {name: Earned(calls) for name, calls in self.calls.items()}

    # ---- rounds ------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """Most prompts that may enter."""
        return MAX_ROUNDS * self.settings.entrants

    @property
    def reserved(self) -> int:
        """Most calls of the round that is being written."""
        if self.writing is None:
            return 0
        return sum(n * self.earned[name].calls for name, n in self.writing.asked.items())

    def due(self, state: GrowingRun, is_idle: bool = False) -> Round | None:
        """Return the round that begins now; None if none does.

        Args:
            state: of the run.
            is_idle: nothing is in flight and no prompt can be asked, so that the run ends without a round.
        """
        is_exhausted = not state.fresh.any()
        if self.writing is not None or self.rounds >= MAX_ROUNDS or not _active(self.earned, is_exhausted):
            return None
        settings, (calls, budget) = self.settings, state.calls
        spent = calls / budget
        if spent > settings.last or spent == self._last or budget - calls < state.parts:
            return None
        is_early = spent < max(settings.first, self._last + settings.gap)
        if is_early and not is_exhausted and not is_idle:
            return None
        standings = state.standings()
        if len(standings) < (MIN_IDLE if is_idle else MIN_SCORED):
            return None
        ranked = sorted(standings, key=lambda i: (-standings[i], i))[: settings.parents]
        earned = {name: replace(each) for name, each in self.earned.items()}
        self._judge(earned, standings)
        return Round(
            self.rounds + 1,
            tuple(ranked),
            tuple(standings[i] for i in ranked),
            self._asked(_active(earned, is_exhausted), budget - calls - state.parts, budget),
            standings[ranked[0]],
        )

    def holds(self, state: GrowingRun) -> bool:
        """Return whether calls wait for the round in progress: no prompt of the pool is new.

        Until then a race could only distinguish prompts that are known to be much alike.
        """
        return self.writing is not None and not state.fresh.any()

    def _judge(self, earned: Mapping[str, Earned], standings: Mapping[int, float]) -> list[Grown]:
        """Count the entrants that have a score now as won or lost; return the others.

        An entrant without a score so far was less promising than others.
        """
        for one in self._unjudged:
            if one.index not in standings:
                continue
            writer = earned[one.writer]
            writer.judged += 1
            writer.losses += 1
            if standings[one.index] > one.target:
                writer.won += 1
                writer.losses = 0
        return [one for one in self._unjudged if one.index not in standings]

    def _asked(self, active: Mapping[str, Earned], left: int, budget: int) -> dict[str, int]:
        """Return the number of drafts by writer: shares of a total, by what each has earned."""
        settings = self.settings
        free = {name: each.weight for name, each in active.items() if not each.calls}
        paid = {name: each.weight for name, each in active.items() if each.calls}
        asked = _shares(free, settings.written)
        most = int(settings.share * budget) - self.spent
        rounds = max(1.0, (settings.last - settings.first) / settings.gap)
        of_round = math.ceil(settings.share * budget / rounds)
        calls = min(most, of_round, left)
        if paid and calls > 0:
            drafts = _shares(paid, calls)
            asked |= {n: k // active[n].calls for n, k in drafts.items() if k >= active[n].calls}
        return {name: asked[name] for name in self.earned if asked.get(name)}

    # ---- entries -----------------------------------------------------------------------------------

    def begin(self, entry: Mapping[str, Any], state: GrowingRun) -> Round:
        """Begin the round of a log entry, and judge the entrants of earlier ones.

        Args:
            entry: its fields.
            state: of the run.

        Raises:
            InputError: a round is being written, or the entry is damaged.
        """
        if self.writing is not None:
            raise InputError(f"round {self.writing.number} of writing has not ended")
        begun = Round.of_entry(entry)
        if begun.number != self.rounds + 1 or not begun.parents:
            raise InputError(
                f"round {begun.number} of {len(begun.parents)} parents after {self.rounds} rounds"
            )
        _check_parents(begun.parents, len(state.fresh))
        if unknown := sorted(begun.asked.keys() - self.earned.keys()):
            raise InputError(f"no writer of the run is named {unknown[0]!r}")
        if min(begun.asked.values(), default=0) < 0:
            raise InputError("a negative number of drafts")
        calls, budget = state.calls
        self._last = calls / budget
        self._unjudged = self._judge(self.earned, state.standings())
        self.writing = begun
        return begun

    def add(
        self,
        new: Sequence[Grown],
        embeddings: Mapping[str, Any],
        optimizer: Zopo,
        description: Describes | None,
    ) -> None:
        """Add prompts of a round, with the embeddings of the log entry, to a search.

        Raises:
            InputError: the embeddings are damaged, or not those of the prompts.
        """
        rows = decoded(embeddings)
        if len(rows) != len(new) or description is None:
            raise InputError(f"{len(rows)} embeddings for {len(new)} prompts")
        optimizer.add(rows, **description.arrays([one.prompt for one in new]))
        self.embeddings.append(rows)

    def end(self, entry: Mapping[str, Any], size: int) -> list[Grown]:
        """End the round of a log entry; return the prompts that enter a pool of `size`.

        Raises:
            InputError: no such round is being written, or the entry is damaged.
        """
        begun = self.writing
        if begun is None or begun.number != entry["round"]:
            raise InputError(f"round {entry['round']} of writing has not begun")
        new = grown_in(entry, begun.target, size)
        for one in new:
            _check_parents(one.parents, size)
        strange = sorted(({one.writer for one in new} | entry["calls"].keys()) - begun.asked.keys())
        if strange:
            raise InputError(f"round {begun.number} did not ask the writer {strange[0]!r}")
        for name, calls in entry["calls"].items():
            if not isinstance(calls, int) or calls < 0:
                raise InputError(f"{calls!r} calls of the writer {name!r}")
            self.spent += calls
            earned = self.earned[name]
            earned.spent += calls
            earned.losses += calls
        for name in begun.asked:
            earned = self.earned[name]
            count = sum(one.writer == name for one in new)
            earned.entered += count
            earned.barren = 0 if count else earned.barren + 1
        self.grown += new
        self._unjudged += new
        self.rounds = begun.number
        self.writing = None
        return new


def _active(earned: Mapping[str, Earned], is_exhausted: bool) -> dict[str, Earned]:
    """Return the writers that are asked.

    Where all have lost, those that make no call remain: a draft of theirs costs nothing until it enters. So
    do the others once the pool is exhausted: the calls that are left would find nothing new.
    """
    active = {name: each for name, each in earned.items() if not each.is_over}
    fruitful = {name: each for name, each in earned.items() if not each.is_barren}
    return active or {name: each for name, each in fruitful.items() if is_exhausted or not each.calls}


def grown_in(entry: Mapping[str, Any], target: float, size: int) -> list[Grown]:
    """Return the prompts of a log entry of a round that enter a pool of `size`.

    Args:
        entry: its fields.
        target: best score when the round began.
        size: of the pool before.
    """
    entered = [row for row in entry["written"] if row["fate"] == ENTERED]
    return [
        Grown(
            size + k,
            str(row["prompt"]),
            str(row["writer"]),
            tuple(int(i) for i in row["parents"]),
            str(row["note"]),
            int(entry["round"]),
            target,
        )
        for k, row in enumerate(entered)
    ]


def _check_parents(parents: Sequence[int], size: int) -> None:
    """Check pool indices.

    Raises:
        InputError: a pool of `size` prompts has no such prompt.
    """
    if strange := [i for i in parents if not 0 <= i < size]:
        raise InputError(f"parent {strange[0]}: the pool has {size} prompts, counted from 0")


def _shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole shares of a total by weight; the largest remainders are rounded up."""
    if not weights:
        return {}
    whole = math.fsum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def encoded(rows: NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON values."""
    data = np.ascontiguousarray(rows)
    return {
        "dtype": data.dtype.newbyteorder("<").str,
        "shape": list(data.shape),
        "data": base64.b64encode(data.astype(data.dtype.newbyteorder("<")).tobytes()).decode(),
    }


def decoded(value: Mapping[str, Any]) -> NDArray[Any]:
    """Return the array of `encoded`.

    Raises:
        InputError: it is damaged.
    """
    try:
        dtype = np.dtype(str(value["dtype"]))
        if dtype.kind != "f":
            raise ValueError("not an array of numbers")
        rows: NDArray[Any] = np.frombuffer(base64.b64decode(value["data"], validate=True), dtype=dtype)
        return rows.reshape([int(n) for n in value["shape"]]).astype(dtype.newbyteorder("="))
    except (ValueError, TypeError) as error:
        raise InputError(f"embeddings of a round are damaged ({error})") from error
