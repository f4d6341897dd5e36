"""Writer without a model: edits of one part of prompts composed of role, instruction and output format."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from itertools import combinations, permutations
from pathlib import Path
from typing import NamedTuple

from zopo_fast._utils.checks import as_count
from zopo_fast._utils.public import public
from zopo_fast.prompts.pool import normalise
from zopo_fast.prompts.writing.parts import PARTS, part_tables, read_parts
from zopo_fast.prompts.writing.types import Draft, WriteRequest, Written

Composition = tuple[int, int, int]
"""Indices of a prompt's role, instruction and format in their lists."""

MAX_SPLIT = 2000  # prompts of a pool that are split to find its lists
_NAMES = ("role", "instruction", "format")


class _Parent(NamedTuple):
    """Parent that is a composition."""

    index_in_pool: int
    parts: Composition


@public
class PartEditor:
    """Writer of prompts that differ in one part from a parent; it needs no model.

        editor = zf.PartEditor({"roles": ["", "Task:"], "instructions": ["Add.", "Sum up."], "formats": [""]})
        written = await editor.write(zf.WriteRequest((zf.Parent(0, "Task: Add.", 0.5),), n=10, seed=0))

    A draft replaces the role, the instruction or the output format of a parent by another one of the lists.
    The parents take turns, best first; the edits of a parent come in random order. Once all edits of one part
    are known, drafts combine parts of three parents, then replace two parts of one. Parents that are no
    composition of the parts are skipped.

    Args:
        parts: `{"roles": [...], "instructions": [...], "formats": [...]}` as of `compose`; roles and formats
            are optional, and "" stands for none.

    Raises:
        ConfigError: the parts are missing or malformed.
    """

    name = "edit"
    calls = 0

    def __init__(self, parts: Mapping[str, Sequence[str]]) -> None:
        self._parts = read_parts(parts, "")
        self._places = [{text: place for place, text in enumerate(values)} for values in self._parts]
        # Lengths that the roles, with the blank after them, and the formats, with that before them, take.
        self._role_lengths, self._format_lengths = (
            sorted({len(text) + bool(text) for text in self._parts[which]}) for which in (0, 2)
        )

    @classmethod
    def for_pool(
        cls,
        prompts: Sequence[str],
        lists: Mapping[str, Sequence[str]] | str | Path | None = None,
        kind: str | None = None,
    ) -> PartEditor | None:
        """Return the editor whose lists most prompts of a pool are composed of.

        Of a pool of more than `MAX_SPLIT` prompts, a sample at equal distances is looked at.

        Args:
            prompts: of the pool.
            lists: the parts, or a TOML or JSON file with one table of parts a kind; None: those of `compose`.
            kind: the only table to try; None: all.

        Returns:
            None unless at least half of the prompts are compositions of the same lists.

        Raises:
            ConfigError: the file or the parts are missing or malformed.
        """
        step = -(-len(prompts) // MAX_SPLIT) or 1
        sample = prompts[::step]
        best, most = None, 0
        for parts in part_tables(lists, kind):
            editor = cls(dict(zip(PARTS, parts, strict=True)))
            count = sum(editor.split(prompt) is not None for prompt in sample)
            if count > most:
                best, most = editor, count
        return best if 2 * most >= len(sample) else None

    def split(self, prompt: str) -> Composition | None:
        """Return the indices of a prompt's role, instruction and format; None if it is no composition."""
        roles, instructions, formats = self._places
        ends = [
            (length, found)
            for length in self._format_lengths
            if (found := _place(formats, prompt[len(prompt) - length :], 0, length)) is not None
        ]
        for begin in self._role_lengths:
            role = _place(roles, prompt[:begin], begin - 1, begin)
            if role is None:
                continue
            for length, form in ends:
                instruction = instructions.get(prompt[begin : len(prompt) - length])
                if instruction is not None:
                    return role, instruction, form
        return None

    def join(self, parts: Composition) -> str:
        """Return the prompt of a composition."""
        roles, instructions, formats = self._parts
        role, text, form = roles[parts[0]], instructions[parts[1]], formats[parts[2]]
        if role:
            text = f"{role} {text}"
        if form:
            text = f"{text} {form}"
        return text if text.isascii() else normalise(text)

    async def write(self, request: WriteRequest) -> Written:
        """Write up to `request.n` drafts, none of which is known.

        Raises:
            ConfigError: `request.n` is no count.
        """
        return Written(tuple(self.drafts(request)))

    def drafts(self, request: WriteRequest) -> list[Draft]:
        """Return the drafts of `write`."""
        n = as_count("n", request.n)
        known = _as_set(request.known)
        seen = {parent.prompt for parent in request.parents}
        parents = []
        for parent in request.parents:
            parts = self.split(parent.prompt)
            if parts is not None:
                parents.append(_Parent(parent.index, parts))
        found: list[Draft] = []
        for sources, parts, note in self._proposals(parents, random.Random(request.seed)):
            if len(found) >= n:
                break
            prompt = self.join(parts)
            if prompt not in seen and prompt not in known:
                seen.add(prompt)
                found.append(Draft(prompt, sources, note))
        return found

    def _proposals(
        self, parents: Sequence[_Parent], rng: random.Random
    ) -> Iterator[tuple[tuple[int, ...], Composition, str]]:
        yield from _in_turn([self._edits(parent, 1, rng) for parent in parents])
        # A mixture of two parents differs in one part from one of them: new ones take three.
        for places in sorted(combinations(range(len(parents)), 3), key=sum):
            yield from _mixtures([parents[place] for place in places], rng)
        yield from _in_turn([self._edits(parent, 2, rng) for parent in parents])

    def _edits(
        self, parent: _Parent, number: int, rng: random.Random
    ) -> Iterator[tuple[tuple[int, ...], Composition, str]]:
        """Yield all edits of `number` parts in random order."""
        kinds = []  # which parts, number of their edits, note
        for which in combinations(range(3), number):
            size = math.prod(len(self._parts[part]) - 1 for part in which)
            kinds.append((which, size, "+".join(_NAMES[part] for part in which)))
        source = (parent.index_in_pool,)
        for drawn in _shuffled(sum(size for _, size, _ in kinds), rng):
            place = drawn
            for which, size, note in kinds:
                if place < size:
                    edited = list(parent.parts)
                    for part in which:
                        place, other = divmod(place, len(self._parts[part]) - 1)
                        edited[part] = other + (other >= parent.parts[part])  # any part but the parent's
                    yield source, (edited[0], edited[1], edited[2]), note
                    break
                place -= size


def _place(places: Mapping[str, int], text: str, blank: int, length: int) -> int | None:
    """Return the place of a role or format, which a blank at `blank` joins to the instruction."""
    if not length:
        return places.get("")
    if len(text) < length or text[blank] != " ":
        return None
    return places.get(text[:blank] + text[blank + 1 :])


def _mixtures(
    parents: Sequence[_Parent], rng: random.Random
) -> Iterator[tuple[tuple[int, ...], Composition, str]]:
    """Yield all compositions that take one part of each of three parents, in random order."""
    orders = list(permutations(parents))
    rng.shuffle(orders)
    source = tuple(parent.index_in_pool for parent in parents)
    for role, instruction, form in orders:
        yield source, (role.parts[0], instruction.parts[1], form.parts[2]), "crossover"


def _in_turn(
    sources: Sequence[Iterator[tuple[tuple[int, ...], Composition, str]]],
) -> Iterator[tuple[tuple[int, ...], Composition, str]]:
    """Yield one item of each iterator in turn, until all are exhausted."""
    left = list(sources)
    while left:
        remaining = []
        for source in left:
            item = next(source, None)
            if item is not None:
                yield item
                remaining.append(source)
        left = remaining


def _shuffled(size: int, rng: random.Random) -> Iterator[int]:
    """Yield range(size) in random order, one number at a time (Fisher and Yates): the range may be huge."""
    moved: dict[int, int] = {}
    for first in range(size):
        other = first + int(rng.random() * (size - first))
        taken = moved.get(other, other)
        moved[other] = moved.pop(first, first)
        yield taken


def _as_set(known: Collection[str]) -> Set[str]:
    return known if isinstance(known, Set) else frozenset(known)
