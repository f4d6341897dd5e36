"""Output formats, steps and prompts about refusals, which stay; alternatives and refusals, which go."""

from __future__ import annotations

import pytest

from zopo_fast.prompts.cleaning import clean

FORMATS = [
    "Write two lines:\nReasoning: one sentence\nLabel: positive or negative",
    "Explain it.\n\nOutput format:\nLabel: <label>\nExplanation: <one sentence>",
    "Explain.\n\n**Explanation:** two sentences\n**Label:** one word",
    "Label it.\n\nReasoning: think step by step before answering.",
    "Label it.\n\nExplanation: give one sentence after the label.",
    "Label it.\n\nExplanation: the reason why it fits.",
    "Label it. (Answer with one word.)",
    "Return three fields.\n\nSummary: ...\nRationale: ...\nScore: ...",
    "Label it.\n\nNote: answer in lower case.",
    "Write a dialogue:\nUser: a question\nAssistant: an answer",
]
STEPS = [
    "1. Read the text.\n2. Decide whether it is positive or negative.\n3. Write only that word.",
    "1. First, read the input.\n2. Then, output its antonym.",
    "1. Find the verb.\n2. Put it in the past tense.\n3. Write it.",
    "1. Count the vowels.\n2. Add the number of consonants.\n3. Output the sum.",
    "1. If the review is positive, write 1.\n2. If the review is negative, write 0.",
    "1. Name the mood.\n2. Write nothing else.",
    "- Answer in one word.\n- Use lower case.",
]
ABOUT_REFUSALS = [
    '"I cannot" counts as refusal; label each text.',
    "'I cannot help' is a refusal; label it.",
    "I cannot stress enough: answer with one word. Classify the review.",
    'There is not enough information in some inputs; answer "unknown" for those.',
    "I don't speak German. Translate the text to English.",
    "抱歉的评论标为负面。",
    "Please provide the sentiment of the text.",
]


@pytest.mark.parametrize("prompt", [*FORMATS, *STEPS, *ABOUT_REFUSALS])
def test_a_prompt_that_stays_as_it_is(prompt: str) -> None:
    assert clean(prompt) == prompt


@pytest.mark.parametrize(
    "answer",
    [
        '{"instruction": "1. Read the text.\\n2. Label it."}',
        '```json\n{"instruction": "1. Read the text.\\n2. Label it."}\n```',
        "<instruction>1. Read the text.\n2. Label it.</instruction>",
    ],
)
def test_one_field_holds_one_instruction(answer: str) -> None:
    assert clean(answer) == "1. Read the text.\n2. Label it."


@pytest.mark.parametrize(
    "answer",
    [
        "1. Name the sentiment of the text.\n2. Determine the mood of the review.\n3. Label it.",
        "1. Name the sentiment of the text.\n2. Output only the sentiment label.",
        "Here are two variations:\n\n1. Name the sentiment of the text.\n2. Then name the mood.",
        "### Variation 1\nName the sentiment of the text.\n\n### Variation 2\nLabel the review.",
        "**1. Formal:** Name the sentiment of the text.\n\n**2. Casual:** Label it.",
        "Name the sentiment of the text.\n\n---\n\n**Alternative:** Label it.",
        "Name the sentiment of the text.\n\n(Note: other phrasing possible.)",
        "Name the sentiment of the text.\n\nNote: This instruction is short.",
        "Name the sentiment of the text.\n\nExplanation: This prompt asks for a label.",
        "Let's think: the outputs are moods. So the instruction is: Name the sentiment of the text.",
        "Name the sentiment of the text. (Note: other phrasings are possible.)",
        "What a great set of examples! Name the sentiment of the text.",
        "The outputs are moods. So the instruction is: Name the sentiment of the text.",
        "1. **Formal:** Name the sentiment of the text.\n2. **Casual:** Label it.",
        "Great question! Name the sentiment of the text.",
        "Assistant: Name the sentiment of the text.",
    ],
)
def test_the_first_of_alternatives_without_remarks(answer: str) -> None:
    assert clean(answer) == "Name the sentiment of the text."


def test_outer_quotes_around_quotes() -> None:
    assert clean('"Label it as "positive" or "negative"."') == 'Label it as "positive" or "negative".'
    assert clean("“Write “yes” or “no”.”") == "Write “yes” or “no”."
    assert clean('"Yes" if it is "good"') == '"Yes" if it is "good"'


@pytest.mark.parametrize(
    "answer",
    [
        "Ich kann die Anweisung nicht bestimmen.",
        "No puedo determinar la instrucción.",
        "Je ne peux pas répondre.",
        "Het spijt me, ik kan niet helpen.",
        "Przepraszam, nie mogę pomóc.",
        "Üzgünüm, yardımcı olamam.",
        "Xin lỗi, tôi không thể giúp.",
        "मैं क्षमा चाहता हूँ, मैं मदद नहीं कर सकता।",
        "عذرًا، لا أستطيع المساعدة.",
        "ขออภัย ฉันไม่สามารถช่วยได้",
        "Yardımcı olamam.",
        "ฉันไม่สามารถช่วยได้",
        "お手伝いできません。",
        "無法協助。",
        "I'm not comfortable with that.",
        "That's not something I can help with.",
        "I see no examples in your message.",
        "You haven't given me any examples.",
        "Thanks! What would you like me to do?",
        "I'd be happy to help! Please provide the text.",
        "Sure, but I need the examples first. Please share them.",
        "Thank you for sharing! However, I can't see any examples.",
        "We can't help with this request.",
        "I cannot help with that. Write to support instead.",
    ],
)
def test_a_refusal_is_no_prompt(answer: str) -> None:
    assert clean(answer) == ""
