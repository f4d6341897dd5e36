"""Random calls on a search, for tests that make the same calls on several implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from search_tools import can_offer, is_scored

import zopo_fast as zf

Call = tuple[Any, ...]
"""Name of a method and its arguments."""
SCORES = ["smooth", "tied", "noise", "equal"]


def random_sources(Z: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Return up to three earlier searches, as arguments of `learn_from`; two may share their name."""
    rng = np.random.default_rng([seed, 1])
    sources: list[dict[str, Any]] = []
    for _ in range(int(rng.integers(1, 4))):
        n = int(rng.integers(1, 14))
        at = rng.permutation(len(Z))[:n]
        kind = rng.random()
        smooth = np.tanh(Z[at].astype(float) @ rng.normal(size=Z.shape[1]) / 2)
        scores = np.full(n, 0.7) if kind < 0.1 else rng.normal(size=n) if kind < 0.3 else smooth
        noise = [None, 0.02, rng.choice([0.0, 0.01, 0.3], size=n).tolist()][int(rng.integers(3))]
        name = f"source {int(rng.integers(4))}"
        source = {"indices": at.tolist(), "scores": scores.tolist(), "noise": noise, "source": name}
        sources.append(source)
    return sources


class Searched(Protocol):
    def ask(self, n: int | None = None) -> Any: ...
    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None: ...
    def discard(self, index: int) -> None: ...
    def add(self, embeddings: Any, features: Any = None) -> Any: ...


class RandomCalls:
    """Source of calls, which depend on the seed and on what the search shows.

    Args:
        Z: Embeddings (m, d).
        seed: Seed; it chooses smooth scores, scores with many ties, scores without a signal, or equal ones.
        adds: True to add candidates now and then.
        features_of: Maps embeddings to the features of added candidates; None for no features.
    """

    def __init__(
        self,
        Z: np.ndarray,
        seed: int,
        adds: bool = True,
        features_of: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._Z, self._rng, self._adds = Z, np.random.default_rng(seed), adds
        self._features_of = features_of
        self._kind = SCORES[seed % len(SCORES)]

    def score(self, i: int) -> float:
        smooth = float(np.tanh(self._Z[i].astype(float).sum() / 2))
        if self._kind == "equal":
            return 0.7  # the mean of several is not exact
        if self._kind == "noise":
            return float(self._rng.normal())
        return round(smooth, 1) if self._kind == "tied" else smooth + 0.05 * float(self._rng.normal())

    def next(self, opt: zf.Zopo) -> Call:
        """Return a call that `opt` can answer."""
        rng, m = self._rng, len(self._Z)
        while True:
            what, pending = rng.random(), opt.pending
            if what < 0.4 and can_offer(opt):
                return ("ask",) if rng.random() < 0.7 else ("ask", int(rng.integers(1, 5)))
            if what < 0.8 and pending:
                i = pending[int(rng.integers(len(pending)))]
                noise = None if rng.random() < 0.5 else float(rng.choice([0.0, 0.01, 0.3]))
                return "tell", i, self.score(i), noise, bool(rng.random() < 0.75)
            if 0.8 < what < 0.85 and pending:
                return "discard", pending[int(rng.integers(len(pending)))]
            if 0.85 < what < 0.9 and not is_scored(opt, i := int(rng.integers(m))):
                return "tell", i, self.score(i), None, True
            if what > 0.97 and self._adds:
                more = rng.normal(size=(int(rng.integers(1, 4)), self._Z.shape[1]))
                self._Z = np.concatenate([self._Z, more.astype(self._Z.dtype)])
                return ("add", more) if self._features_of is None else ("add", more, self._features_of(more))
            if opt.done:  # only prior data and more candidates are left
                return "tell", (i := int(rng.integers(m))), self.score(i), None, True


def made(opt: Searched, call: Call) -> Any:
    """Make a call; return its answer, or the refusal of a second final score."""
    try:
        return getattr(opt, call[0])(*call[1:])
    except zf.ConflictingScoreError:
        return "conflict"


def shown(opt: zf.Zopo) -> tuple[Any, ...]:
    """Return all that a search shows, and what its model believes, to the last bit."""
    try:
        best: Any = opt.best
    except zf.NothingToAsk:
        best = None
    region = opt._native.region(opt._number)
    model: Sequence[Any] = [np.asarray(part).tobytes() for part in region] if region else []
    return opt.pending, opt.done, best, can_offer(opt), model
