"""A task: examples of inputs with their accepted outputs, read from JSONL, CSV, TSV or JSON.

- `.jsonl`: one object a line; the first may be `{"metadata": {"name": ..., "metric": ..., "template": ...}}`.
- `.csv`, `.tsv`: a header line; an output that begins with `[` and is a JSON list holds the accepted outputs.
- `.json`: the instruction-induction benchmark's `{"metadata": {...}, "examples": {"1": {...}, ...}}` with its
  fields for rhymes, translations, common concepts, and causes with effects; or a list of objects.

A column or key `split` ("train", "heldout" or "test") pins an example to its side. A file may have 1 GiB.
It is data: a metric of the user's own, `module:function`, is run only where the caller names it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, InputError, TaskError
from zopo_fast.tasks import readers as task_files

if TYPE_CHECKING:
    from collections.abc import Sequence

MetricFunction = Callable[..., float | Awaitable[float]]
"""(answer, references) -> score, or (answer, references, input) -> score."""


@public
@dataclass(frozen=True)
class Example:
    """An input and the outputs accepted for it; the first one is the reference shown in demonstrations."""

    input: str
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        # Example("2 + 2", "4") would otherwise accept each character of the text.
        outputs = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)
        if not outputs:
            raise InputError(f"an example needs an accepted output: {short_repr(self.input)}")
        for text in (self.input, *outputs):
            if not isinstance(text, str):
                raise InputError(f"an example is made of texts, not of {short_repr(text)}")
        object.__setattr__(self, "outputs", outputs)


@public
@dataclass(frozen=True)
class Task:
    """What a prompt is scored on (`train`), and what it is never scored on until the end (`heldout`)."""

    name: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...] = ()
    metric: str | MetricFunction = "exact_match"
    template: str = "instruction"
    demonstrations: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) and not callable(self.metric):
            raise ConfigError(
                "metric: expected a name or a function (answer, references) -> score, got "
                f"{short_repr(self.metric)}"
            )

    @property
    def metric_name(self) -> str:
        """Name of the metric; of a function its qualified name, by which a study recognises it."""
        if isinstance(self.metric, str):
            return self.metric
        return str(getattr(self.metric, "__qualname__", type(self.metric).__qualname__))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        examples: int | None = 20,
        heldout: int | None = None,
        demonstrations: int = 0,
        seed: int = 0,
        input_field: str = "input",
        output_field: str = "output",
        metric: str | MetricFunction | None = None,
        template: str | None = None,
    ) -> Task:
        """Read a task file and split it by `seed`: the same seed and file give the same split.

        `examples`: how many to score a prompt on (None: all that are left over); the first 10 of 20 are the
        same as those of `examples=10`. `heldout`: how many to hold out (None: all the others, or none where
        `examples` is None). `demonstrations`: few-shot examples, in neither of the two. Exact duplicates
        are dropped. Raises TaskError (with the line) for the file, ConfigError for a number out of range.
        """
        examples = None if examples is None else _at_least(1, "examples", examples)
        heldout = None if heldout is None else _at_least(0, "heldout", heldout)
        demonstrations = _at_least(0, "demonstrations", demonstrations)
        seed = as_integer("seed", seed)
        path = Path(path)
        metadata, records = task_files.read(path, input_field, output_field, seed)
        if metric is None and ":" in metadata.get("metric", ""):  # a file of data must not say what to run
            raise TaskError(
                f"'metadata' names a function as its metric, {short_repr(metadata['metric'])}: only the "
                "caller can, by metric= or --metric",
                path=path,
            )
        found: dict[tuple[str, frozenset[str]], tuple[Example, str]] = {}
        for record in records:
            key = record.input, frozenset(record.outputs)
            found.setdefault(key, (Example(record.input, record.outputs), record.split))
        train, held, shots = _split(
            list(found.values()),
            path,
            examples=examples,
            heldout=heldout,
            demonstrations=demonstrations,
            seed=seed,
        )
        return cls(
            name=metadata.get("name", path.stem),
            train=train,
            heldout=held,
            metric=metadata.get("metric", "exact_match") if metric is None or metric == "" else metric,
            template=template or metadata.get("template", "instruction"),
            demonstrations=shots,
        )


def _at_least(least: int, label: str, value: object) -> int:
    number = as_integer(label, value)
    if number < least:
        raise ConfigError(f"{label} has to be at least {least}, not {number}")
    return number


def _split(
    found: Sequence[tuple[Example, str]],
    path: Path,
    *,
    examples: int | None,
    heldout: int | None,
    demonstrations: int,
    seed: int,
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Train, held-out and demonstrations: the pinned ones first, then the free ones from either end."""
    order = list(found)
    random.Random(seed).shuffle(order)
    pinned = {side: [e for e, s in order if s == side] for side in ("train", "heldout")}
    free = [example for example, side in order if not side]

    train = pinned["train"][:examples]
    surplus = pinned["train"][len(train) :]
    wanted = 0 if examples is None else examples - len(train)
    train, free = train + free[:wanted], free[wanted:]
    cut = max(len(free) - max(demonstrations - len(surplus), 0), 0)
    free, shots = free[:cut], (surplus + free[cut:])[:demonstrations]
    held = pinned["heldout"][:heldout]
    if examples is None:  # what is not held out is trained on
        taken = 0 if heldout is None else heldout - len(held)
        held, train = held + free[:taken], train + free[taken:]
    else:
        held += free if heldout is None else free[: heldout - len(held)]
        train = train[:examples]

    needs = [("examples", examples or 1, len(train)), ("demonstrations", demonstrations, len(shots))]
    for label, asked, there in [*needs, ("heldout", heldout or 0, len(held))]:
        if there < asked:
            raise TaskError(
                f"too few examples: {label}={asked} asked for, {there} left of {len(found)} in all", path=path
            )
    return tuple(train), tuple(held), tuple(shots)
