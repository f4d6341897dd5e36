"""Options that the commands share, and the model and the pool that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zopo_fast.cli.params import File, FiniteRange, from_toml, json_object
from zopo_fast.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
HOWS = ("induce", "paraphrase", "compose")


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


FILE = File(path_type=Path)
_about_task = _options(
    click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=from_toml,
        help="TOML file with the same names as these options; what is typed here wins.",
    ),
    click.option(
        "--examples",
        type=click.IntRange(1),
        help="Examples a prompt is scored on.  [default: 20; half of a small task]",
    ),
    click.option(
        "--heldout", type=click.IntRange(0), help="Examples kept for the end.  [default: all the others]"
    ),
    click.option(
        "--demonstrations",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Few-shot examples shown in every call.",
    ),
    click.option(
        "--metric",
        help="exact_match, f1, exact_set, contains, multiple_choice, judge, or module:function."
        "  [default: the task's]",
    ),
    click.option("--template", help="instruction, system, user, or a JSON file.  [default: the task's]"),
    click.option("--input-field", default="input", show_default=True, help="Column or key of the input."),
    click.option("--output-field", default="output", show_default=True, help="Column or key of the output."),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every random choice."
    ),
)


def task_argument(*, required: bool) -> Callable[[F], F]:
    """Decorate with the argument TASK and what says how to read it."""
    return _options(click.argument("task", type=FILE, required=required), _about_task)


task_options = task_argument(required=True)
model_options = _options(
    click.option(
        "--local", is_flag=True, help="Use the embedded model (the default without --model or --base-url)."
    ),
    click.option("--model", help="Model name at the endpoint; with --local, the path of a GGUF file."),
    click.option(
        "--base-url",
        help="OpenAI-compatible endpoint, /v1 included; the key comes from $OPENAI_API_KEY."
        "  [default: $OPENAI_BASE_URL]",
    ),
    click.option(
        "--concurrency", type=click.IntRange(1), help="Calls at once.  [default: 16; embedded model: 1]"
    ),
    click.option(
        "--temperature",
        type=FiniteRange(0),
        help="Of the model's answers.  [default: 0; 0.9 when it writes prompts]",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(1),
        help="Longest answer.  [default: 64; 256 when the model writes prompts]",
    ),
    click.option(
        "--timeout",
        type=FiniteRange(0, min_open=True),
        help="Seconds for one attempt of a call.  [default: 60]",
    ),
    click.option(
        "--requests-per-minute",
        type=FiniteRange(0, min_open=True),
        help="Pace of the calls.  [default: as fast as the endpoint lets]",
    ),
    click.option(
        "--tokens-per-minute",
        type=FiniteRange(0, min_open=True),
        help="Pace of the calls by the tokens they may take.",
    ),
    click.option("--body", callback=json_object, help="More body parameters of a call, a JSON object."),
    click.option("--headers", callback=json_object, help="More headers of a call, a JSON object."),
)
generate_options = _options(
    click.option(
        "--how",
        type=click.Choice(HOWS),
        help="How to generate.  [default: compose for the embedded model, else induce]",
    ),
    click.option(
        "--kind", default=None, help="compose: which lists.  [default: by the task's name, else general]"
    ),
    click.option("--lists", type=FILE, help="compose: TOML or JSON file with roles, instructions, formats."),
    click.option("--from", "source", type=FILE, help="paraphrase: pool file with the prompts to rephrase."),
)


judge_options = _options(
    click.option(
        "--judge-model", help="Model that grades for the metric judge.  [default: the model itself]"
    ),
    click.option("--judge-base-url", help="Its endpoint.  [default: $OPENAI_BASE_URL]"),
    click.option(
        "--rubric", help="Message to the judge (or @FILE), with {input}, {references} and {answer}."
    ),
)

embedder_option = click.option(
    "--embedder", help="local, local:mean, endpoint:MODEL, st:NAME or minilm.  [default: local]"
)
dry_run_options = _options(
    click.option(
        "--price-in", type=FiniteRange(0), help="Price of a million tokens in, for limits and --dry-run."
    ),
    click.option("--price-out", type=FiniteRange(0), help="Price of a million tokens out."),
    click.option("--dry-run", is_flag=True, help="Print what the run would take, and make no call."),
)


# ---- what they stand for -----------------------------------------------------------------------------


_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_size(value: str) -> int:
    """Return the bytes of `512`, `64K`, `256M`, `256 MiB` or `2GB`, powers of 1024; raises `ConfigError`."""
    match = re.fullmatch(r"\s*(\d{1,15})\s*([kmg]?)(?:i?b)?\s*", value, re.IGNORECASE)
    if match is None or int(match[1]) < 1:
        raise ConfigError(f"a size is a number of bytes such as 256M, not {value!r:.40}")
    return int(match[1]) * _UNITS[match[2].lower()]


def _size(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error), param=parameter) from error


LIMIT_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--limit-calls", type=click.IntRange(1), help="End the run before it makes more calls."),
    click.option(
        "--limit-tokens", type=click.IntRange(1), help="End the run before it takes more tokens, in and out."
    ),
    click.option(
        "--limit-cost",
        type=FiniteRange(0, min_open=True),
        help="End the run before it costs more; needs --price-in and --price-out.",
    ),
    click.option(
        "--limit-seconds",
        type=FiniteRange(0, min_open=True),
        help="End the run after so many seconds.",
    ),
    click.option(
        "--cache/--no-cache",
        default=True,
        show_default=True,
        help="Keep answers on disk and never pay twice for the same call.",
    ),
    click.option(
        "--cache-size", callback=_size, help="Most bytes of answers kept, such as 64M.  [default: 256M]"
    ),
)


def limit_options(function: F) -> F:
    """Add `LIMIT_OPTIONS` to a command."""
    for decorate in reversed(LIMIT_OPTIONS):
        function = decorate(function)
    return function
