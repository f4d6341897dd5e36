"""Instructions in the answers of models: alone and whole, and refusals recognised."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from zopo_fast.prompts import cleaning
from zopo_fast.prompts.pool import normalise

WRAPPED = [
    ('"Write a rhyme."', "Write a rhyme."),
    ("“Write a rhyme.”", "Write a rhyme."),
    ("Instruction: Write a rhyme.", "Write a rhyme."),
    ('**Instruction:** "Write a rhyme."', "Write a rhyme."),
    ("The instruction was: 'Write a rhyme.'", "Write a rhyme."),
    ("The instruction was to write a rhyme.", "write a rhyme."),
    ("1. Write a rhyme.", "Write a rhyme."),
    ("- Write a rhyme.", "Write a rhyme."),
    (
        "Sure! Here is the new instruction:\n\nWrite a rhyme.\n\nThis keeps the meaning.",
        "Write a rhyme.",
    ),
    ("```text\nWrite a rhyme.\n```", "Write a rhyme."),
    ("Write a\n  rhyme  now.", "Write a\n  rhyme now."),
    ("Based on the input-output pairs, the instruction was:\n\nWrite a rhyme.", "Write a rhyme."),
    (
        'Based on the input-output pairs provided, the instruction was likely:\n\n"Write a rhyme."',
        "Write a rhyme.",
    ),
    (
        "Based on the pairs you've given, it appears the instruction was to write a rhyme.",
        "write a rhyme.",
    ),
    ("Based on the given examples, the instruction seems to be: **Write a rhyme.**", "Write a rhyme."),
    ('The instruction you gave your friend was: "Write a rhyme."', "Write a rhyme."),
    ("The instruction given to your friend was likely: Write a rhyme.", "Write a rhyme."),
    ('The instruction was likely "Write a rhyme."', "Write a rhyme."),
    ("The instruction was likely to write a rhyme.", "write a rhyme."),
    ('It seems that the instruction was: "Write a rhyme."', "Write a rhyme."),
    ("It looks like your friend was asked to write a rhyme.", "write a rhyme."),
    ("to write a rhyme.", "write a rhyme."),
    ("...to write a rhyme.", "write a rhyme."),
    ("### Instruction\nWrite a rhyme.", "Write a rhyme."),
    ("### Instruction:\nWrite a rhyme.\n\n### Response:\nhello", "Write a rhyme."),
    ("**Instruction**\n\nWrite a rhyme.", "Write a rhyme."),
    ("## New Instruction\n\nWrite a rhyme.", "Write a rhyme."),
    (
        (
            "# Rewritten Instruction\nClassify the review.\n\nRules:\n1. Answer with one word.\n2. Use "
            "lower case."
        ),
        "Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
    ),
    ("<instruction>Write a rhyme.</instruction>", "Write a rhyme."),
    (
        (
            "<instruction>\nClassify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower "
            "case.\n</instruction>\n\nLet me know if you need more."
        ),
        "Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
    ),
    ("Here is it:\n<prompt>Write a rhyme.</prompt>", "Write a rhyme."),
    ('{"instruction": "Write a rhyme."}', "Write a rhyme."),
    ('```json\n{"instruction": "Write a rhyme."}\n```', "Write a rhyme."),
    ('["Write a rhyme.", "Rhyme it."]', "Write a rhyme."),
    ('{"instructions": ["Write a rhyme.", "Rhyme it."]}', "Write a rhyme."),
    ('{"reasoning": "pairs rhyme", "instruction": "Write a rhyme."}', "Write a rhyme."),
    ("{'instruction': 'Write a rhyme.'}", "Write a rhyme."),
    (
        (
            'Sure! Here is the JSON:\n\n```json\n{"new_instruction": "Write a rhyme."}\n```\n\nI hope '
            "this helps!"
        ),
        "Write a rhyme.",
    ),
    ('{"instruction": "Write a rhyme.", "exp', "Write a rhyme."),
    ('[{"prompt": "Write a rhyme."}]', "Write a rhyme."),
    ('{"instruction": "Line one.\\nLine two."}', "Line one.\nLine two."),
    ('{"input": "x", "output": "y"}', "y"),
    ("Here's a variation:\n\nWrite a rhyme.", "Write a rhyme."),
    (
        'Here\'s a variation of the instruction:\n\n"Write a rhyme."\n\nI hope this helps!',
        "Write a rhyme.",
    ),
    ("Here's a variation: Write a rhyme.", "Write a rhyme."),
    (
        (
            "Certainly! Here's a rewritten version of the instruction:\n\n**Write a rhyme.**\n\nLet me "
            "know if you'd like another version."
        ),
        "Write a rhyme.",
    ),
    (
        "Sure, I can help with that. Here is the rephrased instruction:\n\nWrite a rhyme.",
        "Write a rhyme.",
    ),
    ('Of course! Here\'s the revised instruction: "Write a rhyme."', "Write a rhyme."),
    ("Okay, here's a shorter version:\n\n> Write a rhyme.", "Write a rhyme."),
    (
        "Instruction: Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
        "Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
    ),
    (
        (
            "Sure! Here is the instruction:\n\nClassify the review.\n\nRules:\n1. Answer with one "
            "word.\n2. Use lower case.\n\nThis instruction clearly explains the task."
        ),
        "Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
    ),
    ("Write a rhyme.\n\nExplanation: the outputs rhyme.", "Write a rhyme."),
    ("Write a rhyme.\n\n**Explanation:**\nThe outputs rhyme.\n\nMore.", "Write a rhyme."),
    ("Write a rhyme.\n\nLet me know if you need anything else!", "Write a rhyme."),
    ("Write a rhyme.\nI hope this helps.", "Write a rhyme."),
    ("Write a rhyme.\n\n(Note: I kept the meaning.)", "Write a rhyme."),
    ('"Write a rhyme for it." This keeps the meaning while being shorter.', "Write a rhyme for it."),
    ("1. Write a rhyme.\n2. Give a rhyming word.\n3. Rhyme it.", "Write a rhyme."),
    ("Here are three variations:\n\n1. Write a rhyme.\n2. Give a rhyming word.", "Write a rhyme."),
    ("Here are a few options:\n\n1. **Write a rhyme.**\n\n2. **Rhyme it.**", "Write a rhyme."),
    ("Option 1: Write a rhyme.\n\nOption 2: Rhyme it.", "Write a rhyme."),
    ("**Option 1:**\nWrite a rhyme.\n\n**Option 2:**\nRhyme it.", "Write a rhyme."),
    ("Variation 1: Write a rhyme.\nVariation 2: Rhyme it.", "Write a rhyme."),
    ("Here are 3 variations:\n\n- Write a rhyme.\n- Rhyme it.", "Write a rhyme."),
    (
        "Here is the instruction:\n\n1. Read the review.\n2. Output one word.",
        "1. Read the review.\n2. Output one word.",
    ),
    (
        "Instructions:\n1. Read the review.\n2. Output one word.",
        "1. Read the review.\n2. Output one word.",
    ),
    (
        "Looking at the pairs, each output is the antonym.\n\nInstruction: Write the antonym.",
        "Write the antonym.",
    ),
    (
        ("Let me analyze the pattern:\n- hot -> cold\n- up -> down\n\n**Instruction:** Write the antonym."),
        "Write the antonym.",
    ),
    ('The pairs show opposites.\n\n**The instruction was:** "Write the antonym."', "Write the antonym."),
    ("Write a rhyme.<|im_end|>", "Write a rhyme."),
    ("Write a rhyme.</s>", "Write a rhyme."),
    ("New instruction: Write a rhyme.", "Write a rhyme."),
    ("**New Instruction:** Write a rhyme.", "Write a rhyme."),
    ("Rewritten instruction (shorter): Write a rhyme.", "Write a rhyme."),
    ("Prompt: Write a rhyme.", "Write a rhyme."),
    ("More precise instruction: Write a rhyme.", "Write a rhyme."),
    ("Task: classify.", "classify."),
    ("I'm sorry for the confusion. Here is the new instruction:\n\nWrite a rhyme.", "Write a rhyme."),
    (
        (
            "I'm sorry, but I can't be certain. However, based on the pairs, the instruction was: "
            '"Write a rhyme."'
        ),
        "Write a rhyme.",
    ),
    ('The instruction could be: "Write a rhyme." or "Rhyme it."', '"Write a rhyme." or "Rhyme it."'),
    (
        (
            "Here is a variation of the instruction:\n\n---\n\nWrite a rhyme.\n\n---\n\nThis version "
            "is shorter."
        ),
        "Write a rhyme.",
    ),
    ("The instruction that produced these pairs was: Write a rhyme.", "Write a rhyme."),
    ('The most likely instruction is: "Write a rhyme."\n\nHere\'s why:\n- x', "Write a rhyme."),
    (
        "Write a rhyme.\n\nInput: cat\nOutput: hat\n\nI gave a friend an instruction.",
        "Write a rhyme.\n\nInput: cat\nOutput: hat",
    ),
]


@pytest.mark.parametrize(("answer", "expected"), WRAPPED)
def test_the_instruction_alone_and_whole(answer: str, expected: str) -> None:
    assert cleaning.clean(answer) == expected
    assert not cleaning.is_refused(answer)


@pytest.mark.parametrize("answer", ["", '""', "word " * 1000, "...", "{}", "[]", "```\n```", "**"])
def test_an_answer_without_an_instruction(answer: str) -> None:
    assert cleaning.clean(answer) == ""
    assert not cleaning.is_refused(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Write a", True),
        ("Sure! Here is the instruction:\n\nClassify.\n\nRules:\n1. Answer with", True),
        ("Write a rhyme.\n\nThis instruction keeps the mea", False),
        ("", False),
    ],
)
def test_a_cut_answer_may_hold_a_whole_instruction(answer: str, expected: bool) -> None:
    assert cleaning.reaches_end(answer) == expected


PARTS = [
    "Sure! ", "Instruction: ", "Here is it:\n", "\n\n", '"', "```", "1. ", "- ", "{", '{"prompt": "x"}', "**",
    "<prompt>", "</prompt>", "I'm sorry, but ", "Rules:", "Write it.", "Explanation: ", "# ", "> ",
    "Option 1: ",
]  # fmt: skip


@given(st.one_of(st.text(), st.lists(st.sampled_from(PARTS), max_size=10).map("".join)))
def test_what_is_found_is_normalised_and_stays(answer: str) -> None:
    found = cleaning.clean(answer)
    assert found == normalise(found)
    assert len(found) <= cleaning.MAX_INSTRUCTION_CHARACTERS
