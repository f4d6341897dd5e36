"""Writer of prompts with other demonstrations, and writers of instructions beside them."""

from __future__ import annotations

import asyncio
from typing import Any

import zopo_fast as zf
from zopo_fast.prompts.writing.demonstration_writer import BesideDemonstrations, DemonstrationWriter
from zopo_fast.prompts.writing.demonstrations import DemonstrationSpace
from zopo_fast.prompts.writing.types import Draft, Parent, Writer, WriteRequest, Written

SPACE = DemonstrationSpace([zf.Example(f"in {i}", (f"out {i}",)) for i in range(12)], "instruction")
SHOWN = (1, 4, 6, 9)
PARENTS = (
    Parent(5, SPACE.render("First.", SHOWN), 0.8),
    Parent(2, "Second.", 0.7),
    Parent(9, SPACE.render("Third.", (2, 3)), 0.6),
)


def written(writer: Writer, n: int, parents: tuple[Parent, ...] = PARENTS, **more: Any) -> Written:
    return asyncio.run(writer.write(WriteRequest(parents, n, more.pop("seed", 0), **more)))


def test_each_draft_is_near_its_parent() -> None:
    writer = DemonstrationWriter(SPACE)
    assert (isinstance(writer, Writer), writer.name, writer.calls) == (True, "demonstrations", 0)
    drafts = written(writer, 60).drafts
    by_index = {parent.index: SPACE.split(parent.prompt) for parent in PARENTS}
    seen = set()
    for draft in drafts:
        instruction, chosen = SPACE.split(draft.prompt)
        origin, before = by_index[draft.parents[0]]
        assert instruction == origin
        gained, lost = len(set(chosen) - set(before)), len(set(before) - set(chosen))
        near = {"add": (1, 0), "drop": (0, 1), "swap": (1, 1)}
        if draft.note in near:
            assert (gained, lost) == near[draft.note]
        elif draft.note == "set of another":
            assert chosen == by_index[draft.parents[1]][1]
        else:
            assert chosen == () if draft.note == "none" else chosen in SPACE.sets
        seen.add(draft.note)
    assert seen == {"add", "drop", "swap", "other", "none", "set of another"}


def test_drafts_are_new_distinct_and_repeatable() -> None:
    writer = DemonstrationWriter(SPACE)
    drafts = written(writer, 40).drafts
    assert len({draft.prompt for draft in drafts}) == 40
    assert written(writer, 40).drafts == drafts
    assert written(writer, 40, seed=1).drafts != drafts
    known = tuple(draft.prompt for draft in drafts)
    assert not {draft.prompt for draft in written(writer, 40, known=known).drafts} & set(known)


def test_a_small_space_gives_what_there_is() -> None:
    space = DemonstrationSpace([zf.Example("a", ("b",)), zf.Example("c", ("d",))], "user")
    drafts = written(DemonstrationWriter(space), 50, (Parent(0, "Do.", 0.5),)).drafts
    assert {space.split(draft.prompt)[1] for draft in drafts} == {(0,), (1,), (0, 1)}
    full = Parent(0, SPACE.render("Do.", tuple(range(8))), 0.5)
    assert all(
        len(SPACE.split(d.prompt)[1]) <= 8 for d in written(DemonstrationWriter(SPACE), 40, (full,)).drafts
    )


class Louder:
    """Writes the prompts of the parents in capitals."""

    name, calls = "louder", 3

    def __init__(self) -> None:
        self.requests: list[WriteRequest] = []

    async def write(self, request: WriteRequest) -> Written:
        self.requests.append(request)
        return Written(tuple(Draft(each.prompt.upper(), (each.index,)) for each in request.parents))


def test_a_writer_of_instructions_keeps_the_demonstrations() -> None:
    inner = Louder()
    writer = BesideDemonstrations(inner, SPACE)
    assert (isinstance(writer, Writer), writer.name, writer.calls) == (True, "louder", 3)
    drafts = written(writer, 3, known=(PARENTS[0].prompt, "First.", "Second.")).drafts
    assert [SPACE.split(draft.prompt) for draft in drafts] == [
        ("FIRST.", SHOWN), ("SECOND.", ()), ("THIRD.", (2, 3)),
    ]  # fmt: skip
    (request,) = inner.requests
    assert [parent.prompt for parent in request.parents] == ["First.", "Second.", "Third."]
    assert tuple(request.known) == ("First.", "Second.")
