"""Writer that edits one part of composed prompts."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from pathlib import Path

import pytest

from zopo_fast.errors import ConfigError
from zopo_fast.prompts import generate
from zopo_fast.prompts.writing.part_editor import MAX_SPLIT, PartEditor
from zopo_fast.prompts.writing.types import Draft, Parent, Writer, WriteRequest

PARTS = {
    "roles": ["", "Task:", "You are a poet."],
    "instructions": ["Write a rhyme.", "Rhyme.", "Give a word.", "Task: rhyme."],
    "formats": ["", "Be brief.", "One word, no more."],
}
SIZES = {"role": 2, "instruction": 3, "format": 2}


def write(
    *prompts: str, n: int = 1000, seed: int = 0, known: tuple[str, ...] = (), editor: PartEditor | None = None
) -> list[Draft]:
    parents = tuple(Parent(10 + place, prompt, 1.0 - place) for place, prompt in enumerate(prompts))
    written = asyncio.run((editor or PartEditor(PARTS)).write(WriteRequest(parents, n, seed, known)))
    assert written.usage.calls == 0
    assert written.rejected == ()
    return list(written.drafts)


def one_part(drafts: list[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.note in SIZES]


def test_a_prompt_is_split_into_the_parts_it_is_joined_of() -> None:
    editor = PartEditor(PARTS)
    assert isinstance(editor, Writer)
    for parts in product(range(3), range(4), range(3)):
        prompt = editor.join(parts)
        found = editor.split(prompt)
        assert found is not None
        assert editor.join(found) == prompt
    assert editor.split("Task: Write a rhyme. Be brief.") == (1, 0, 1)
    for other in (
        "",
        "Task:",
        "Task: Be brief.",
        "Task:  Rhyme.",
        "Rhyme",
        "rhyme.",
        "Task:Rhyme.",
        "Rhyme.\nx",
    ):
        assert editor.split(other) is None, other


def test_parts_of_several_lines_and_scripts_are_split() -> None:
    parts = {
        "roles": ["R:\n  - a", "Ein Ärztin"],
        "instructions": ["Do\n\nit", "写"],
        "formats": ["\u0301x", "y"],
    }
    editor = PartEditor(parts)
    prompts = [editor.join(each) for each in product(range(2), repeat=3)]
    assert set(prompts) == set(generate.compose(8, lists=parts).prompts)
    assert [editor.split(prompt) for prompt in prompts] == list(product(range(2), repeat=3))


def test_drafts_differ_in_one_part_and_are_not_known() -> None:
    drafts = write("Task: Write a rhyme. Be brief.", n=7)
    assert len({draft.prompt for draft in drafts}) == 7
    editor = PartEditor(PARTS)
    counts = dict.fromkeys(SIZES, 0)
    for draft in drafts:
        assert draft.parents == (10,)
        counts[draft.note] += 1
        parts = editor.split(draft.prompt)
        assert parts is not None
        changed = [place for place in range(3) if parts[place] != (1, 0, 1)[place]]
        assert [list(SIZES)[place] for place in changed] == [draft.note]
    assert counts == SIZES
    known = (drafts[0].prompt, "Task: Write a rhyme. Be brief.", drafts[4].prompt)
    left = write("Task: Write a rhyme. Be brief.", n=5, known=known)
    assert {draft.prompt for draft in left} == {draft.prompt for draft in drafts} - set(known)
    assert set(known).isdisjoint(draft.prompt for draft in write("Rhyme.", known=known))


def test_the_seed_decides_the_order() -> None:
    parents = ("Task: Write a rhyme. Be brief.", "Rhyme.")
    assert write(*parents, seed=1) == write(*parents, seed=1)
    assert write(*parents, seed=1) != write(*parents, seed=2)
    assert write(*parents, seed=1)[:4] == write(*parents, seed=1, n=4)
    assert write(*parents, n=0) == []


def test_parents_take_turns_best_first() -> None:
    drafts = write("Task: Write a rhyme. Be brief.", "no composition", "Rhyme.", n=10)
    assert [draft.parents for draft in drafts] == [(10,), (12,)] * 5


def test_after_the_edits_of_one_part_come_mixtures_then_edits_of_two() -> None:
    parents = ("Task: Write a rhyme. Be brief.", "You are a poet. Give a word. One word, no more.", "Rhyme.")
    drafts = write(*parents)
    kinds = [0 if draft.note in SIZES else 1 if draft.note == "crossover" else 2 for draft in drafts]
    assert kinds == sorted(kinds)
    assert kinds.count(0) == 21
    assert kinds.count(1) == 6
    editor = PartEditor(PARTS)
    for draft in drafts[21:27]:
        assert draft.parents == (10, 11, 12)
        parts = editor.split(draft.prompt)
        assert parts is not None
        by_part = ((1, 2, 0), (0, 2, 1), (1, 2, 0))  # of each part: its place in the three parents
        assert {of.index(place) for of, place in zip(by_part, parts, strict=True)} == {0, 1, 2}
    assert len({draft.prompt for draft in drafts}) == len(drafts) == 3 * 4 * 3 - 3  # all but the parents
    alone = write("Task: Write a rhyme. Be brief.")
    assert {draft.note for draft in alone[7:]} == {"role+instruction", "role+format", "instruction+format"}
    assert len({draft.prompt for draft in alone}) == len(alone) == 7 + 2 * 3 + 2 * 2 + 3 * 2


def test_a_huge_product_takes_no_time_or_memory() -> None:
    parts = {name: [f"{name} {place}" for place in range(20_000)] for name in PARTS}
    drafts = write("roles 1 instructions 2 formats 3", n=5, editor=PartEditor(parts))
    assert len(one_part(drafts)) == 5


def test_the_editor_of_a_pool_has_the_lists_it_was_composed_of() -> None:
    for kind in ("general", "sentiment", "rhymes", "cause_and_effect"):
        prompts = generate.compose(60, seed=3, kind=kind).prompts
        editor = PartEditor.for_pool(prompts)
        assert editor is not None
        assert all(editor.split(prompt) for prompt in prompts)
        assert PartEditor.for_pool(prompts, kind=kind) is not None
    assert PartEditor.for_pool(generate.compose(60, kind="rhymes").prompts, kind="sentiment") is None
    assert PartEditor.for_pool(generate.compose(60, kind="rhymes").prompts, PARTS) is None
    assert PartEditor.for_pool(["Rhyme.", "Give a word."], PARTS) is not None
    assert PartEditor.for_pool([]) is None


def test_half_of_the_prompts_must_be_compositions() -> None:
    composed = [f"Task: {text}" for text in PARTS["instructions"][:3]]
    assert PartEditor.for_pool([*composed, "a", "b", "c"], PARTS) is not None
    assert PartEditor.for_pool([*composed, "a", "b", "c", "d"], PARTS) is None
    large = [*composed * MAX_SPLIT, *["other"] * (3 * MAX_SPLIT - 100)]
    assert PartEditor.for_pool(large, PARTS) is not None
    assert PartEditor.for_pool([*large, *["other"] * 400], PARTS) is None


def test_lists_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lists.json"
    file.write_text(json.dumps({"other": {"instructions": ["x"]}, "mine": PARTS}))
    for kind in (None, "mine"):
        assert PartEditor.for_pool(["Rhyme.", "Task: Rhyme."], file, kind) is not None
    assert PartEditor.for_pool(["Rhyme."], file, "other") is None
    with pytest.raises(ConfigError, match="no table 'none'"):
        PartEditor.for_pool(["Rhyme."], file, "none")
    file.write_text(json.dumps(PARTS))
    assert PartEditor.for_pool(["Rhyme."], file) is not None
    file.write_text(json.dumps({"mine": 3}))
    with pytest.raises(ConfigError, match="mine"):
        PartEditor.for_pool(["Rhyme."], file)


def test_malformed_parts_and_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="instructions are missing"):
        PartEditor({"roles": ["a"]})
    with pytest.raises(ConfigError, match="unknown key 'role'"):
        PartEditor({"role": ["a"], "instructions": ["b"]})
    with pytest.raises(ConfigError, match="n must be an integer"):
        write("Rhyme.", n=-1)


def test_parents_of_any_form_are_no_harm() -> None:
    hostile = [
        "x" * 10**6,
        "\u202eTask: Rhyme.",
        '"Task: \\"Rhyme.\\""',
        "Task: {input}",
        "Task: \ud800",
        "\0",
    ]
    assert write(*hostile) == []
