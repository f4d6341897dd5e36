"""Task: examples of inputs with their accepted outputs, read from JSONL, CSV, TSV or JSON.

- `.jsonl`: one object a line; the first may be `{"metadata": {"name": ..., "metric": ..., "template": ...}}`.
- `.csv`, `.tsv`: a header line; an output that is a JSON list holds several accepted outputs.
- `.json`: the format of the instruction-induction benchmark, `{"metadata": {...}, "examples": {"1": {...},
  ...}}` with its fields for rhymes, translations, common concepts, and causes with effects; or a list of
  objects.

A column or key `split` ("train", "heldout" or "test") assigns an example to that side. Files are limited to
1 GiB. A task file is data: it cannot name a function `module:function` as its metric, only the caller can.
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
    """Input with its accepted outputs; demonstrations show the first output.

    Raises:
        InputError: no output, or an input or output that is not a text.
    """

    input: str
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        # tuple("42") would accept each character of the text.
        outputs = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)
        if not outputs:
            raise InputError(f"an example needs at least one accepted output: {short_repr(self.input)}")
        for text in (self.input, *outputs):
            if not isinstance(text, str):
                raise InputError(f"an example: expected texts, got {short_repr(text)}")
        object.__setattr__(self, "outputs", outputs)


@public
@dataclass(frozen=True)
class Task:
    """Examples and metric that prompts are scored on.

    Args:
        name: of the task.
        train: examples that the search scores prompts on.
        heldout: examples for the comparison at the end; the search never sees them.
        metric: a name (see scoring.metrics.NAMES), `module:function`, or a function.
        template: a name (see tasks.template.TEMPLATES), or the path of a JSON file.
        demonstrations: few-shot examples shown in every call.

    Raises:
        ConfigError: the metric is neither a name nor a function.
    """

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
        """Name of the metric; for a function its qualified name, by which a study identifies it."""
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
        """Read a task file, drop exact duplicates, and split the examples.

        Args:
            path: of the file.
            examples: number of train examples; None: all that are not held out. The first 10 of
                `examples=20` are those of `examples=10`.
            heldout: number of held-out examples; None: all others, or none if `examples` is None.
            demonstrations: number of few-shot examples, which are in neither of the two.
            seed: of the split; the same seed and file give the same split.
            input_field: column or key of the input.
            output_field: column or key of the output.
            metric: replaces the metric of the file.
            template: replaces the template of the file.

        Raises:
            TaskError: the file cannot be read, is malformed, or has too few examples; names the line.
            ConfigError: a number is out of range.
        """
        examples = None if examples is None else _at_least(1, "examples", examples)
        heldout = None if heldout is None else _at_least(0, "heldout", heldout)
        demonstrations = _at_least(0, "demonstrations", demonstrations)
        seed = as_integer("seed", seed)
        path = Path(path)
        metric = None if metric == "" else metric
        metadata, records = task_files.read(path, input_field, output_field, seed)
        if metric is None and ":" in metadata.get("metric", ""):  # a data file must not choose code to run
            raise TaskError(
                f"'metadata' names a function as the metric, {short_repr(metadata['metric'])}; give it as "
                "metric= or --metric if you trust it",
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
            metric=metadata.get("metric", "exact_match") if metric is None else metric,
            template=template or metadata.get("template", "instruction"),
            demonstrations=shots,
        )


def _at_least(least: int, label: str, value: object) -> int:
    number = as_integer(label, value)
    if number < least:
        raise ConfigError(f"{label} must be at least {least}, got {number}")
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
    """Return train examples, held-out examples and demonstrations.

    Examples assigned by `split` come first. The others are shuffled; train and held-out examples are taken
    from the front, demonstrations from the back.
    """
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
    if examples is None:  # all examples that are not held out
        taken = 0 if heldout is None else heldout - len(held)
        held, train = held + free[:taken], train + free[taken:]
    else:
        held += free if heldout is None else free[: heldout - len(held)]
        train = train[:examples]

    needs = [("examples", examples or 1, len(train)), ("demonstrations", demonstrations, len(shots))]
    for label, wanted, available in [*needs, ("heldout", heldout or 0, len(held))]:
        if available < wanted:
            raise TaskError(
                f"too few examples: {label}={wanted} requested, {available} left of {len(found)} in all",
                path=path,
            )
    return tuple(train), tuple(held), tuple(shots)
