"""Settings of the search, checked when they are made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from zopo_fast._utils.checks import _require, as_count, as_integer, as_number
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError

Search = Literal["improvement", "thompson", "gradient"]

MOST_STEPS = 1000  # of the published loop in one ask; its own are 2
MOST_INITIAL = 10**6  # prompts named one by one


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
        _require(
            self.sigma <= 1e150, f"sigma must be at most 1e150, for its square is used, got {self.sigma}"
        )
        for name in ("uncertainty_count", "neighbors", "gp_queries", "max_steps", "tolerance"):
            object.__setattr__(self, name, as_count(name, getattr(self, name), int(name != "tolerance")))
        _require(
            self.max_steps <= MOST_STEPS, f"max_steps must be at most {MOST_STEPS}, got {self.max_steps}"
        )


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
        for name, least in (
            ("budget", 1),
            ("region", 1),
            ("patience", 0),
            ("neighbors", 1),
            ("exploration", 0),
        ):
            object.__setattr__(self, name, as_count(name, getattr(self, name), least))
        for name in ("seed", "power"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        if not isinstance(self.initial, Iterable):
            object.__setattr__(self, "initial", as_count("initial", self.initial, 1))
        else:
            named = itertools.islice(self.initial, MOST_INITIAL + 1)  # an iterator may not end
            indices = tuple(as_integer("initial", i) for i in named)
            _require(len(indices) <= MOST_INITIAL, f"initial must name at most {MOST_INITIAL} prompts")
            _require(len(indices) > 0, "initial must name at least one prompt")
            _require(len(set(indices)) == len(indices), "initial names a prompt twice")
            object.__setattr__(self, "initial", indices)
        _require(
            isinstance(self.search, str) and self.search in get_args(Search),
            f"search must be one of {', '.join(get_args(Search))}, got {short_repr(self.search)}",
        )
        _require(self.power in (1, 2), f"power must be 1 or 2, got {self.power}")
        _require(
            isinstance(self.zscore, bool), f"zscore must be True or False, got {short_repr(self.zscore)}"
        )
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
        q = self.exploration_quantile
        _require(0.0 <= q <= 1.0, f"exploration_quantile must lie in [0, 1], got {q}")
        if not isinstance(self.official_settings, (OfficialSettings, type(None))):
            raise ConfigError(
                f"official_settings: expected OfficialSettings, got {short_repr(self.official_settings)}"
            )
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
        """Rebuild a configuration from to_dict(); ConfigError where it is none of this package's."""
        try:
            state = dict(state)
            official = state.pop("official_settings")
            return cls(**state, official_settings=None if official is None else OfficialSettings(**official))
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not the settings of a search ({short_repr(error, 200)})") from error
