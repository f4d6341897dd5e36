"""Task: examples of inputs with their accepted outputs, read from a file or made from records.

- `.jsonl`: one object a line; the first may be `{"metadata": {"name": ..., "metric": ..., "template": ...}}`.
- `.csv`, `.tsv`: a header line; an output that is a JSON list holds several accepted outputs.
- `.json`: the format of the instruction-induction benchmark, `{"metadata": {...}, "examples": {"1": {...},
  ...}}` with its fields for rhymes, translations, common concepts, and causes with effects; or a list of
  objects.

A column or key `split` assigns an example to a side: "train", or "heldout" and its synonyms such as "test"
and "validation". Files are limited to 1 GiB. A task file is data: it cannot name a function
`module:function` as its metric, only the caller can. `docs/task_files.md` describes all that is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zopo_fast._utils.checks import as_integer
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.tasks import splits, template as templates
from zopo_fast.tasks.example import Example as Example  # noqa: PLC0414 - imported from here elsewhere

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zopo_fast.tasks.records import Record
    from zopo_fast.tasks.rows import Source, Wanted
    from zopo_fast.tasks.sources.in_memory import Records

MetricFunction = Callable[..., float | Awaitable[float]]
"""(answer, references) -> score, or (answer, references, input) -> score."""


@public
@dataclass(frozen=True)
class Task:
    """Examples and metric that prompts are scored on.

    Args:
        name: of the task.
        train: examples that the search scores prompts on.
        heldout: examples for the comparison at the end; the search never sees them.
        metric: a name (see scoring.metrics.NAMES), `module:function`, or a function.
        template: a name (see tasks.template.TEMPLATES), the path of a file, or a text with `{prompt}`.
        demonstrations: few-shot examples shown in every call.
        reserve: examples that no prompt is scored on, for a search over demonstrations beside the
            instructions.

    Raises:
        ConfigError: the metric is neither a name nor a function.
    """

    name: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...] = ()
    metric: str | MetricFunction = "exact_match"
    template: str = "instruction"
    demonstrations: tuple[Example, ...] = ()
    reserve: tuple[Example, ...] = ()

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

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON values, with the name of its metric."""
        sides = ("train", "heldout", "demonstrations", *(["reserve"] if self.reserve else []))
        values: dict[str, Any] = {side: [each.to_dict() for each in getattr(self, side)] for side in sides}
        return {"name": self.name, **values, "metric": self.metric_name, "template": self.template}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Return the task of `to_dict`, with the name of its metric.

        Raises:
            LookupError: a field is missing.
            TypeError: a field has another type.
            ValueError: a field has another form.
        """

        def examples(name: str) -> tuple[Example, ...]:
            return tuple(Example.from_dict(row) for row in values[name])

        return cls(
            values["name"],
            examples("train"),
            examples("heldout"),
            values["metric"],
            values["template"],
            examples("demonstrations"),
            examples("reserve") if "reserve" in values else (),
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        examples: int | None = 20,
        heldout: int | None = None,
        demonstrations: int | Literal["search"] = 0,
        seed: int = 0,
        input_field: str = "input",
        output_field: str = "output",
        metric: str | MetricFunction | None = None,
        template: str | None = None,
        encoding: str | None = None,
    ) -> Task:
        """Read a task file or a folder of data, drop exact duplicates, and split the examples.

        Args:
            path: of the file or folder.
            examples: number of train examples; None: all that are not held out. The first 10 of
                `examples=20` are those of `examples=10`.
            heldout: number of held-out examples; None: all others, or none if `examples` is None.
            demonstrations: number of few-shot examples, which are in neither of the two; "search" sets 2 to
                16 aside as a reserve that `optimize` draws demonstrations from.
            seed: of the split; the same seed and file give the same split.
            input_field: column or key of the input, or a text of several: "{premise} {hypothesis}".
            output_field: column or key of the output.
            metric: replaces the metric of the file.
            template: replaces the template of the file.
            encoding: of a text file; None: UTF-8, or what a byte order mark says.

        Raises:
            TaskError: the file cannot be read, is malformed, or has too few examples; names the line.
            ConfigError: a number is out of range, the encoding is unknown, or the template is malformed.
            MissingDependencyError: the format needs a package that is not installed.
        """
        from zopo_fast.tasks.sources import readers
        from zopo_fast.tasks.sources.text import name_of

        division = _Division(examples, heldout, demonstrations, seed)
        path = Path(path)
        wanted = _wanted(input_field, output_field, template, None)
        source = readers.read(path, wanted, division.seed, encoding)
        return cls._of(source, name_of(path), division, (input_field, output_field), metric, template)

    @classmethod
    def from_records(
        cls,
        records: Records,
        *,
        name: str = "task",
        examples: int | None = 20,
        heldout: int | None = None,
        demonstrations: int | Literal["search"] = 0,
        seed: int = 0,
        input_field: str = "input",
        output_field: str = "output",
        metric: str | MetricFunction | None = None,
        template: str | None = None,
    ) -> Task:
        """Make a task from records in memory, drop exact duplicates, and split the examples.

        Args:
            records: a data frame of pandas or polars, a data set of `datasets`, a table of pyarrow, an
                iterable of mappings, a mapping of columns, or a mapping of splits to any of these.
            name: of the task.
            examples: number of train examples, as for `load`.
            heldout: number of held-out examples, as for `load`.
            demonstrations: number of few-shot examples, or "search", as for `load`.
            seed: of the split.
            input_field: column of the input, or a text of several: "{premise} {hypothesis}".
            output_field: column of the output.
            metric: a name or a function; None: exact match.
            template: a name, path or text; None: "instruction".

        Raises:
            TaskError: a record lacks a field, holds no text there, or there are too few; names the row,
                counted from 1.
            ConfigError: a number is out of range.
        """
        from zopo_fast.tasks.sources.in_memory import source_of

        division = _Division(examples, heldout, demonstrations, seed)
        return cls._of(source_of(records), name, division, (input_field, output_field), metric, template)

    @classmethod
    def _of(
        cls,
        source: Source,
        name: str,
        division: _Division,
        fields: tuple[str, str],
        metric: str | MetricFunction | None,
        template: str | None,
    ) -> Task:
        from zopo_fast.tasks import records

        metadata = source.metadata
        metric = None if metric == "" else metric
        if metric is None and ":" in metadata.get("metric", ""):  # a data file must not choose code to run
            raise TaskError(
                f"'metadata' names a function as the metric, {short_repr(metadata['metric'])}; give it as "
                "metric= or --metric if you trust it",
                path=source.path,
            )
        template = template or metadata.get("template", "instruction")
        found = records.records_of(source, _wanted(*fields, template, source))
        records.warn_of_repeats(found, source)
        train, held, shots = division.of(found, source.path)
        return cls(
            name=metadata.get("name", name),
            train=train,
            heldout=held,
            metric=metadata.get("metric", "exact_match") if metric is None else metric,
            template=template,
            demonstrations=() if division.is_search else shots,
            reserve=shots if division.is_search else (),
        )


class _Division:
    """Numbers of the examples of a task.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self, examples: int | None, heldout: int | None, demonstrations: int | Literal["search"], seed: int
    ) -> None:
        self._examples = None if examples is None else _at_least(1, "examples", examples)
        self._heldout = None if heldout is None else _at_least(0, "heldout", heldout)
        self.is_search = isinstance(demonstrations, str) and demonstrations == splits.SEARCH
        self._demonstrations: int | Literal["search"] = (
            splits.SEARCH if self.is_search else _at_least(0, "demonstrations", demonstrations)
        )
        self.seed = as_integer("seed", seed)

    def of(self, records: Sequence[Record], path: Path | None) -> tuple[tuple[Example, ...], ...]:
        """Return train examples, held-out examples and demonstrations, without exact duplicates."""
        found: dict[object, tuple[Example, str]] = {}
        for record in records:
            key = record.input, frozenset(record.outputs), record.columns
            found.setdefault(key, (Example(record.input, record.outputs, record.columns), record.split))
        return splits.divide(
            list(found.values()),
            path,
            examples=self._examples,
            heldout=self._heldout,
            demonstrations=self._demonstrations,
            seed=self.seed,
        )


