"""Limits of a run, prices of tokens, and the reservation of one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, described, document, setting


@public
@document
@dataclass(frozen=True)
class Limits:
    """Limits of a run; None sets no limit.

    Raises:
        ConfigError: A limit is not above 0; the message names it.
    """

    calls: int | None = setting(None, "Calls in total; an attempt that the model refuses is free.", minimum=1)
    tokens: int | None = setting(None, "Prompt and completion tokens in total.", minimum=1)
    cost: float | None = setting(None, "Cost in total, in the unit of the prices.", above=0)
    seconds: float | None = setting(None, "Wall-clock seconds in total.", above=0)

    def __post_init__(self) -> None:
        check(self, prefix="limits.")

    @property
    def has_spending_limit(self) -> bool:
        """Return whether calls, tokens or cost are limited."""
        return (self.calls, self.tokens, self.cost) != (None, None, None)


@public
@document
@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens.

    Raises:
        ConfigError: A price is below 0; the message names it.
    """

    prompt: float = field(metadata=described("Price of a million prompt tokens.", minimum=0))
    completion: float = field(metadata=described("Price of a million completion tokens.", minimum=0))

    def __post_init__(self) -> None:
        check(self, prefix="prices.")

    def of(self, prompt: float, completion: float) -> float:
        """Return the cost of a number of prompt and completion tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """Calls, tokens, money and wall-clock seconds that a run has spent."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Left:
    """Budget neither spent nor reserved; None where there is no limit."""

    calls: int | None
    tokens: int | None
    cost: float | None
    seconds: float | None


@dataclass(frozen=True)
class Reservation:
    """Upper bound of the calls, tokens and money of one attempt, reserved before it is sent."""

    id: str
    calls: int
    prompt: int
    completion: int
    cost: float

    @property
    def tokens(self) -> int:
        """Return the prompt and completion tokens together."""
        return self.prompt + self.completion
