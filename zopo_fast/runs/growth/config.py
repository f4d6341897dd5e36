"""Settings of a growing pool."""

from __future__ import annotations

from dataclasses import dataclass

from zopo_fast._utils.public import public
from zopo_fast._utils.settings import check, document, setting
from zopo_fast.errors import ConfigError


@public
@document
@dataclass(frozen=True)
class Growth:
    """Settings of a growing pool.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    written: int = setting(100, "Drafts of writers without a model in a round.", minimum=1, maximum=10_000)
    entrants: int = setting(8, "Most drafts of a round that enter the pool.", minimum=1)
    parents: int = setting(4, "Best prompts that a round starts from.", minimum=1)
    share: float = setting(
        0.2, "Most of the budget that writers with a model may spend, as a share.", minimum=0, maximum=1
    )
    first: float = setting(
        0.2, "Share of the budget that is spent before the first round.", minimum=0, below=1
    )
    gap: float = setting(0.1, "Share of the budget between two rounds.", above=0, maximum=1)
    last: float = setting(0.8, "Share of the budget after which no round begins.", minimum=0, maximum=1)
    screen: bool = setting(
        True,
        "Entry of only those drafts whose expected improvement exceeds that of the pool's best prompt "
        "without a score; off, random drafts enter.",
    )

    def __post_init__(self) -> None:
        check(self, "growth.")
        if self.first > self.last:
            raise ConfigError(f"growth.first must be at most growth.last, {self.last:g}, got {self.first:g}")
