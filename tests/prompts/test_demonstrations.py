"""Prompts with demonstrations as one text: rendering and splitting, sets, features, and candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.prompts.pool import normalise
from zopo_fast.prompts.writing.demonstrations import (
    MAX_CANDIDATES,
    MIN_PAIRS,
    SIZES,
    DemonstrationSpace,
    initial_pairs,
    layout_of,
    messages_of,
)
from zopo_fast.tasks.template import TEMPLATES, resolve

LABELS = ("sports", "business", "science", "politics")
RESERVE = tuple(zf.Example(f"headline {i}", (LABELS[i % 4], "other")) for i in range(16))
WORDS = tuple(zf.Example(f"word {i}", (f"answer {i}",)) for i in range(16))
OWN = "Name the section.\nUse one word."
FORMS = {
    "instruction": "Input: headline 1\n\nOutput: business",
    "system": "Input: headline 1\nOutput: business",
    "user": "Input: headline 1\nOutput: business",
    "{prompt}\nText: {input}\nAnswer:": "Text: headline 1\nAnswer: business",
    "{prompt}\nText: {input}\n->\n": "Text: headline 1\n->\nbusiness",
    "{prompt}\nText: {input}": "Text: headline 1\nOutput: business",
    "Text: {input}\n{prompt}": "Input: headline 1\nOutput: business",
}


@pytest.fixture(scope="module")
def space() -> DemonstrationSpace:
    return DemonstrationSpace(RESERVE, "instruction")


# ---- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", FORMS)
def test_a_demonstration_has_the_form_of_the_templates_input(template: str) -> None:
    assert DemonstrationSpace(RESERVE, template).blocks[1] == FORMS[template]


def test_a_demonstration_shows_the_columns_of_its_example() -> None:
    shots = [zf.Example("x", (f"a{i}",), {"question": f"Q{i}", "context": f"C{i}"}) for i in range(2)]
    found = DemonstrationSpace(shots, "{prompt}\n{context}\nQuestion: {question}\nAnswer: ")
    assert found.blocks == ("C0\nQuestion: Q0\nAnswer: a0", "C1\nQuestion: Q1\nAnswer: a1")


def test_the_model_sees_what_fixed_demonstrations_show(space: DemonstrationSpace) -> None:
    layout = TEMPLATES["instruction"]
    shots = [RESERVE[2], RESERVE[5]]
    assert layout.render(space.render(OWN, (2, 5)), "new") == layout.render(OWN, "new", shots)


@pytest.mark.parametrize("template", FORMS)
def test_split_is_the_inverse_of_render(template: str) -> None:
    space = DemonstrationSpace(RESERVE, template)
    for chosen in ((), (0,), (3, 1), *space.sets):
        text = space.render(OWN, chosen)
        assert normalise(text) == text
        assert space.split(text) == (OWN, chosen)


def test_texts_of_any_form_survive_render_and_split() -> None:
    odd = ["a  b\r\n\r\n c ", "é\u0301", "Input: x\n\nOutput: y", "{input} [PROMPT]", "\u2028line", " "]
    reserve = [zf.Example(text, (f"{text} {i}",)) for i, text in enumerate(odd)]
    space = DemonstrationSpace(reserve, "user")
    for chosen in space.sets:
        text = space.render("  An\u2028instruction \n\n Input: x ", chosen)
        assert normalise(text) == text
        assert space.split(text) == ("An\ninstruction\n\n Input: x", chosen)


def test_a_text_that_ends_with_another_one_is_not_shown() -> None:
    inner = "Input: a\n\nOutput: b"
    reserve = [zf.Example("a", ("b",)), zf.Example("c", (f"d\n\n{inner}",)), zf.Example("e", ("f",))]
    assert DemonstrationSpace(reserve, "instruction").outputs == ("b", "f")


def test_repeats_and_long_examples_are_not_shown() -> None:
    reserve = [*RESERVE[:3], RESERVE[0], zf.Example("x" * 500, ("long",))]
    assert len(DemonstrationSpace(reserve, "instruction", max_characters=400).blocks) == 3
    with pytest.raises(zf.TaskError, match=r"1 of 2 examples .* at least 2 are needed"):
        DemonstrationSpace([RESERVE[0], RESERVE[0]], "instruction")


def test_whole_templates_have_no_end_for_demonstrations() -> None:
    with pytest.raises(zf.ConfigError, match="whole templates"):
        DemonstrationSpace(RESERVE, resolve("variables"))


# ---- sets ------------------------------------------------------------------------------------------


def test_sets_have_four_sizes_and_all_labels(space: DemonstrationSpace) -> None:
    assert Counter(map(len, space.sets)) == dict.fromkeys(SIZES, 6)
    assert len(set(space.sets)) == len(space.sets)
    for chosen in space.sets:
        counts = Counter(space.outputs[i] for i in chosen)
        assert list(chosen) == sorted(set(chosen))
        assert len(counts) == min(4, len(chosen))
        assert max(counts.values()) - min(counts.values()) == 0
    assert space.sets == DemonstrationSpace(RESERVE, "instruction").sets
    assert space.sets != DemonstrationSpace(RESERVE, "instruction", seed=1).sets


def test_sets_of_outputs_that_are_no_labels_are_random() -> None:
    shown = Counter(i for chosen in DemonstrationSpace(WORDS, "user").sets for i in chosen)
    assert len(shown) > 12


def test_a_small_reserve_has_its_few_sets() -> None:
    assert DemonstrationSpace(WORDS[:2], "user").sets == ((0,), (1,), (0, 1)) or DemonstrationSpace(
        WORDS[:2], "user"
    ).sets == ((1,), (0,), (0, 1))


def test_sets_stay_below_the_cap() -> None:
    space = DemonstrationSpace(WORDS, "user", max_characters=120)
    longest = max(sum(len(space.blocks[i]) for i in chosen) for chosen in space.sets)
    assert longest <= 120
    assert sum(len(space.blocks[i]) for i in space.longest) >= longest
    assert len(space.longest) >= max(map(len, space.sets))
    assert {len(chosen) for chosen in space.sets} == {1, 2, 4}


# ---- features --------------------------------------------------------------------------------------


def test_linear_features_say_whether_how_many_and_which(space: DemonstrationSpace) -> None:
    rows = space.linear([OWN, space.render(OWN, (3,)), space.render("Other.", (0, 1, 2, 5))])
    assert (rows.shape, rows.dtype) == ((3, 18), np.float32)
    assert not rows[0].any()
    np.testing.assert_allclose(rows[1:, 0], 1.0)
    np.testing.assert_allclose(rows[1:, 1], [-0.5, 0.5 * (2 / 1.5 - 1.0)], rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(rows[1, 2:]), [3])
    np.testing.assert_array_equal(np.flatnonzero(rows[2, 2:]), [0, 1, 2, 5])
    np.testing.assert_allclose(np.linalg.norm(rows[1:, 2:], axis=1), 0.5, rtol=1e-6)


# ---- candidates ------------------------------------------------------------------------------------


def test_a_pool_keeps_its_prompts_and_gets_four_sets_for_each(space: DemonstrationSpace) -> None:
    prompts = [f"Name section {i}." for i in range(50)]
    pairs = initial_pairs(prompts, space, seed=3)
    assert list(pairs.prompts[:50]) == prompts
    assert (pairs.own, len(pairs.prompts), len(set(pairs.prompts))) == (50, 250, 250)
    assert Counter(pairs.origins) == dict.fromkeys(range(50), 5)
    split = [space.split(text) for text in pairs.prompts]
    assert [instruction for instruction, _ in split] == [prompts[i] for i in pairs.origins]
    uses = Counter(chosen for _, chosen in split[50:])
    assert set(uses) == set(space.sets)
    assert max(uses.values()) - min(uses.values()) <= 2
    assert pairs == initial_pairs(prompts, space, seed=3)


@pytest.mark.parametrize(("size", "total"), [(300, MAX_CANDIDATES), (1000, 1000 + MIN_PAIRS)])
def test_candidates_are_bounded(space: DemonstrationSpace, size: int, total: int) -> None:
    assert len(initial_pairs([f"Prompt {i}." for i in range(size)], space).prompts) == total


def test_a_pool_that_holds_demonstrations_gets_others_and_no_repeats(space: DemonstrationSpace) -> None:
    pairs = initial_pairs([space.render(OWN, chosen) for chosen in space.sets], space)
    assert pairs.own == len(pairs.prompts)  # each set is there
    pairs = initial_pairs([space.render(OWN, space.sets[0]), "Other."], space)
    assert {space.split(text)[0] for text in pairs.prompts[2:]} == {OWN, "Other."}


def test_the_start_asks_the_same_instructions_with_and_without(space: DemonstrationSpace) -> None:
    prompts = [f"Name section {i}." for i in range(50)]
    pairs = initial_pairs(prompts, space)
    asked = pairs.first([7, 3, 40, 12, 0], space)
    assert asked[:5] == [7, 3, 40, 12, 0]
    assert [pairs.origins[i] for i in asked[5:]] == [7, 3, 40]
    sizes = [len(space.split(pairs.prompts[i])[1]) for i in asked[5:]]
    assert len(set(sizes)) == 3 or sizes[0] == max(sizes)
    # In a pool of a thousand, few prompts have sets: the start takes them in.
    prompts = [f"Name section {i}." for i in range(2000)]
    pairs = initial_pairs(prompts, space)
    bare = [i for i in range(2000) if i not in pairs.origins[2000:]][:5]
    asked = pairs.first(bare, space)
    assert len(asked) == 11
    assert [pairs.origins[i] for i in asked[6::2]] == asked[5::2]


def test_a_template_shows_the_demonstrations_of_a_prompt_as_turns() -> None:
    task = zf.Task("t", WORDS[:3], template="user", reserve=WORDS)
    space = DemonstrationSpace(WORDS, task.template)
    text = space.render("Name it.", (2, 0))
    messages = layout_of(task).render(text, "here")
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [messages[1]["content"], messages[3]["content"]] == [space.outputs[2], space.outputs[0]]
    assert all("Name it." in message["content"] for message in messages[::2])
    assert [messages[-1]] == layout_of(task).render("Name it.", "here")
    [shown] = layout_of(replace(task, template="instruction")).render(text, "here")
    assert text in shown["content"]
    assert messages_of(task, text)[-1]["content"].count("{input}") == 1
    assert layout_of(zf.Task("t", WORDS)) == resolve("instruction")
