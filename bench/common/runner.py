"""Runner of the benchmarks in micro/: prints tables and writes result files.

A question is a module of micro/ with `QUESTION: str`, one sentence, and `run(settings: Settings) ->
Result`. An optional `keep(result, out)` writes further files, such as a plot or a profile.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zopo_fast.errors import ConfigError, OutputError

from . import machine
from .harness import Result, Row, Settings

MICRO = Path(__file__).parents[1] / "micro"
_QUESTION = re.compile(r"^QUESTION\b", re.MULTILINE)
_RENAMED = {"import": "import_time"}  # `import` is a keyword and no module name
BUSY = 0.5  # load average above which other work runs on the machine
Show = Callable[[str], object]
_ABSOLUTE_PATH = re.compile(r"(?<![\w./:])(?:/[\w.+-]+)+/([\w.+-]+)|\b[A-Za-z]:\\(?:[^\s\\]+\\)+([^\s\\]+)")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def names() -> list[str]:
    """Return the names of all questions."""
    return sorted(path.stem for path in MICRO.glob("*.py") if _QUESTION.search(path.read_text("utf-8")))


def chosen(wanted: Sequence[str]) -> list[str]:
    """Return the selected questions, or all without a selection; `bench_pool` and `pool` are the same.

    Raises:
        ConfigError: an unknown name; the message lists the known ones.
    """
    known = names()
    short = [_RENAMED.get(name, name) for name in (w.removeprefix("bench_") for w in wanted)]
    for name in short:
        if name not in known:
            raise ConfigError(f"no benchmark is named {name!r}; there are {', '.join(known)}")
    return list(dict.fromkeys(short)) or known


def question(name: str) -> str:
    """Return the sentence of a question, or why its module cannot be loaded."""
    try:
        return str(_module(name).QUESTION)
    except Exception as error:
        return f"(cannot be loaded: {error})"


def _module(name: str) -> Any:
    return importlib.import_module(f"zopo_fast.bench.micro.{name}")


def prepare(out: Path) -> None:
    """Create the folder for results.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(f"{out}: results cannot be written there: {error.strerror or error}") from None


def run(wanted: Sequence[str], settings: Settings, out: Path, show: Show = print) -> list[str]:
    """Run the questions in turn, show a table of each and write `<out>/<name>.json`.

    A failing question is shown with its traceback and keeps its earlier result file; the others still run.

    Returns:
        Names of the questions that failed.

    Raises:
        ConfigError: an unknown name.
        OutputError: `out` cannot be written.
    """
    todo = chosen(wanted)
    prepare(out)
    about = machine.describe()
    show(f"{about['cpu']}, {about['cores']} cores, {about['isa']}, commit {about['commit']}")
    if (about["load"] or 0.0) > BUSY:
        show(f"load average {about['load']}: other work runs here, and the figures will show it")
    ceilings = machine.ceilings(settings.quick)
    show("ceilings: " + _extras(ceilings))
    failed = []
    for name in todo:
        try:
            module = _module(name)
            show(f"\n{name}: {module.QUESTION}")
            result = module.run(settings)
            show(table(result))
            write(out / f"{name}.json", document(result, settings, about, ceilings))
            if hasattr(module, "keep"):
                module.keep(result, out)
        except Exception:
            show(traceback.format_exc())
            show(f"{name} FAILED")
            failed.append(name)
    return failed


# ---- the result file ---------------------------------------------------------------------------------


def document(
    result: Result, settings: Settings, about: dict[str, Any], ceilings: dict[str, Any]
) -> dict[str, Any]:
    """Return the result file's content: JSON values without absolute paths."""
    kept = {
        "question": result.question,
        "machine": about,
        "ceilings": ceilings,
        "settings": asdict(settings),
        "rows": [asdict(row) for row in result.rows],
        "skipped": result.skipped,
        "figures": result.figures,
    }
    clean: dict[str, Any] = _without_paths(kept)
    return clean


def _without_paths(value: Any) -> Any:
    """Return `value` as JSON values without absolute paths, which the reason of a skip may contain."""
    if isinstance(value, str):
        return _ABSOLUTE_PATH.sub(lambda found: found[1] or found[2], value)
    if isinstance(value, dict):
        return {_without_paths(str(key)): _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value  # a NumPy scalar


def write(path: Path, kept: dict[str, Any]) -> None:
    """Write a result file atomically."""
    text = json.dumps(kept, indent=1, allow_nan=False) + "\n"  # serialise first: a failure keeps the old file
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def publish(
    path: Path, document: str | None, settings: Any, rows: Any, skipped: Mapping[str, str], **more: Any
) -> None:
    """Print what was skipped, and write the results of a comparison with its question and settings.

    Args:
        path: of the JSON file.
        document: docstring of the benchmark; its first line is the question.
        settings: a dataclass.
        rows: the figures.
        skipped: reason of each method without figures.
        more: further fields.
    """
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")
    question = (document or "").splitlines()[0]
    write(
        path,
        {"question": question, "settings": asdict(settings), **more, "rows": rows, "skipped": dict(skipped)},
    )


# ---- the table ---------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """Return the rows, the skipped peers and the figures as plain text."""
    head = ("what", "who", "median", "p99", "ratio", "")
    lines = [head, *(_cells(row) for row in result.rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    aligned = [
        "  ".join(
            c.ljust(w) if k in (0, 1, 5) else c.rjust(w)
            for k, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text = [line.rstrip() for line in aligned]
    text += [f"skipped {who}: {why}" for who, why in result.skipped.items()]
    text += [f"{name}: {_figure(value)}" for name, value in result.figures.items()]
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = f"{row.ratio:.3g}x" if row.ratio < 1000 else f"{row.ratio:,.0f}x"
    return row.what, row.who, duration(row.median), duration(row.p99), ratio, _extras(row.extra)


def _extras(extra: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in extra.items())


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_figure(entry)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_figure(entry) for entry in value)
    return str(value)


def duration(seconds: float) -> str:
    """Return a time with its unit: 3.20 us, 64.1 ms, 20.6 s."""
    if not math.isfinite(seconds):
        return str(seconds)
    size, unit = next((u for u in _UNITS if abs(seconds) >= u[0]), _UNITS[-1])
    digits = f"{seconds / size:#.3g}".rstrip(".")
    return f"{seconds / size:.0f} {unit}" if "e" in digits else f"{digits} {unit}"
