"""Declared settings, and what is derived from them: checks, docstrings, options, JSON types."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
import pytest

import zopo_fast as zf
from zopo_fast._utils.settings import check, declared, document, setting
from zopo_fast.cli.group import COMMANDS, load_command
from zopo_fast.cli.params import FiniteRange, Option, setting_option
from zopo_fast.search.config import OfficialSettings
from zopo_fast.serve.config import ServeConfig, ServerLimits
from zopo_fast.serve.jobs.runner import config_of
from zopo_fast.serve.jobs.schemas import JobConfig, JobLimits
from zopo_fast.serve.studies import schemas
from zopo_fast.serve.studies.routes import search_config

CONFIGS: dict[type, dict[str, Any]] = {  # with the arguments they require
    zf.RunConfig: {},
    zf.ZopoConfig: {},
    OfficialSettings: {},
    zf.ClientConfig: {"model": "m"},
    zf.Limits: {},
    zf.Prices: {"prompt": 1.0, "completion": 1.0},
    ServerLimits: {},
    ServeConfig: {"data": Path("data")},
}
SETTINGS = [(config, name) for config in CONFIGS for name in declared(config)]


@document
@dataclass(frozen=True)
class Sample:
    """Sample of settings.

    Raises:
        ConfigError: A value is out of range.
    """

    count: int = setting(2, "Number of things.", minimum=1, maximum=1000)
    share: float = setting(0.5, "Share of things.", minimum=0, below=1)
    seconds: float | None = setting(None, "Seconds.", above=0, default_text="no limit")
    order: Literal["up", "down"] = setting("up", "Direction.")
    is_fast: bool = setting(False, "Haste.")
    name: str | None = setting(None, "Name.", minimum=1)

    def __post_init__(self) -> None:
        check(self, prefix="sample.")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "sample.count must be an integer from 1 to 1000, got 0"),
        ({"count": 1001}, "sample.count must be an integer from 1 to 1000, got 1001"),
        ({"count": 1.5}, "sample.count must be an integer, got 1.5"),
        ({"count": True}, "sample.count must be an integer, got True"),
        ({"share": 1}, "sample.share must be a finite number of at least 0 and below 1, got 1.0"),
        ({"share": math.nan}, "sample.share must be a finite number of at least 0 and below 1, got nan"),
        ({"share": "0.5"}, "sample.share must be a number, got '0.5'"),
        ({"seconds": 0}, "sample.seconds must be a finite number above 0, got 0.0"),
        ({"seconds": math.inf}, "sample.seconds must be a finite number above 0, got inf"),
        ({"order": "left"}, "sample.order must be one of up, down, got 'left'"),
        ({"order": ["up"]}, "sample.order must be one of up, down, got ['up']"),
        ({"is_fast": 1}, "sample.is_fast must be True or False, got 1"),
        ({"name": " "}, "sample.name must be a non-empty string, got 0 characters"),
        ({"name": b"secret"}, "sample.name must be a non-empty string, got bytes"),
    ],
)
def test_an_error_names_setting_range_and_value(given: dict[str, Any], says: str) -> None:
    with pytest.raises(zf.ConfigError) as caught:
        Sample(**given)
    assert str(caught.value) == says


def test_values_are_converted_to_the_type_of_the_setting() -> None:
    import numpy as np

    sample = Sample(count=np.int8(3), share=0, is_fast=np.bool_(True), seconds=np.float32(2))  # type: ignore[arg-type]
    assert (sample.count, sample.share, sample.is_fast, sample.seconds) == (3, 0.0, True, 2.0)
    assert [type(value) for value in (sample.count, sample.share, sample.is_fast, sample.seconds)] == [
        int, float, bool, float
    ]  # fmt: skip


def test_the_docstring_lists_help_and_default_of_each_setting() -> None:
    assert Sample.__doc__ == (
        "Sample of settings.\n\nArgs:\n"
        "    count: Number of things. Default: 2.\n"
        "    share: Share of things. Default: 0.5.\n"
        "    seconds: Seconds. Default: no limit.\n"
        "    order: Direction. Default: up.\n"
        "    is_fast: Haste. Default: False.\n"
        "    name: Name.\n\n"
        "Raises:\n    ConfigError: A value is out of range.\n"
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_declared_and_documented(config: type) -> None:
    assert list(declared(config)) == [each.name for each in fields(config)]
    text = " ".join((config.__doc__ or "").split())
    for name, each in declared(config).items():
        assert f"{name}: {each.help}" in text
        assert each.help.endswith(".")
        assert each.help[0].isupper()


@pytest.mark.parametrize(("config", "name"), SETTINGS, ids=lambda value: getattr(value, "__name__", value))
def test_every_bound_is_checked(config: Any, name: str) -> None:
    each, given = declared(config)[name], CONFIGS[config]
    wrong = [
        value
        for bound, value in [
            (each.minimum, (each.minimum or 0) - 1),
            (each.above, each.above),
            (each.maximum, (each.maximum or 0) * 2 + 1),
            (each.below, each.below),
        ]
        if bound is not None and each.kind in (int, float)
    ]
    for value in wrong:
        with pytest.raises(zf.ConfigError, match=name):
            config(**{**given, name: value})
    if each.kind in (int, float, bool, str) and not each.choices:
        with pytest.raises(zf.ConfigError, match=name):
            config(**{**given, name: object()})


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (zf.RunConfig, "budget", 0),
        (zf.RunConfig, "budget", 2**53 + 1),
        (zf.ClientConfig, "max_attempts", 2**53 + 1),
        (zf.RunConfig, "seed", 2**128),
        (zf.RunConfig, "initial", 0),
        (zf.RunConfig, "seed", -1),
        (zf.RunConfig, "race_error", 1.0),
        (zf.RunConfig, "race_batch", 0),
        (zf.RunConfig, "target", math.inf),
        (zf.ZopoConfig, "power", 3),
        (zf.ZopoConfig, "exploration_quantile", 1.1),
        (zf.ZopoConfig, "noise", 0),
        (zf.ZopoConfig, "search", "random"),
        (OfficialSettings, "max_steps", 1001),
        (OfficialSettings, "lr", -1),
        (zf.ClientConfig, "timeout", 0),
        (zf.ClientConfig, "timeout", 1.1e9),
        (zf.ClientConfig, "concurrency", 0),
        (zf.Limits, "cost", 0),
        (zf.Limits, "calls", 0),
        (zf.Prices, "prompt", -1),
        (ServerLimits, "max_jobs", 0),
        (ServerLimits, "body_timeout", 0),
        (ServeConfig, "port", 65536),
        (ServeConfig, "token", "short"),
    ],
)
def test_ranges_of_the_public_settings(config: Any, name: str, value: Any) -> None:
    with pytest.raises(zf.ConfigError, match=name):
        config(**{**CONFIGS[config], name: value})


def test_a_seed_may_be_larger_than_a_count() -> None:
    assert zf.RunConfig(seed=2**128 - 1).seed == zf.ZopoConfig(seed=2**128 - 1).seed == 2**128 - 1


def test_an_option_has_type_range_default_and_help_of_its_setting() -> None:
    @click.command()
    @setting_option(Sample, "count", group="Task")
    @setting_option(Sample, "share", group="Task", note="Noted.")
    @setting_option(Sample, "seconds", group="Task", only_if_given=True, default_note="sometimes")
    @setting_option(Sample, "order", group="Task")
    @setting_option(Sample, "is_fast", "--fast", "is_fast", group="Task")
    def command(**options: Any) -> None: ...

    count, share, seconds, order, is_fast = (each for each in command.params if isinstance(each, Option))
    assert (count.opts, count.default, count.help) == (["--count"], 2, "Number of things.  [default: 2]")
    assert isinstance(count.type, click.IntRange)
    assert (count.type.min, count.type.max) == (1, 1000)
    assert isinstance(share.type, FiniteRange)
    assert (share.type.min, share.type.max, share.type.max_open) == (0, 1, True)
    assert share.help == "Share of things. Noted.  [default: 0.5]"
    assert (seconds.default, seconds.type.min_open) == (None, True)  # type: ignore[attr-defined]
    assert seconds.help == "Seconds.  [default: no limit; sometimes]"
    assert list(order.type.choices) == ["up", "down"]  # type: ignore[attr-defined]
    assert is_fast.is_flag
    assert is_fast.help == "Haste."


def test_the_json_types_have_bounds_defaults_and_descriptions_of_the_settings() -> None:
    _, found = msgspec.json.schema_components([schemas.SearchConfig, JobConfig])
    pairs = {
        "SearchConfig": zf.ZopoConfig, "OfficialSettings": OfficialSettings, "JobConfig": zf.RunConfig,
        "JobLimits": zf.Limits,
    }  # fmt: skip
    for title, config in pairs.items():
        for name, each in declared(config).items():
            if title == "JobConfig" and name in ("concurrency", "prices", "score_range"):
                assert name not in found[title]["properties"]
                continue
            schema = found[title]["properties"][name]
            assert schema["description"].startswith(each.help)
            if each.kind in (int, float):
                members = schema.get("anyOf", [schema])
                (number,) = (one for one in members if one.get("type") in ("integer", "number"))
                for key, bound in (("minimum", each.minimum), ("exclusiveMinimum", each.above)):
                    assert bound is None or number[key] == bound
                greatest = 2**53 if each.kind is int else 1.8e308
                for key, bound in (("maximum", each.maximum), ("exclusiveMaximum", each.below)):
                    assert bound is None or number[key] == min(bound, greatest)
                if "default" in schema and each.default is not None:
                    assert schema["default"] == each.default
    assert search_config(schemas.SearchConfig()) == zf.ZopoConfig()
    assert config_of(JobConfig(), None) == zf.RunConfig()
    assert config_of(JobConfig(limits=JobLimits(calls=3)), None) == zf.RunConfig(limits=zf.Limits(calls=3))


@pytest.mark.parametrize(
    "body", ['{"budget": 0}', '{"search": "random"}', '{"noise": 0}', '{"neighbors": 1.5}', '{"budgett": 3}']
)
def test_the_json_types_refuse_values_out_of_range(body: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=schemas.SearchConfig)


def test_defaults_of_calls_are_declared_once() -> None:
    from zopo_fast.cli.models import JudgeSettings, ModelSettings, WriterSettings
    from zopo_fast.llm.bodies import ANSWER_BODY, JUDGE_BODY, WRITER_BODY

    bodies = (ANSWER_BODY, WRITER_BODY, JUDGE_BODY)
    assert [(body["temperature"], body["max_tokens"]) for body in bodies] == [(0, 64), (0.9, 256), (0, 256)]
    model = ModelSettings(True, *[None] * 9, {}, {})
    assert model.answer_body() == ANSWER_BODY
    assert WriterSettings({}, None).body(model).merged == WRITER_BODY
    assert JudgeSettings(None, None, None, {}, None).body(model).merged == JUDGE_BODY
    stated = {
        (command, each.name): str(each.help).partition("[default: ")[2].rstrip("]")
        for command in ("optimize", "generate", "landscape")
        for each in load_command(command).params
        if isinstance(each, Option)
    }
    for command, body in (("optimize", ANSWER_BODY), ("landscape", ANSWER_BODY), ("generate", WRITER_BODY)):
        assert stated[command, "temperature"] == f"{body['temperature']:g}"
        assert stated[command, "max_tokens"] == str(body["max_tokens"])
    assert stated["optimize", "generate_max_tokens"] == str(WRITER_BODY["max_tokens"])
    assert stated["optimize", "judge_max_tokens"] == str(JUDGE_BODY["max_tokens"])


def test_the_help_states_the_size_of_the_answer_cache() -> None:
    from zopo_fast.cli.options import parse_size
    from zopo_fast.llm.answer_cache import MAX_BYTES

    (option,) = (each for each in load_command("optimize").params if each.name == "cache_size")
    assert isinstance(option, Option)
    assert parse_size(str(option.help).partition("[default: ")[2].rstrip("]")) == MAX_BYTES


CHANGEABLE = {
    "resume", "quiet", "concurrency", "timeout", "no_comparison", "compare_random", "price", "price_in",
    "price_out",
    "limit_calls", "limit_tokens", "limit_cost", "limit_seconds", "requests_per_minute", "tokens_per_minute",
    "cache", "cache_size", "base_url", "judge_base_url", "headers", "body", "judge_body", "generate_body",
    "judge_key_env", "writer_base_url", "writer_key_env", "embedding_base_url", "embedding_key_env",
    "embedding_batch", "embedding_body",
    "max_wait", "write_back", "embeddings", "prefer_short",
}  # fmt: skip


def test_the_options_and_settings_that_may_change_on_resume() -> None:
    found = {each.name for each in load_command("optimize").params if getattr(each, "may_change", False)}
    assert found == CHANGEABLE
    assert {name for name, each in declared(zf.RunConfig).items() if each.may_change} == {
        "concurrency", "prompts_in_flight", "heldout", "compare_random", "limits", "prices",
        "prefer_short",
    }  # fmt: skip


def test_every_command_is_found_under_its_name() -> None:
    assert [load_command(name).name for name in COMMANDS] == list(COMMANDS)
