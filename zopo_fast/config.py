"""Settings of the search, checked when they are made."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .errors import ConfigError

Search = Literal["improvement", "thompson", "gradient"]


def as_integer(name: str, value: Any) -> int:
    """Return a Python integer of any integer type; ConfigError names the setting otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}: expected an integer, got {value!r}") from None


def as_number(name: str, value: Any) -> float:
    """Return a float; ConfigError names the setting otherwise."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name}: expected a number, got {value!r}") from None


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


@dataclass(frozen=True)
class OfficialSettings:
    """The published script's settings, by its names; the loop is in official.py."""

    lr: float = 0.01
    uncertainty_threshold: float = 0.01
    uncertainty_count: int = 5
    neighbors: int = 10
    gp_queries: int = 20
    tolerance: int = 2
    max_steps: int = 2
    sigma: float = 0.01

    def __post_init__(self) -> None:
        for name in ("lr", "uncertainty_threshold", "sigma"):
            value = as_number(name, getattr(self, name))
            object.__setattr__(self, name, value)
            _require(
                math.isfinite(value) and value >= 0, f"{name} must be finite and not negative, got {value}"
            )
        for name in ("uncertainty_count", "neighbors", "gp_queries", "max_steps", "tolerance"):
            count, least = as_integer(name, getattr(self, name)), int(name != "tolerance")
            object.__setattr__(self, name, count)
            _require(count >= least, f"{name} must be at least {least}, got {count}")


@dataclass(frozen=True)
class ZopoConfig:
    """How Zopo searches a pool.

    Args:
        budget: prompts scored in all, the initial ones included.
        initial: a number of random first prompts, or the list of their indices.
        seed: of every random choice.
        search: "improvement" proposes the candidate of largest expected improvement, "thompson" the best
            one in a sample of the posterior, "gradient" one step along the posterior mean's gradient.
        region: candidates that these two consider at a time; a larger pool is searched by a trust region.
        patience: scores in a row without a better prompt after which the trust region is halved; 0: never.
        power: of the improvement that is expected, 1 or 2; 2 takes more risk.
        emphasis: how much more differences among good scores count than among bad ones: the model sees
            exp(emphasis u), u in standard deviations; 0: as they are.
        zscore: whether every embedding column is scaled to unit variance, instead of all by one factor.
        neighbors: of "gradient": how many candidates make up the neighbourhood whose radius is the unit of
            a step.
        step: of "gradient": length of a step, in such radii; the nearest unscored candidate is its end. In
            a trust region: how far half of it is shifted along the gradient, in its radii; 0: not at all.
        exploration: of "gradient": candidates scored around the current one when the gradient there is
            uncertain; 0 turns this off.
        exploration_quantile: uncertain means above this running quantile of the run so far.
        noise: noise variance of a score as a share of the signal's; None: averaged over ("gradient":
            chosen) by marginal likelihood. Less than 1e-4 counts as that, except for "gradient".
        official_settings: of the published loop; None runs this package's own.

    Raises:
        ConfigError: a value out of range; names the setting.
    """

    budget: int = 165
    initial: int | Sequence[int] = 40
    seed: int = 0
    search: Search = "improvement"
    region: int = 1024
    patience: int = 10
    power: int = 2
    emphasis: float = 0.3
    zscore: bool = False
    neighbors: int = 10
    step: float = None  # type: ignore[assignment]  # by the search, see __post_init__
    exploration: int = 3
    exploration_quantile: float = 0.9
    noise: float | None = None
    official_settings: OfficialSettings | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("budget", "seed", "region", "patience", "power", "neighbors", "exploration"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        _require(self.budget >= 1, f"budget must be at least 1, got {self.budget}")
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        if not isinstance(self.initial, Iterable):
            count = as_integer("initial", self.initial)
            _require(count >= 1, f"initial must be at least 1, got {count}")
            object.__setattr__(self, "initial", count)
        else:
            indices = tuple(as_integer("initial", i) for i in self.initial)
            _require(len(indices) > 0, "initial must name at least one prompt")
            _require(len(set(indices)) == len(indices), "initial names a prompt twice")
            object.__setattr__(self, "initial", indices)
        _require(self.neighbors >= 1, f"neighbors must be at least 1, got {self.neighbors}")
        _require(
            self.search in get_args(Search),
            f"search must be one of {', '.join(get_args(Search))}, got {self.search!r}",
        )
        _require(self.region >= 1, f"region must be at least 1, got {self.region}")
        _require(self.patience >= 0, f"patience must not be negative, got {self.patience}")
        _require(self.power in (1, 2), f"power must be 1 or 2, got {self.power}")
        _require(isinstance(self.zscore, bool), f"zscore must be True or False, got {self.zscore!r}")
        if self.step is None:
            object.__setattr__(self, "step", 3.0 if self.search == "gradient" else 0.5)
        for name in ("step", "emphasis", "exploration_quantile"):
            object.__setattr__(self, name, as_number(name, getattr(self, name)))
        _require(
            math.isfinite(self.step) and self.step >= 0, f"step must be finite and >= 0, got {self.step}"
        )
        _require(
            math.isfinite(self.emphasis) and self.emphasis >= 0,
            f"emphasis must be finite and >= 0, got {self.emphasis}",
        )
        _require(self.exploration >= 0, f"exploration must not be negative, got {self.exploration}")
        q = self.exploration_quantile
        _require(0.0 <= q <= 1.0, f"exploration_quantile must lie in [0, 1], got {q}")
        if self.noise is not None:
            noise = as_number("noise", self.noise)
            _require(math.isfinite(noise) and noise > 0, f"noise must be positive and finite, got {noise}")
            object.__setattr__(self, "noise", noise)

    @classmethod
    def official(
        cls, budget: int = 165, initial: int | Sequence[int] = 40, seed: int = 0, **settings: Any
    ) -> ZopoConfig:
        """Return the published implementation's loop with its script's settings.

        Keywords: lr, uncertainty_threshold, uncertainty_count, neighbors, gp_queries, tolerance,
        max_steps, sigma. Embeddings, kernel and scores are used raw.
        """
        try:
            official = OfficialSettings(**settings)
        except TypeError as error:
            raise ConfigError(f"official settings: {error}") from error
        return cls(budget=budget, initial=initial, seed=seed, official_settings=official)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; from_dict reverses it."""
        state = asdict(self)
        if not isinstance(self.initial, int):
            state["initial"] = list(self.initial)
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ZopoConfig:
        """Rebuild a configuration from to_dict()."""
        state = dict(state)
        official = state.pop("official_settings")
        return cls(**state, official_settings=None if official is None else OfficialSettings(**official))
