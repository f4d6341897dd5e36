"""Options of a run's limits and its cache, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zopo_fast.errors import ConfigError
from zopo_fast.option_types import FiniteRange

if TYPE_CHECKING:
    from zopo_fast.llm.answer_cache import AnswerCache
    from zopo_fast.llm.limits import Limits, Prices

F = TypeVar("F", bound=Callable[..., Any])
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


@dataclass(frozen=True)
class LimitSettings:
    """The options above, as typed."""

    limit_calls: int | None = None
    limit_tokens: int | None = None
    limit_cost: float | None = None
    limit_seconds: float | None = None
    cache: bool = True
    cache_size: int | None = None

    def limits(self) -> Limits | None:
        """The limits of the run; None: none was typed."""
        from zopo_fast.llm.limits import Limits

        limits = Limits(self.limit_calls, self.limit_tokens, self.limit_cost, self.limit_seconds)
        return None if limits == Limits() else limits

    def prices(self, prices: tuple[float, float] | None) -> Prices | None:
        """Prices in and out as `options.prices_of` gives them; raises `ConfigError` where they are needed."""
        from zopo_fast.llm.limits import Prices

        if prices is None:
            if self.limit_cost is not None:
                raise ConfigError("--limit-cost needs --price-in and --price-out")
            return None
        return Prices(*prices)

    def open_cache(self) -> AnswerCache | None:
        """The cache of answers; None where it is off. Close it in the end."""
        if not self.cache:
            if self.cache_size is not None:
                raise ConfigError("--cache-size and --no-cache contradict each other; give one")
            return None
        from zopo_fast.llm.answer_cache import MAX_BYTES, AnswerCache

        return AnswerCache(max_bytes=self.cache_size or MAX_BYTES)