def _wanted(input_field: str, output_field: str, template: str | None, source: Source | None) -> Wanted:
    """Return the fields that input, output and the placeholders of the template need.

    Args:
        input_field: as given by the caller.
        output_field: as given by the caller.
        template: name of the template.
        source: rows that are read already, whose columns decide what braces mean; None: not read yet.

    Raises:
        TaskError: the template shows the output, or names a column that there is not.
        ConfigError: the file or text of the template holds no template.
    """
    from zopo_fast.tasks.column_names import similar
    from zopo_fast.tasks.rows import Wanted, names_text

    try:
        layout = templates.resolve(template or "instruction")
    except ConfigError:
        if templates.is_given(template or ""):
            raise
        return Wanted(input_field, output_field)  # a name without a file: an error where it is used
    columns = tuple(
        name
        for name, is_certain in layout.columns.items()
        if is_certain or (source is not None and source.has(name))
    )
    for name in columns:
        if source is not None and source.rows and not source.has(name):
            names = source.header or tuple(dict.fromkeys(each for row in source.rows for each in row.fields))
            near = similar(name, names)
            hint = "" if near is None else f" Did you mean {{{near}}}?"
            raise TaskError(
                f"template {layout.name!r}: {{{name}}} is no column; the columns are: {names_text(names)}. "
                f"Double braces, {{{{{name}}}}}, stay in the text as single ones.{hint}",
                path=source.path,
            )
    if output_field in columns:
        raise TaskError(
            f"template {layout.name!r}: {{{output_field}}} would show the answer; leave it out",
            path=None if source is None else source.path,
        )
    if layout.has_input or not columns:
        return Wanted(input_field, output_field, columns)
    # The template replaces the single input: metrics, judge and generation see all of its columns.
    parts = [f"{{{name}}}" if len(columns) == 1 else f"{name}: {{{name}}}" for name in columns]
    return Wanted("\n".join(parts), output_field, columns)


def _at_least(least: int, label: str, value: object) -> int:
    number = as_integer(label, value)
    if number < least:
        raise ConfigError(f"{label} must be at least {least}, got {number}")
    return number
