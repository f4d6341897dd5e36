"""What Zopo asks of a search: the bookkeeping of ask and tell lives in Zopo, the decisions here."""

from __future__ import annotations

from typing import Protocol

from zopo_fast import _core


class Strategy(Protocol):
    """Decides what to score next. Deterministic in the order of these calls."""

    def propose(self) -> int:
        """Return a candidate that is not taken; called only while there is one."""

    def told(self, index: int, final: bool, again: bool) -> None:
        """Take in that `index` has a score among the observations; `again`: in place of an earlier one."""

    def discarded(self, index: int) -> None:
        """Take in that `index` was given back without a final score."""

    def grown(self, pool: _core.Pool, budget: int) -> None:
        """Take in a pool with more candidates after those known, and the budget it allows."""
