"""Answers to the two questions that generation asks, in the manner of several families of models."""

from __future__ import annotations

import pytest

from zopo_fast.prompts import cleaning

ANSWERS = [
    (
        'The instruction was likely: **"Provide the antonym of the given word."**',
        "Provide the antonym of the given word.",
    ),
    (
        'The instruction was likely something like: "Provide the opposite of the given word."',
        "Provide the opposite of the given word.",
    ),
    (
        'The instruction given to your friend might have been: "Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    ("The instruction was to provide the antonym of each word.", "provide the antonym of each word."),
    (
        'The instruction was: "For each input word, provide its antonym."',
        "For each input word, provide its antonym.",
    ),
    (
        'The instruction was to "Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    (
        (
            "Based on these input-output pairs, the instruction appears to be:\n\n**Write the antonym "
            "of the given word.**\n\nEach output is the direct opposite of its input."
        ),
        "Write the antonym of the given word.",
    ),
    ("# Instruction\n\nWrite the antonym of the given word.", "Write the antonym of the given word."),
    (
        (
            "Looking at these pairs, I can see a pattern:\n- hot → cold\n- up → down\n\nThe "
            "instruction was:\n\n> Write the antonym of the given word."
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            'The instruction was most likely:\n\n**"Write the antonym of the given word."**\n\nThis '
            "fits because:\n- hot → cold\n- up → down"
        ),
        "Write the antonym of the given word.",
    ),
    (
        'The instruction was: "Write the antonym of the given word."\n\nLet me know if I\'m correct!',
        "Write the antonym of the given word.",
    ),
    (
        (
            "What a delightful puzzle! \n\nAfter analyzing the input-output pairs, I think the "
            'instruction was:\n\n"Write the antonym of the given word."\n\nIs that correct?'
        ),
        "Write the antonym of the given word.",
    ),
    (
        'Here is a variation of the instruction:\n\n"Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    (
        (
            "Here's a rewritten version of the instruction that a child can understand:\n\n\"Write the "
            'antonym of the given word."\n\nOr:\n\n"Say the opposite!"'
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            " The instruction was to write the antonym of the given word. For example, the antonym of "
            '"hot" is "cold".'
        ),
        'write the antonym of the given word. For example, the antonym of "hot" is "cold".',
    ),
    (
        "Instruction: Write the antonym of the given word.\n\nExplanation: I simplified it.",
        "Write the antonym of the given word.",
    ),
    ("New Instruction: Write the antonym of the given word.", "Write the antonym of the given word."),
    (
        "**New Instruction:**  \nWrite the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ("```\nWrite the antonym of the given word.\n```", "Write the antonym of the given word."),
    (
        "```markdown\n# Instruction\nWrite the antonym of the given word.\n```",
        "Write the antonym of the given word.",
    ),
    (
        (
            "Okay, here's a breakdown of the pattern:\n\n* **hot** -> **cold**\n\nTherefore, the "
            "instruction was likely: **Write the antonym of the given word.**"
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            'Here\'s a simple version:\n\n"Write the antonym of the given word."\n\n**Explanation for '
            "the child:**\n..."
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            "Here are a few options, playing with different tones:\n\n**Option 1 (Formal):**\n\n> "
            "Write the antonym of the given word.\n\n**Option 2 (Casual):**\n\n> Say the opposite."
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            "Here are a few variations:\n\n* Write the antonym of the given word.\n* Say the "
            "opposite.\n\nWhich one do you prefer?"
        ),
        "Write the antonym of the given word.",
    ),
    (
        "Write the antonym of the given word.  \n\n(Alternatively: Say the opposite.)",
        "Write the antonym of the given word.",
    ),
    (
        "**Instruction:**  \n*Write the antonym of the given word.*",
        "Write the antonym of the given word.",
    ),
    (
        '"Write the antonym of the given word."  \n\nThis version maintains the original intent.',
        "Write the antonym of the given word.",
    ),
    ("\\boxed{Write the antonym of the given word.}", "Write the antonym of the given word."),
    (
        "The instruction was \n\nWrite the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    (
        "Instruction 1: Write the antonym of the given word.\nInstruction 2: Say the opposite.",
        "Write the antonym of the given word.",
    ),
    ("Rewritten: Write the antonym of the given word.", "Write the antonym of the given word."),
    ("Revised: Write the antonym of the given word.", "Write the antonym of the given word."),
    ("Variation:\nWrite the antonym of the given word.", "Write the antonym of the given word."),
    (
        "Child-friendly version: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    (
        "Simplified Instruction: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ('Shorter version:\n"Write the antonym of the given word."', "Write the antonym of the given word."),
    (
        "The rewritten instruction is: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    (
        'The new instruction would be: "Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    (
        "One possible variation could be: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ('You could say: "Write the antonym of the given word."', "Write the antonym of the given word."),
    ("In other words: Write the antonym of the given word.", "Write the antonym of the given word."),
    ("Answer: Write the antonym of the given word.", "Write the antonym of the given word."),
    (
        '{"task": "antonyms", "instruction": "Write the antonym of the given word."}',
        "Write the antonym of the given word.",
    ),
    ('{"variation": "Write the antonym of the given word."}', "Write the antonym of the given word."),
    (
        '{"role": "assistant", "content": "Write the antonym of the given word."}',
        "Write the antonym of the given word.",
    ),
    (
        '{"instruction": "Write the antonym of the given word.", "rules": ["One word."]}',
        "Write the antonym of the given word.",
    ),
    (
        (
            "Write the antonym.\n\nRules:\n1. One word.\n2. Lower case.\n\nExamples:\nhot -> cold\n\n"
            "Feel free to adapt it."
        ),
        "Write the antonym.\n\nRules:\n1. One word.\n2. Lower case.\n\nExamples:\nhot -> cold",
    ),
    (
        "**Task:** Write the antonym.\n\n**Format:** one word.",
        "Write the antonym.\n\n**Format:** one word.",
    ),
    (
        (
            'Certainly! Here is the instruction that would lead to these outputs:\n\n"Write the '
            'antonym of the given word."'
        ),
        "Write the antonym of the given word.",
    ),
    (
        (
            "Sure! Based on the pairs, here's what the instruction was:\n\n**\"Write the antonym of "
            'the given word."**'
        ),
        "Write the antonym of the given word.",
    ),
    (
        "I think the instruction was to write the antonym of the given word.",
        "write the antonym of the given word.",
    ),
    (
        "I believe the instruction was: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    (
        'It appears that the instruction was "Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    (
        'From the pairs, we can infer that the instruction was: "Write the antonym of the given word."',
        "Write the antonym of the given word.",
    ),
    (
        "After analyzing the pairs, the instruction is likely:\n\nWrite the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ("The task was to write the antonym of the given word.", "write the antonym of the given word."),
    (
        "The instruction was: 1. Read the word. 2. Write the antonym.",
        "1. Read the word. 2. Write the antonym.",
    ),
    (
        "The instruction is:\n\n1. Read the word.\n2. Write the antonym.",
        "1. Read the word.\n2. Write the antonym.",
    ),
    (
        (
            "**Instruction:**\n\nClassify the review.\n\n**Rules:**\n1. One word.\n2. Lower case.\n\n"
            "**Example:**\nInput: good\nOutput: positive"
        ),
        (
            "Classify the review.\n\n**Rules:**\n1. One word.\n2. Lower case.\n\n**Example:**\nInput: "
            "good\nOutput: positive"
        ),
    ),
    (
        (
            "Here's the rewritten instruction:\n\n---\n\nClassify the review.\n\n---\n\nLet me know if "
            "you'd like any changes!"
        ),
        "Classify the review.",
    ),
    (
        (
            "Here is the revised prompt:\n\n```\nClassify the review.\n\nRules:\n- One word.\n```\n\n"
            "This prompt is clearer because it lists rules."
        ),
        "Classify the review.\n\nRules:\n- One word.",
    ),
    (
        '{\n  "instruction": "Classify the review.\\n\\nRules:\\n1. One word."\n}',
        "Classify the review.\n\nRules:\n1. One word.",
    ),
    (
        '```json\n[\n  "Write the antonym of the given word.",\n  "Say the opposite."\n]\n```',
        "Write the antonym of the given word.",
    ),
    (
        (
            'Here are the instructions in JSON:\n[{"instruction": "Write the antonym of the given '
            'word."}, {"instruction": "x"}]'
        ),
        "Write the antonym of the given word.",
    ),
    ('"instruction": "Write the antonym of the given word."', "Write the antonym of the given word."),
    (
        'Rewritten Instruction:\n"Write the antonym of the given word."\n\nKey changes:\n- shorter',
        "Write the antonym of the given word.",
    ),
    (
        "1) Write the antonym of the given word.\n2) Say the opposite.",
        "Write the antonym of the given word.",
    ),
    (
        "Possible instructions:\n1. Write the antonym of the given word.\n2. Say the opposite.",
        "Write the antonym of the given word.",
    ),
    (
        "Write the antonym of the given word.\n\n---\nThis rewrite keeps the meaning.",
        "Write the antonym of the given word.",
    ),
    (
        "Write the antonym of the given word.\n\nOR\n\nSay the opposite.",
        "Write the antonym of the given word.",
    ),
    (
        '"Write the antonym of the given word." – This is a clear and concise instruction.',
        "Write the antonym of the given word.",
    ),
    ("'Write the antonym of the given word.'", "Write the antonym of the given word."),
    ("«Write the antonym of the given word.»", "Write the antonym of the given word."),
    ("Instruction : Write the antonym of the given word.", "Write the antonym of the given word."),
    ("INSTRUCTION: Write the antonym of the given word.", "Write the antonym of the given word."),
    ("Instruction - Write the antonym of the given word.", "Write the antonym of the given word."),
    ("Instruction\nWrite the antonym of the given word.", "Write the antonym of the given word."),
    ("[Instruction] Write the antonym of the given word.", "Write the antonym of the given word."),
    (
        "The instruction was: Identify the antonym.\n\nExplanation: In each pair...",
        "Identify the antonym.",
    ),
    (
        "Answer: The instruction was to write the antonym of the given word.",
        "write the antonym of the given word.",
    ),
    ("Sure!\n\nWrite the antonym of the given word.", "Write the antonym of the given word."),
    (
        "Sure, here you go:\n\nWrite the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ("Sure. Write the antonym of the given word.", "Write the antonym of the given word."),
    (
        "Yes, the instruction was to write the antonym of the given word.",
        "write the antonym of the given word.",
    ),
    (
        "The friend was instructed to write the antonym of the given word.",
        "write the antonym of the given word.",
    ),
    (
        "Your friend's instruction was: Write the antonym of the given word.",
        "Write the antonym of the given word.",
    ),
    ("指令是：写出反义词。", "写出反义词。"),
    ("根据输入输出对，指令是：\n\n写出给定词的反义词。", "写出给定词的反义词。"),
    ("La instrucción fue: Escribe el antónimo.", "Escribe el antónimo."),
    ("Voici l'instruction :\n\nÉcris l'antonyme.", "Écris l'antonyme."),
    ("Die Anweisung war: Schreibe das Gegenteil.", "Schreibe das Gegenteil."),
    ("Hier ist die Anweisung:\n\nSchreibe das Gegenteil.", "Schreibe das Gegenteil."),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_the_instruction_of_an_answer(answer: str, expected: str) -> None:
    assert cleaning.clean(answer) == expected
    assert not cleaning.is_refused(answer)
