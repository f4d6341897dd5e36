"""Settings of a search."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zopo_fast._utils.checks import as_count, as_integer
from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, document, setting
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError

Search = Literal["improvement", "thompson", "gradient"]

DEFAULT_BUDGET = 165
DEFAULT_INITIAL = 40  # of the published loop
MAX_SEED = 2**128 - 1
MAX_INITIAL = 10**6  # length of a list of initial indices


@document
@dataclass(frozen=True)
class OfficialSettings:
    """Settings of the published loop under the names of the published script; see official.py.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    lr: float = setting(0.01, "Learning rate of the Adam step.", minimum=0)
    uncertainty_threshold: float = setting(
        0.01, "Posterior variance above which the current point counts as uncertain.", minimum=0
    )
    uncertainty_count: int = setting(
        5, "Uncertain points in a row after which the neighbours are explored.", minimum=1
    )
    neighbors: int = setting(10, "Nearest candidates that one exploration round considers.", minimum=1)
    gp_queries: int = setting(20, "Observations nearest to the current point that the model uses.", minimum=1)
    tolerance: int = setting(2, "Scores in a row without improvement before a restart.", minimum=0)
    max_steps: int = setting(2, "Adam steps of one ask.", minimum=1, maximum=1000)
    # The model uses the square, which must not overflow.
    sigma: float = setting(0.01, "Noise standard deviation of a score.", minimum=0, maximum=1e150)

    def __post_init__(self) -> None:
        check(self)


@public
@document
@dataclass(frozen=True)
class ZopoConfig:
    """Settings of a search over a pool.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    budget: int = setting(DEFAULT_BUDGET, "Prompts scored in total, the initial ones included.", minimum=1)
    initial: int | Sequence[int] | None = setting(
        None,
        "Number of random initial prompts, or the list of their indices.",
        default_text="up to 5, or 8 for a local search, spread over the pool"
        "; 40 random ones with the official settings",
    )
    seed: int = setting(0, "Seed of every random choice.", minimum=0, maximum=MAX_SEED)
    search: Search = setting(
        "improvement",
        "Proposal rule: the candidate of largest expected improvement, the best candidate in a sample of the "
        "posterior (thompson), or a step along the gradient of the posterior mean.",
    )
    region: int | None = setting(
        None,
        "Candidates that improvement and thompson consider at a time; a trust region searches a larger pool.",
        minimum=1,
        default_text="a pool of up to 2048 (thompson: 1024) as a whole, else 1024",
    )
    patience: int = setting(
        10, "Scores in a row without improvement that halve the trust region; 0 never halves it.", minimum=0
    )
    power: int = setting(
        2, "Power of the improvement whose expectation is maximised; 2 takes more risk.", minimum=1, maximum=2
    )
    emphasis: float = setting(
        0.3,
        "Weight of differences among good scores: the model fits exp(emphasis u), u in standard deviations; "
        "0 fits u.",
        minimum=0,
    )
    zscore: bool = setting(
        False, "Scaling of every embedding column to unit variance instead of all columns by one factor."
    )
    neighbors: int = setting(
        10, "Candidates in the neighbourhood whose radius is the unit of a gradient step.", minimum=1
    )
    step: float = setting(  # type: ignore[assignment]  # None depends on `search`, see __post_init__
        None,
        "Length of a gradient step in neighbourhood radii; in a trust region, the shift of half of it along "
        "the gradient in its own radii.",
        minimum=0,
        default_text="3 for the gradient search, else 0.5",
    )
    exploration: int = setting(
        3,
        "Candidates near the current one that the gradient search scores where the gradient is uncertain; "
        "0 turns exploration off.",
        minimum=0,
    )
    exploration_quantile: float = setting(
        0.9, "Running quantile of the gradient uncertainty above which exploration starts.",
        minimum=0, maximum=1,
    )  # fmt: skip
    noise: float | None = setting(
        None,
        "Noise variance of a score as a share of the signal variance; values below 1e-4 count as 1e-4 except "
        "in the gradient search.",
        above=0,
        default_text="inferred from the marginal likelihood",
    )
    official_settings: OfficialSettings | None = setting(
        None, "Settings of the published loop.", default_text="the loop of this package"
    )

    def __post_init__(self) -> None:
        if self.step is None:
            object.__setattr__(self, "step", 3.0 if self.search == "gradient" else 0.5)
        object.__setattr__(self, "initial", _checked_initial(self.initial))
        check(self)

    @classmethod
    def official(
        cls,
        budget: int = DEFAULT_BUDGET,
        initial: int | Sequence[int] = DEFAULT_INITIAL,
        seed: int = 0,
        **settings: Any,
    ) -> ZopoConfig:
        """Return the configuration of the published loop: raw embeddings, kernel and scores.

        Args:
            budget: Prompts scored in total, the initial ones included.
            initial: Number of random initial prompts, or the list of their indices.
            seed: Seed of every random choice.
            **settings: Fields of `OfficialSettings`.

        Raises:
            ConfigError: A value is out of range, or a keyword names no setting.
        """
        try:
            official = OfficialSettings(**settings)
        except TypeError as error:
            raise ConfigError(f"official settings: {error}") from error
        return cls(budget=budget, initial=initial, seed=seed, official_settings=official)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `from_dict` reverses it."""
        state = asdict(self)
        if isinstance(self.initial, tuple):
            state["initial"] = list(self.initial)
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ZopoConfig:
        """Rebuild a configuration from the result of `to_dict`.

        Raises:
            ConfigError: The values are not those of a configuration.
        """
        try:
            state = dict(state)
            official = state.pop("official_settings")
            return cls(**state, official_settings=None if official is None else OfficialSettings(**official))
        except (LookupError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not the settings of a search ({short_repr(error, 200)})") from error


def _checked_initial(initial: Any) -> int | tuple[int, ...] | None:
    """Return the number of initial prompts, or their distinct indices; None for the start of the search."""
    if initial is None:
        return None
    if not isinstance(initial, Iterable):
        return as_count("initial", initial, 1)
    indices = tuple(
        as_integer("initial", index) for index in itertools.islice(initial, MAX_INITIAL + 1)
    )  # an iterator may be infinite
    if not 0 < len(indices) <= MAX_INITIAL:
        raise ConfigError(f"initial must name at least 1 and at most {MAX_INITIAL} prompts")
    if len(set(indices)) < len(indices):
        raise ConfigError("initial must not name a prompt twice")
    return indices
