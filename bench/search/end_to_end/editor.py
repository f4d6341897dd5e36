"""Scripted writer: edits one part of the prompts that a meta prompt shows.

Prompts are compositions of a role, an instruction and an output format (prompts/compose.toml). The writer
finds them in any text by their parts, so that every framework keeps its own meta prompt.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import zopo_fast.prompts
from zopo_fast.prompts.pool import normalise

COMPOSE_FILE = Path(zopo_fast.prompts.__file__).with_name("compose.toml")
Composition = tuple[str, str, str]
"""Role, instruction and output format; "" for none."""

_MERGES = re.compile(r"cross(?:ing )?over|merge", re.IGNORECASE)
_MUTATES = re.compile(r"mutat|rephrase", re.IGNORECASE)


def rng_of(*values: object) -> random.Random:
    """Return a generator that the texts of the values determine, in any process."""
    text = "\x1f".join(map(str, values))
    return random.Random(hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True)
class Parts:
    """Parts of the prompts of one kind of task.

    Args:
        roles: with "" for none.
        instructions: none of which is empty.
        formats: with "" for none.
    """

    roles: tuple[str, ...]
    instructions: tuple[str, ...]
    formats: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, lists: Path | None = None) -> Parts:
        """Return the parts of a table of compose.toml; or of a file that has only the parts of one kind."""
        document = tomllib.loads((lists or COMPOSE_FILE).read_text(encoding="utf-8"))
        table = document if lists else document[kind]
        return cls(*(tuple(map(normalise, table[name])) for name in ("roles", "instructions", "formats")))

    def lists(self) -> dict[str, list[str]]:
        """Return the parts as `zf.PartEditor` takes them."""
        return {
            "roles": list(self.roles),
            "instructions": list(self.instructions),
            "formats": list(self.formats),
        }

    def every(self) -> list[str]:
        """Return the texts of all compositions."""
        return [join(each) for each in product(self.roles, self.instructions, self.formats)]

    def find(self, text: str) -> list[Composition]:
        """Return the distinct compositions that a text shows, in the order of their last appearance."""
        places: list[tuple[int, Composition]] = []
        for instruction in self.instructions:
            start = text.find(instruction)
            while start >= 0:
                end = start + len(instruction)
                before, after = text[:start], text[end:]
                role = _longest(r for r in self.roles if r and before.endswith(f"{r} "))
                form = _longest(f for f in self.formats if f and after.startswith(f" {f}"))
                places.append((start, (role, instruction, form)))
                start = text.find(instruction, end)
        last = {found: place for place, found in sorted(places)}
        return sorted(last, key=lambda found: last[found])

    def edits(self, parts: Composition) -> list[Composition]:
        """Return all compositions that differ in exactly one part."""
        lists = (self.roles, self.instructions, self.formats)
        return [
            (*parts[:place], other, *parts[place + 1 :])  # type: ignore[misc]
            for place, values in enumerate(lists)
            for other in values
            if other != parts[place]
        ]


def join(parts: Composition) -> str:
    """Return the prompt of a composition."""
    return " ".join(part for part in parts if part)


def _longest(texts: Iterable[str]) -> str:
    return max(texts, key=len, default="")


class ScriptedWriter:
    """Deterministic writer: the same text and seed give the same answer.

    A text that asks to merge two prompts gets a prompt with each part from one of the two, and one edit if
    the text also asks to mutate. Any other text gets an edit of the prompt that it shows last: OPRO's meta
    prompt lists the best one last. A text without a prompt gets an edit of a random one.

    Args:
        parts: to edit with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def answer(self, text: str, seed: int) -> str:
        """Return a prompt for a meta prompt."""
        rng = rng_of("writer", seed, text)
        shown = self._parts.find(text)
        if not shown:
            every = product(self._parts.roles, self._parts.instructions, self._parts.formats)
            return join(rng.choice(list(every)))
        if len(shown) == 2 and _MERGES.search(text):
            first, second = shown
            merged = tuple(rng.choice(pair) for pair in zip(first, second, strict=True))
            if not _MUTATES.search(text):
                return join(merged)  # type: ignore[arg-type]
            return join(rng.choice(self._parts.edits(merged)))  # type: ignore[arg-type]
        return join(rng.choice(self._parts.edits(shown[-1])))
