"""Writer of prompts with other demonstrations, and writers that rewrite instructions beside them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace

from zopo_fast.prompts.writing.demonstrations import Chosen, DemonstrationSpace
from zopo_fast.prompts.writing.types import Draft, Parent, Writer, WriteRequest, Written

TRIES = 20  # of a draft that is known already


class DemonstrationWriter:
    """Writes prompts near given ones that differ in their demonstrations; without a model.

    A draft adds, drops or swaps one demonstration of its parent, takes another set or none, or gives the
    parent's instruction the set of another parent.

    Args:
        space: The sets.
    """

    name = "demonstrations"
    calls = 0

    def __init__(self, space: DemonstrationSpace) -> None:
        self._space = space
        self._moves: dict[str, Callable[[Chosen, random.Random], Chosen]] = {
            "add": self._add,
            "drop": self._drop,
            "swap": self._swap,
            "other": lambda _, rng: rng.choice(space.sets),
            "none": lambda _, __: (),
        }

    async def write(self, request: WriteRequest) -> Written:
        """Write at most `n` drafts, the parents in turn; fewer where all near sets are known."""
        rng = random.Random(request.seed)
        known = {*request.known, *(parent.prompt for parent in request.parents)}
        drafts: list[Draft] = []
        for number in range(request.n):
            parent = request.parents[number % len(request.parents)]
            for _ in range(TRIES):
                draft = self._draft(parent, request.parents, rng)
                if draft.prompt not in known:
                    known.add(draft.prompt)
                    drafts.append(draft)
                    break
        return Written(tuple(drafts))

    def _draft(self, parent: Parent, parents: tuple[Parent, ...], rng: random.Random) -> Draft:
        instruction, chosen = self._space.split(parent.prompt)
        others = {self._space.split(each.prompt)[1]: each.index for each in reversed(parents)}
        others.pop(chosen, None)
        moves = [*self._moves, *(["set of another"] if others else [])]
        move = rng.choice(moves)
        if move == "set of another":
            taken = rng.choice(list(others))
            return Draft(self._space.render(instruction, taken), (parent.index, others[taken]), move)
        wanted = self._moves[move](chosen, rng)
        return Draft(self._space.render(instruction, wanted), (parent.index,), move)

    def _add(self, chosen: Chosen, rng: random.Random) -> Chosen:
        free = [i for i in range(len(self._space.blocks)) if i not in chosen]
        return self._fitting(chosen, (*chosen, rng.choice(free))) if free else chosen

    def _drop(self, chosen: Chosen, rng: random.Random) -> Chosen:
        left = rng.choice(chosen) if chosen else None
        return tuple(i for i in chosen if i != left)

    def _swap(self, chosen: Chosen, rng: random.Random) -> Chosen:
        return self._fitting(chosen, self._add(self._drop(chosen, rng), rng)) if chosen else chosen

    def _fitting(self, chosen: Chosen, wanted: Chosen) -> Chosen:
        return tuple(sorted(wanted)) if self._space.fits(wanted) else chosen


class BesideDemonstrations:
    """Writer of instructions in a run whose prompts hold demonstrations, which it keeps.

    The inner writer sees the instructions of the parents and of the pool. Its drafts get the demonstrations
    of their first parent, or stay without any where the parent has none.

    Args:
        writer: Of instructions.
        space: Of the demonstrations.
    """

    def __init__(self, writer: Writer, space: DemonstrationSpace) -> None:
        self.name, self.calls = writer.name, writer.calls
        self._writer, self._space = writer, space

    async def write(self, request: WriteRequest) -> Written:
        """Write drafts by the inner writer.

        Raises:
            LLMError: as the inner writer.
            LimitReachedError: as the inner writer.
        """
        split = {parent.index: self._space.split(parent.prompt) for parent in request.parents}
        parents = tuple(replace(parent, prompt=split[parent.index][0]) for parent in request.parents)
        known = _distinct(self._space.instructions(request.known))
        written = await self._writer.write(replace(request, parents=parents, known=known))
        drafts = tuple(
            replace(draft, prompt=self._space.render(draft.prompt, split[draft.parents[0]][1]))
            if draft.parents and draft.parents[0] in split
            else draft
            for draft in written.drafts
        )
        return replace(written, drafts=drafts)


def _distinct(texts: Collection[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
