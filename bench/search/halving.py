"""Sequential halving of a pool, on common examples or on an order of each candidate's own."""

from __future__ import annotations

import itertools

from .replay import Method, Problem, Search, order


class Halving(Method):
    """Sequential halving: each round halves the candidates and doubles their examples.

    Rounds cost about the same. The first round scores `first` examples of as many candidates (the initial
    points, then random ones) as the budget carries to the end, and more examples where that is the whole
    pool. Its initial points are scored in full only if they survive. TRIPLE-SH (arXiv 2402.09723) is this
    method on common examples.

    Args:
        first: examples of a candidate in the first round.
        shuffles: whether every candidate has its own order of examples; otherwise all share one.
    """

    partial = True

    def __init__(self, name: str, first: int = 2, shuffles: bool = False) -> None:
        self.name, self.first, self.shuffles = name, first, shuffles

    def search(self, problem: Problem) -> Search:
        first = min(self.first, problem.examples)
        while (
            first < problem.examples
            and self.cost(len(problem.Z), first + 1, problem.examples) <= problem.calls
        ):
            first += 1
        n = max(
            k for k in range(1, len(problem.Z) + 1)
            if k == 1 or self.cost(k, first, problem.examples) <= problem.calls
        )  # fmt: skip
        alive, had = order(problem)[:n], 0
        for size, upto in self.rounds(n, first, problem.examples):
            alive = alive[:size]
            means: dict[int, float] = {}
            for index in alive:
                means[index] = float((yield index, upto - had).mean())
            alive, had = sorted(alive, key=lambda i: -means[i]), upto

    @staticmethod
    def rounds(n: int, first: int, examples: int) -> list[tuple[int, int]]:
        """Return (candidates, examples of each so far) by round, until all examples are used."""
        found = [(n, first)]
        while found[-1][1] < examples:
            size, upto = found[-1]
            found.append(((size + 1) // 2, min(2 * upto, examples)))
        return found

    @classmethod
    def cost(cls, n: int, first: int, examples: int) -> int:
        """Return the calls of all rounds."""
        rounds = cls.rounds(n, first, examples)
        return n * first + sum(size * (upto - had) for (_, had), (size, upto) in itertools.pairwise(rounds))
