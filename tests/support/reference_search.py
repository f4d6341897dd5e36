"""Reference of the searches in float64: the control flow of ask and tell, and models from their definitions.

Nothing is kept between two calls that could be computed again. A proposal is a `Choice`: the prompts that may
be asked next, given the rounding errors of the native code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from reference_book import Array, Book, Choice, Score, exactly
from reference_gradient import ReferenceGradient
from reference_improvement import ReferenceImprovement

import zopo_fast as zf
from zopo_fast.gp import reference
from zopo_fast.search.problem import DEFAULT_KERNEL


def kernels_of(kernel: Any, config: zf.ZopoConfig, d: int) -> list[Any]:
    if kernel is None:
        gradient = config.search == "gradient"
        kernel = zf.NTK.random(d, seed=config.seed, initialization="he") if gradient else DEFAULT_KERNEL
    return list(kernel) if isinstance(kernel, Sequence) else [kernel]


def stacked(embeddings: Array, features: Array | None) -> Array:
    Z = np.asarray(embeddings)
    return Z if features is None else np.concatenate([Z, np.asarray(features).astype(Z.dtype)], axis=1)


class ReferenceSearch:
    """Search with the calls of `zf.Zopo`, except that `ask` takes the prompt that the other search asked.

    Args:
        embeddings: (m, d).
        config: Settings.
        kernel: Kernel or kernels, as for `zf.Zopo`.
        off: Error of the native posterior, in standard deviations of the prior.
        features: (m, q), as for `zf.Zopo`.
    """

    def __init__(
        self,
        embeddings: Array,
        config: zf.ZopoConfig,
        kernel: Any = None,
        off: float = 1e-3,
        features: Array | None = None,
    ) -> None:
        d = np.asarray(embeddings).shape[1]
        self.Z, self.config = stacked(embeddings, features), config
        Z = self.Z.astype(np.float64)
        m, both = Z.shape
        self.mean, deviation = Z.mean(axis=0), Z.std(axis=0)
        factor = np.ones(both)
        for at, keeps in (
            (slice(0, d), config.search != "gradient" and not config.zscore),
            (slice(d, None), True),
        ):
            spread = math.sqrt(float((deviation[at] ** 2).sum()))
            size = len(deviation[at])
            if size:
                factor[at] = (
                    deviation[at] * math.sqrt(both) / spread if keeps and spread else math.sqrt(both / size)
                )
        deviation[deviation == 0.0] = 1.0
        self.deviation = deviation
        # The features' share in the squared distance of each kernel.
        shares = [0.0] if features is None else [0.2, 0.8]
        weights = [np.sqrt(np.where(np.arange(both) < d, 1.0 - share, share)) for share in shares]
        self.book = Book(m, min(config.budget, m))
        kernels = kernels_of(kernel, config, d)
        inputs = (self.book, config, kernels, self._standardized(), factor, off)
        self.search: Any = (
            ReferenceGradient(*inputs)
            if config.search == "gradient"
            else ReferenceImprovement(*inputs, weights, d)
        )

    def learn_from(self, **source: Any) -> None:
        self.search.learn_from(source)

    def _standardized(self) -> Array:
        return np.asarray((self.Z.astype(np.float64) - self.mean) / self.deviation)

    @property
    def is_whole(self) -> bool:
        """True if a proposal does not depend on the members of a region."""
        return not isinstance(self.search, ReferenceImprovement) or self.search.is_whole

    @property
    def done(self) -> bool:
        return not self.book.pending and not self.book.can_offer

    def propose(
        self, before: Sequence[int] | None = None, after: Sequence[int] | None = None
    ) -> list[Choice]:
        """Return what may be asked next, any of the choices.

        In a pool larger than its region, the members of the region before and after the ask are those of the
        native search: when a candidate enters the region is not part of the specification.
        """
        assert self.book.can_offer
        if not self.book.free:
            return [exactly(self.book.set_aside[0])]
        return self.search.propose(before, after)  # type: ignore[no-any-return]

    def ask(
        self, index: int, before: Sequence[int] | None = None, after: Sequence[int] | None = None
    ) -> None:
        """Check the prompt that another search asked, and make it pending."""
        choices = self.propose(before, after)
        assert any(choice.admits(index) for choice in choices), (index, choices)
        self.search.on_ask(index)
        if index in self.book.set_aside:
            self.book.set_aside.remove(index)
        self.book.pending.append(index)
        self.book.counted += 1

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        known = self.book.seen.get(index)
        if known and known.final:
            if known.value != score:
                raise zf.ConflictingScoreError("another score")
            return
        self.book.seen[index] = Score(score, noise, final)
        if index in self.book.set_aside:
            self.book.set_aside.remove(index)
        if final and index in self.book.pending:
            self.book.pending.remove(index)
        self.search.on_tell(index, final, known is not None)

    def discard(self, index: int) -> None:
        self.book.pending.remove(index)
        self.book.counted -= 1
        if index not in self.book.seen:
            self.book.set_aside.append(index)

    def add(self, more: Array, features: Array | None = None) -> None:
        self.Z = np.concatenate([self.Z, stacked(more, features).astype(self.Z.dtype)])
        self.book.m = len(self.Z)
        self.book.budget = min(self.config.budget, len(self.Z))
        self.search.on_add(self._standardized())


class Followed:
    """Search and its reference, which get the same calls and must agree after each.

    Args:
        opt: Search to follow, without calls so far.
        ref: Reference with the same embeddings, settings and kernel.
    """

    def __init__(self, opt: zf.Zopo, ref: ReferenceSearch) -> None:
        self.opt, self.ref = opt, ref
        self.compared = 0  # posteriors

    def learn_from(self, **source: Any) -> None:
        self.opt.learn_from(**source)
        self.ref.learn_from(**source)

    def members(self) -> list[int] | None:
        region = self.opt._native.region(self.opt._number)
        return None if region is None else region[0].tolist()

    def ask(self, n: int | None = None) -> Any:
        if n is not None and self.ref.is_whole:
            asked = self.opt.ask(n)
            for index in asked:
                self.ref.ask(index)
            self.check()
            return asked
        if n is not None:  # one by one: the members of a region may change in between
            return [self.ask() for _ in range(n) if self.ref.book.can_offer]
        before = self.members()
        index = self.opt.ask()
        self.ref.ask(index, before, self.members())
        self.check()
        return index

    def tell(self, index: int, score: float, noise: float | None = None, final: bool = True) -> None:
        self.opt.tell(index, score, noise, final)
        self.ref.tell(index, score, noise, final)
        self.check()

    def discard(self, index: int) -> None:
        self.opt.discard(index)
        self.ref.discard(index)
        self.check()

    def add(self, more: Array, features: Array | None = None) -> None:
        self.opt.add(more, features)
        self.ref.add(more, features)
        self.check()

    def check(self) -> None:
        """Check the book, the trust region, and the posterior or the uncertainty of the gradient."""
        opt, ref, search = self.opt, self.ref, self.ref.search
        assert opt.pending == ref.book.pending
        assert opt.done == ref.done
        if ref.book.best is None:
            with np.testing.assert_raises(zf.NothingToAsk):
                _ = opt.best
            return
        assert opt.best == ref.book.best
        if search.designing:
            return
        if isinstance(search, ReferenceGradient):
            share = opt._native.gradient_uncertainty()[opt._number]
            if not search.changed and not math.isnan(share):
                np.testing.assert_allclose(share, search.uncertainty(), rtol=1e-6, atol=1e-9)
                self.compared += 1
        elif search.tracking and search.has_model:
            region = opt._native.region(opt._number)
            assert region is not None
            members, mean, variance, *trust = region[:5]
            assert trust == [search.trust.center, search.trust.size], (trust, vars(search.trust))
            levels = search.levels()
            unit = search.unit(levels)
            expected_mean, expected_variance = reference.region_posterior(levels)
            assert np.abs(mean - expected_mean[members]).max() <= search.off * unit
            assert np.abs(variance - expected_variance[members]).max() <= search.off * unit**2
            self.compared += 1
