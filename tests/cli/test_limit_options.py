"""Options of limits and cache, and the settings made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from zopo_fast.cli.models import settings_of
from zopo_fast.cli.options import limit_options, parse_size
from zopo_fast.cli.settings import LimitSettings
from zopo_fast.errors import ConfigError
from zopo_fast.llm.limits import Limits, Prices


def typed(*arguments: str) -> tuple[int, str, LimitSettings | None]:
    found: list[LimitSettings] = []

    @click.command()
    @limit_options
    def command(**options: Any) -> None:
        found.append(settings_of(LimitSettings, options))

    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output, found[0] if found else None


def test_no_option_sets_no_limit() -> None:
    _, _, settings = typed()
    assert settings == LimitSettings()
    assert settings.limits() is None
    assert settings.prices(None) is None


def test_options_become_limits_prices_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOPO_CACHE_DIR", str(tmp_path))
    _, _, settings = typed(
        *("--limit-calls", "10", "--limit-tokens", "20", "--limit-cost", "0.5", "--limit-seconds", "60"),
        *("--cache-size", "64M"),
    )
    assert settings is not None
    assert settings.limits() == Limits(10, 20, 0.5, 60.0)
    assert settings.prices((1.0, 2.0)) == Prices(1.0, 2.0)
    cache = settings.open_cache()
    assert cache is not None
    assert cache.max_bytes == 64 * 2**20
    assert cache.path.parent == tmp_path


def test_the_cache_can_be_turned_off() -> None:
    _, _, settings = typed("--no-cache")
    assert settings is not None
    assert settings.open_cache() is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--limit-calls", "0"), "--limit-calls"),
        (("--limit-cost", "0"), "--limit-cost"),
        (("--limit-seconds", "nan"), "--limit-seconds"),
        (("--cache-size", "big"), "256M"),
        (("--cache-size", "0"), "256M"),
    ],
)
def test_values_out_of_range_are_refused(arguments: tuple[str, ...], says: str) -> None:
    code, output, _ = typed(*arguments)
    assert code == 2
    assert says in output


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="--price-in"):
        LimitSettings(limit_cost=1.0).prices(None)
    with pytest.raises(ConfigError, match="--no-cache"):
        LimitSettings(cache=False, cache_size=5).open_cache()


@pytest.mark.parametrize(
    ("value", "size"),
    [("512", 512), ("64K", 65536), ("1 MiB", 2**20), ("2gb", 2**31), (" 3 b ", 3)],
)
def test_sizes(value: str, size: int) -> None:
    assert parse_size(value) == size
