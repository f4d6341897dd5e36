"""Refusals in place of an instruction, and instructions that resemble refusals, lead-ins or remarks."""

from __future__ import annotations

import pytest

from zopo_fast.prompts import cleaning

INTACT = [
    "Write a rhyme.",
    '"Good" or "bad"',
    "Answer with one word: positive or negative.",
    "Output only the word.",
    "3 words at most.",
    "Classify the review.\n\nRules:\n1. Answer with one word.\n2. Use lower case.",
    "You are a critic.\n\nClassify the review as positive or negative.\n\nOutput format: one word.",
    "Classify the text:\n\n- positive if happy\n- negative if sad\n\nReturn only the label.",
    "Write a rhyme.\n\nNote: answer in lower case.",
    "Follow these steps:\n1. Read the review.\n2. Output one word.",
    "Great reviews are positive. Classify the review.",
    "Given a review, classify it as positive or negative.",
    "Given the text, the task is to find its topic.",
    "The task is to classify the review.",
    "As an AI language model, classify the review.",
    "Based on the review, decide whether it is positive.",
    "If you cannot answer, say \"I'm sorry, but I can't\".",
    'Write an apology that begins with "I\'m sorry".',
    "Here are two words. Write a sentence with both.",
    "I want you to act as a critic.",
    "Let me know the sentiment of the review: positive or negative.",
    "Read the instruction below and follow it: {input}",
    "Translate: English to French",
    "Find the antonym of each word. For example, hot becomes cold.",
    "What is the capital of the country?",
    "Write Python code:\n\n```python\nprint(1)\n```\n\nReturn only code.",
    'Return JSON: {"label": "positive"}',
    "Put the answer in <answer></answer> tags.",
    "{input}\nClassify it.",
    "[Role] You are a critic.\nClassify.",
    "I gave my friend the instruction to write a rhyme.",
    "Let's play a game! Say the opposite of the word.",
    '"Write the antonym of the given word." or "Give the opposite."',
    "Rules: 1. Answer with one word. 2. Use lower case.",
    "## Role\nYou are a linguist.\n\n## Task\nWrite the antonym.\n\n## Output\nOne word.",
    "Please provide the antonym of the given word.",
    "Please give me the antonym of the word.",
    "Can you provide the antonym of the word?",
    "Could you give the opposite of each word?",
    "Can you tell me the capital of this country?",
    "I will give you a word. Write its antonym.",
    "I'll give you a review; classify it.",
    "I have a list of words. Sort them.",
    "I need the opposite of each word.",
    "I don't want explanations: write the antonym only.",
    "This is a review. Classify it as positive or negative.",
    "This prompt contains a word:\nwrite its antonym.",
    "Let's think step by step. Write the antonym.",
    "Your task is to write the antonym.",
    "The prompt is a word. Write its antonym.",
    "The input is a word: write its antonym.",
    "To answer, write the antonym.",
    "Is the review positive or negative?",
    "Unfortunately, some reviews are rude. Classify them.",
    "Sorry is an apology. Write another.",
    "Note: the answer is one word. Write the antonym.",
    "Write two versions of the sentence:\n1. formal\n2. informal",
    "Your friend was given a word. Write its opposite.",
]
REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't determine the exact instruction without more context.",
    "As an AI language model, I cannot determine the instruction.",
    "I cannot fulfill this request.",
    "I can't assist with that.",
    "I apologize, but I cannot provide that.",
    "Sorry, I can't do that.",
    "I’m sorry, but I can’t assist with that request.",
    "Unfortunately, I can't see the pairs.",
    "I am unable to help.",
    "Could you please provide the input-output pairs?",
    "抱歉，我无法回答。",
    "I'm an AI assistant and I don't know.",
    "As a large language model, I don't have access.",
    "I need more information to answer.",
    "I'm sorry, I can't assist with that.",
    "I'm sorry, but the pairs do not show a clear instruction.",
    "Sorry, but I cannot comply.",
    "I'm not able to determine the instruction.",
    "I don't have enough information to determine the instruction.",
    "It is not possible to determine the exact instruction from the given pairs.",
    "I can not do that",
    "As an AI, I'm not able to help with this.",
    "As an AI language model, I don't have personal opinions.",
    "I'm just a language model, so I can't help with that.",
    "I will not provide that.",
    "I'm really sorry, but I can't help.",
    "I regret to inform you that I cannot help.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Please provide the input-output pairs so I can determine the instruction.",
    "To help you, I need the original instruction. Could you share it?",
    "There doesn't seem to be an instruction here.",
    "I'm sorry for any confusion, but I can't help with that.",
    "Content policy violation: I cannot write that.",
]


@pytest.mark.parametrize("instruction", INTACT)
def test_an_instruction_stays_as_it_is(instruction: str) -> None:
    assert cleaning.clean(instruction) == instruction
    assert not cleaning.is_refused(instruction)


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_no_instruction(answer: str) -> None:
    assert cleaning.clean(answer) == ""
    assert cleaning.is_refused(answer)
