"""What a run may take in all, what things cost, and what one call reserves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zopo_fast._utils.checks import as_integer, as_number
from zopo_fast.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """What a run may take in all; None: no limit. Raises `ConfigError` naming what is not above 0.

    `calls`: attempts sent to a model and not refused by it. `tokens`: prompt and completion together.
    `cost`: in the unit of the prices. `seconds`: of wall-clock time.
    """

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "cost", "seconds"):
            value = getattr(self, name)
            if value is None:
                continue
            whole = name in ("calls", "tokens")
            value = as_integer(f"limit {name}", value) if whole else as_number(f"limit {name}", value)
            if not math.isfinite(value) or value <= 0:
                raise ConfigError(f"limit {name} must be finite and above 0, got {value}")
            object.__setattr__(self, name, value)

    @property
    def others(self) -> bool:
        """Whether anything but the time is limited."""
        return (self.calls, self.tokens, self.cost) != (None, None, None)


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens in and out. Raises `ConfigError` for one below 0."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            value = as_number(f"price {name}", getattr(self, name))
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"price {name} must be finite and at least 0, got {value}")
            object.__setattr__(self, name, value)

    def of(self, prompt: int, completion: int) -> float:
        """What so many tokens cost."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """Calls, tokens and money; `seconds` since the run began."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Left:
    """What the limits leave beyond what is spent and reserved; None: not limited."""

    calls: int | None
    tokens: int | None
    cost: float | None
    seconds: float | None


@dataclass(frozen=True)
class Reservation:
    """Reserved budget of one attempt: the most that the attempt can take."""

    id: str
    calls: int
    prompt: int
    completion: int
    cost: float

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt + self.completion
