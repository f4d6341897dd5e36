"""Names of splits, and the division of examples into train, held out and demonstrations."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Literal, TypeVar

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zopo_fast.tasks.rows import Row

T = TypeVar("T")

_TRAIN = ("train", "training")
_HELDOUT = (
    "heldout", "holdout", "test", "testing", "validation", "valid", "val", "dev", "development", "eval",
    "evaluation",
)  # fmt: skip
SEARCH: Literal["search"] = "search"
"""Value of `demonstrations` that sets examples aside as a reserve."""
RESERVE = 16  # examples that a search draws demonstrations from, where there are as many
MIN_RESERVE = 2  # with a single one there is nothing to choose
NAMES_TEXT = "train, heldout, test, validation, dev, val, eval"


def side_of(name: str) -> str | None:
    """Return "train" or "heldout" for the name of a split; None for an unknown one.

    Case, hyphens and underscores do not count, and a further word or number may follow: `Held-Out`,
    `validation_matched`, `test-00000-of-00001`.
    """
    words = re.findall(r"[^\W\d_]+", name.casefold())
    for known in ("".join(words[:2]), words[0] if words else ""):
        if known in _TRAIN:
            return "train"
        if known in _HELDOUT:
            return "heldout"
    return None


def split_of(row: Row) -> str:
    """Return the side that the field `split` of a row names; an empty text if there is none.

    Raises:
        TaskError: the field holds another value.
    """
    value = row.fields.get("split")
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return ""
    side = side_of(value) if isinstance(value, str) else None
    if side is None:
        raise row.error(
            f"'split' must be one of {NAMES_TEXT}, not {short_repr(value)}; "
            "rename the column if it means something else"
        )
    return side


def divide(
    found: Sequence[tuple[T, str]],
    path: Path | None,
    *,
    examples: int | None,
    heldout: int | None,
    demonstrations: int | Literal["search"],
    seed: int,
) -> tuple[tuple[T, ...], tuple[T, ...], tuple[T, ...]]:
    """Return train examples, held-out examples and demonstrations.

    Examples assigned by `split` come first. The others are shuffled; train and held-out examples are taken
    from the front, demonstrations from the back. With `demonstrations="search"`, as many of the examples that
    are neither train nor required as held-out ones become a reserve as fit, from 2 to 16: half of them, or a
    third of all where `examples` is None.

    Raises:
        TaskError: there are too few examples.
    """
    order = list(found)
    random.Random(seed).shuffle(order)
    pinned = {side: [e for e, s in order if s == side] for side in ("train", "heldout")}
    free = [example for example, side in order if not side]

    train = pinned["train"][:examples]
    surplus = pinned["train"][len(train) :]
    wanted = 0 if examples is None else examples - len(train)
    train, free = train + free[:wanted], free[wanted:]
    if demonstrations == SEARCH:
        missing = max((heldout or 0) - len(pinned["heldout"]), 0)
        share = 1 if heldout is not None else 2
        of_free = (len(train) + len(free)) // 3 if examples is None else (len(free) - missing) // share
        shown = max(MIN_RESERVE, min(RESERVE, len(surplus) + max(of_free, 0)))
    else:
        shown = demonstrations
    cut = max(len(free) - max(shown - len(surplus), 0), 0)
    free, shots = free[:cut], (surplus + free[cut:])[:shown]
    held = pinned["heldout"][:heldout]
    if examples is None:  # all examples that are not held out
        taken = 0 if heldout is None else heldout - len(held)
        held, train = held + free[:taken], train + free[taken:]
    else:
        held += free if heldout is None else free[: heldout - len(held)]
        train = train[:examples]

    needs = [("examples", examples or 1, len(train)), ("demonstrations", shown, len(shots))]
    for label, wanted, available in [*needs, ("heldout", heldout or 0, len(held))]:
        if available < wanted:
            pinned_all = bool(order) and all(side == "heldout" for _, side in order)
            hint = "; their 'split' holds all of them out" if pinned_all else ""
            raise TaskError(
                f"too few examples: {label}={wanted} requested, {available} left of {len(found)} in all"
                f"{hint}",
                path=path,
            )
    return tuple(train), tuple(held), tuple(shots)
