"""Options of the commands, in the groups of the help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from zopo_fast._utils.settings import declared
from zopo_fast.cli.params import (
    FILE,
    Decorator,
    FiniteRange,
    body_option,
    default_help,
    from_toml,
    json_object,
    key_option,
    max_tokens_option,
    option,
    options,
    setting_option,
)
from zopo_fast.cli.settings import DEFAULT_EXAMPLES
from zopo_fast.errors import ConfigError
from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY, WRITER_BODY
from zopo_fast.llm.limits import Limits, Prices
from zopo_fast.llm.openai.config import KEY_ENV, ClientConfig
from zopo_fast.runs.config import RunConfig

_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_size(value: str) -> int:
    """Return the bytes of a size such as `512`, `64K`, `256 MiB` or `2GB`; the units are powers of 1024.

    Raises:
        ConfigError: The value is no size.
    """
    match = re.fullmatch(r"\s*(\d{1,15})\s*([kmg]?)(?:i?b)?\s*", value, re.IGNORECASE)
    if match is None or int(match[1]) < 1:
        raise ConfigError(f"a size is a number of bytes such as 256M, got {value!r:.40}")
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def _size(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ConfigError as error:
        raise click.BadParameter(str(error), param=parameter) from error


def _score_range(
    _: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        low, high = (float(end) for end in value.split(":"))
    except ValueError:
        raise click.BadParameter("expected LOW:HIGH, as in 0:1", param=parameter) from None
    return low, high


_task_settings = options(
    option(
        "--config",
        group="Other",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=from_toml,
        help="TOML file with the names of these options; options on the command line take precedence.",
    ),
    option(
        "--examples",
        group="Task",
        type=click.IntRange(1),
        help="Examples that a prompt is scored on."
        + default_help(f"{DEFAULT_EXAMPLES}; half of a small task without splits"),
    ),
    option(
        "--heldout",
        group="Task",
        type=click.IntRange(0),
        help="Examples held out for the final comparison." + default_help("all others"),
    ),
    option(
        "--demonstrations",
        group="Task",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Few-shot examples in every call.",
    ),
    option(
        "--metric",
        group="Task",
        help="Metric: exact_match, f1, exact_set, contains, multiple_choice, judge, module:function, or the "
        "instruction-induction benchmark's own: induction_match, induction_f1, induction_set, "
        "induction_contains." + default_help("that of the task"),
    ),
    option(
        "--template",
        group="Task",
        help="Template: instruction, system, user, a JSON or text file, or a text with {prompt} and {input} "
        "or columns such as {question}." + default_help("that of the task"),
    ),
    option(
        "--input-field",
        group="Task",
        default="input",
        show_default=True,
        help="Column or key of the input, or several as in '{premise} {hypothesis}'.",
    ),
    option(
        "--output-field",
        group="Task",
        default="output",
        show_default=True,
        help="Column or key of the output.",
    ),
    option(
        "--encoding",
        group="Task",
        help="Encoding of a text file, such as cp1252."
        + default_help("UTF-8, or that of its byte order mark"),
    ),
    setting_option(RunConfig, "seed", group="Search"),
)


def task_argument(*, required: bool) -> Decorator:
    """Return a decorator that adds the argument TASK and the options of the task."""
    return options(click.argument("task", type=FILE, required=required), _task_settings)


task_options = task_argument(required=True)

pool_options = options(
    option(
        "--pool",
        "pool_file",
        group="Pool",
        type=FILE,
        help="Candidate prompts, .txt, .jsonl or .parquet.",
    ),
    option(
        "--generate",
        group="Pool",
        type=click.IntRange(2),
        metavar="N",
        help="Number of candidate prompts to generate, in addition to those of --pool.",
    ),
)

generate_options = options(
    option(
        "--how",
        group="Pool",
        type=click.Choice(("induce", "paraphrase", "compose")),
        help="Method that generates prompts." + default_help("compose for the embedded model, else induce"),
    ),
    option(
        "--kind",
        group="Pool",
        help="Built-in lists of parts for compose." + default_help("by the name of the task, else general"),
    ),
    option(
        "--lists",
        group="Pool",
        type=FILE,
        help="TOML or JSON file of parts for compose: roles, instructions, formats.",
    ),
    option(
        "--from", "source", group="Pool", type=FILE, help="Pool file of prompts that paraphrase rephrases."
    ),
)

embedder_options = options(
    option(
        "--embeddings",
        group="Pool",
        may_change=True,
        type=FILE,
        help="Embeddings of the pool instead of an embedder: .npy with a row a prompt, or .parquet with "
        "columns embedding and prompt." + default_help("those in a Parquet file of --pool, if any"),
    ),
    option(
        "--embedder",
        group="Pool",
        help="Embedder of the pool: local, local:mean, endpoint:MODEL, st:NAME or minilm."
        + default_help("local"),
    ),
    setting_option(
        ClientConfig,
        "base_url",
        "--embedding-base-url",
        group="Pool",
        help="Endpoint of --embedder endpoint:MODEL." + default_help("that of the model"),
    ),
    key_option(
        "--embedding-key-env", "the embedding endpoint", f"${KEY_ENV} at the endpoint of the model", "Pool"
    ),
    setting_option(
        ClientConfig,
        "embedding_batch",
        group="Pool",
        only_if_given=True,
        may_change=True,
        note="An endpoint that refuses as many gets fewer.",
    ),
    body_option("--embedding-body", "the embedding calls", "Pool"),
)

unanswered_option = setting_option(RunConfig, "unanswered", group="Task")

search_options = options(
    setting_option(RunConfig, "budget", group="Search"),
    setting_option(RunConfig, "initial", group="Search"),
    setting_option(RunConfig, "incumbent", group="Search", note="@FILE reads the prompt from a file."),
    option(
        "--prior",
        group="Search",
        type=FILE,
        multiple=True,
        metavar="STUDY",
        help="Folder or study file of an earlier run on the same or an overlapping pool, such as one with "
        "another model; the search learns from its scores and starts with its winner. Repeatable.",
    ),
    setting_option(RunConfig, "racing", "--racing/--no-racing", group="Search"),
    setting_option(RunConfig, "calls", group="Search"),
    setting_option(RunConfig, "race_error", group="Search"),
    setting_option(RunConfig, "race_first", group="Search"),
    setting_option(RunConfig, "race_batch", group="Search"),
    setting_option(RunConfig, "score_range", group="Search", metavar="LOW:HIGH", callback=_score_range),
    setting_option(RunConfig, "target", group="Search"),
    setting_option(RunConfig, "prefer_short", group="Search", metavar="EPS"),
    unanswered_option,
    setting_option(
        RunConfig,
        "stop_at_perfect",
        "--past-perfect",
        group="Search",
        default=False,
        help="Continuation beyond a perfect score.",
    ),
    option("--official", group="Search", is_flag=True, help="Search loop of the published implementation."),
)


def _sampling_options(body: Mapping[str, Any], answer: str) -> Decorator:
    """Return a decorator that adds the options that sample the answers of one purpose."""
    return options(
        option(
            "--temperature",
            group="Model",
            type=FiniteRange(0),
            help=f"Sampling temperature of an {answer}." + default_help(f"{body['temperature']:g}"),
        ),
        max_tokens_option("--max-tokens", answer, body["max_tokens"]),
    )


answer_options = _sampling_options(ANSWER_BODY, "answer to an example")
writing_options = _sampling_options(WRITER_BODY, "answer that writes a prompt")

model_options = options(
    option(
        "--local",
        group="Model",
        is_flag=True,
        help="Embedded model; the default without --model and --base-url.",
    ),
    option(
        "--model",
        group="Model",
        help="Name of the model at the endpoint, or litellm:NAME for a provider that LiteLLM knows; with "
        "--local, path of a GGUF file.",
    ),
    setting_option(
        ClientConfig,
        "base_url",
        group="Model",
        help="OpenAI-compatible endpoint, /v1 included; $OPENAI_API_KEY holds the key."
        + default_help("$OPENAI_BASE_URL"),
    ),
    setting_option(
        ClientConfig,
        "concurrency",
        group="Model",
        only_if_given=True,
        default_note="1 for the embedded model",
    ),
    setting_option(ClientConfig, "timeout", group="Model", only_if_given=True),
    setting_option(ClientConfig, "max_elapsed", "--max-wait", group="Model", only_if_given=True),
    setting_option(ClientConfig, "requests_per_minute", group="Model"),
    setting_option(ClientConfig, "tokens_per_minute", group="Model"),
    body_option("--body", "every call to the model"),
    option(
        "--headers",
        group="Model",
        may_change=True,
        callback=json_object,
        help="Further headers of every call, a JSON object.",
    ),
)

judge_options = options(
    option(
        "--judge-model",
        group="Model",
        help="Model that grades the answers for the metric judge." + default_help("the model itself"),
    ),
    setting_option(
        ClientConfig,
        "base_url",
        "--judge-base-url",
        group="Model",
        help="Endpoint of the judge." + default_help("$OPENAI_BASE_URL"),
    ),
    key_option("--judge-key-env", "the judge", f"${KEY_ENV}"),
    max_tokens_option("--judge-max-tokens", "answer of the judge", JUDGE_BODY["max_tokens"]),
    body_option("--judge-body", "the judge's calls"),
    setting_option(RunConfig, "rubric", group="Model", note="@FILE reads the message from a file."),
)

writer_options = options(
    max_tokens_option("--generate-max-tokens", "answer that writes a prompt", WRITER_BODY["max_tokens"]),
    body_option("--generate-body", "the calls that write prompts"),
)

growth_options = options(
    setting_option(RunConfig, "grow", "--grow/--no-grow", group="Search"),
    option(
        "--writer-model",
        group="Model",
        help="Model that writes new prompts for a growing pool."
        + default_help("the model itself, with --grow"),
    ),
    setting_option(
        ClientConfig,
        "base_url",
        "--writer-base-url",
        group="Model",
        help="Endpoint of --writer-model." + default_help("that of the model"),
    ),
    key_option("--writer-key-env", "the writer", f"${KEY_ENV}"),
)

_LIMITS_MAY_CHANGE = declared(RunConfig)["limits"].may_change
_PRICES_MAY_CHANGE = declared(RunConfig)["prices"].may_change

amount_options = options(
    setting_option(Limits, "calls", "--limit-calls", group="Limits", may_change=_LIMITS_MAY_CHANGE),
    setting_option(Limits, "tokens", "--limit-tokens", group="Limits", may_change=_LIMITS_MAY_CHANGE),
    setting_option(
        Limits,
        "cost",
        "--limit-cost",
        group="Limits",
        may_change=_LIMITS_MAY_CHANGE,
        note="Needs --price auto, or --price-in and --price-out.",
    ),
    setting_option(Limits, "seconds", "--limit-seconds", group="Limits", may_change=_LIMITS_MAY_CHANGE),
)

limit_options = options(
    amount_options,
    option(
        "--cache/--no-cache",
        group="Limits",
        may_change=True,
        default=True,
        show_default=True,
        help="Answer cache on disk, so that no call is paid for twice.",
    ),
    option(
        "--cache-size",
        group="Limits",
        may_change=True,
        callback=_size,
        help="Bytes of the answer cache, such as 64M." + default_help("256M"),
    ),
)

dry_run_options = options(
    option(
        "--price",
        group="Limits",
        may_change=_PRICES_MAY_CHANGE,
        type=click.Choice(("auto",)),
        help="Prices by the name of the model from a list on disk (extra prices), instead of by hand.",
    ),
    setting_option(
        Prices, "prompt", "--price-in", group="Limits", only_if_given=True, may_change=_PRICES_MAY_CHANGE
    ),
    setting_option(
        Prices, "completion", "--price-out", group="Limits", only_if_given=True, may_change=_PRICES_MAY_CHANGE
    ),
    option(
        "--dry-run", group="Limits", is_flag=True, help="Bounds on calls, tokens and cost, without any call."
    ),
)

comparison_options = options(
    setting_option(
        RunConfig,
        "heldout",
        "--no-comparison",
        group="Output",
        default=False,
        help="No comparison on the held-out examples.",
    ),
    setting_option(RunConfig, "compare_random", group="Output"),
)

quiet_option = option("--quiet", group="Output", may_change=True, is_flag=True, help="No progress bar.")
