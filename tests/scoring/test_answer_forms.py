"""Exact match on answers with an explanation, reasoning before them, JSON, or units."""

from __future__ import annotations

import pytest

from zopo_fast.scoring import metrics
from zopo_fast.scoring.metrics.documents import json_value
from zopo_fast.scoring.metrics.endings import last_announced

EXPLAINED = [
    ("Yes, because it rains.", "Yes", 1),
    ("No, it is not.", "no", 1),
    ("Yes — same", "yes", 1),
    ("Yes - it rains", "yes", 1),
    ("Yes: it rains", "yes", 1),
    ("**Yes**, it does.", "yes", 1),
    ("True, since x", "True", 1),
    ("Entailment, because it follows", "entailment", 1),
    ("Positive (the reviewer liked it)", "positive", 1),
    ("Positive, it praises the food.", "negative", 0),
    ("Positive, but it is short", "positive", 1),
    ("是，因为", "是", 1),
    ("نعم، لأن", "نعم", 1),
    ("सही।", "सही", 1),
    ("सही। क्योंकि", "सही", 1),
    ("Paris, France", "Paris", 0),
    ("positive, negative", "positive", 0),
    ("positive, as well as negative", "positive", 0),
    ("yes and no", "yes", 0),
    ("Yes, no", "yes", 0),
    ("Yes, or no", "yes", 0),
    ("Yes and no, because it depends", "yes", 0),
    ("Paris - France", "Paris", 0),
    ("No-show, because he slept", "no", 0),
    ("3:30, because it is late", "3", 0),
]
FINAL = [
    ("Step 1: 2+2=4.\nStep 2: 4*2=8.\nThe answer is 8.", "8", 1),
    ("So 3+5=8.\n\nThe answer is **8**.", "8", 1),
    ("Let me see.\nTherefore, the answer is 8.", "8", 1),
    ("Let me see. So, the final answer is 8", "8", 1),
    ("Final Answer: The final answer is $8$. I hope it is correct.", "8", 1),
    ("Let me see.\n### Answer\n8", "8", 1),
    ("Let me see.\n\nFinal Answer\n8", "8", 1),
    ("Let me see. **Answer: 8**", "8", 1),
    ("The answer is 8.", "8", 1),
    ("The answer is not 8.", "8", 0),
    ("The answer is 8 or 9.", "8", 0),
]
DOCUMENTS = [
    ('{"explanation": "negative", "sentiment": "positive"}', "positive", 1),
    ('{"sentiment": "positive", "confidence": 0.9}', "positive", 1),
    ('{"category": "sports", "rationale": "a ball"}', "sports", 1),
    ('{"choice": "x", "why": "y"}', "x", 1),
    ('{"choice": "x", "why": "y"}', "y", 0),
    ('{"language": "French", "reason": "le"}', "French", 1),
    ('{"subject": "x", "object": "y"}', "x", 0),
    ('{"result": {"answer": "x"}}', "x", 1),
    ('{"result": {"answer": {"value": 8}}}', "8", 1),
    ('Reasoning: x\n{"answer": "8"}', "8", 1),
    ('Reasoning {a}: x\n{"answer": "8"}', "8", 1),
    ('{"answer": "8"} Hope this helps', "8", 1),
    ('Here it is:\n{"answer": "8", "steps": {"a": 1}}', "8", 1),
    ('{"a":1,"b":2}', '{"b": 2, "a": 1}', 1),
    ('```json\n{"a": [1, 2]}\n```', '{"a":[1,2]}', 1),
    ('{"a": 1}', '{"a": 2}', 0),
    ('{"a": true}', '{"a": 1}', 0),
    ('{"a": [1, 2]}', '{"a": [2, 1]}', 0),
]

NUMBERS = [
    ("42 USD", "42", 1),
    ("USD 42", "42", 1),
    ("EUR 5", "5", 1),
    ("Rs. 500", "500", 1),
    ("42 USD", "42 EUR", 0),
    ("42", "42 USD", 0),
    ("42 USD", "43", 0),
    ("\\boxed{42\\%}", "42", 1),
    ("\\boxed{\\$42}", "42", 1),
    ("So it is \\boxed{42\\%}.", "42%", 1),
    ("5km", "5 km", 1),
    ("5 km", "5km", 1),
    ("5km", "5 miles", 0),
    ("5km", "5", 0),
    ("25°C", "25 °C", 1),
    ("25°C", "25 °F", 0),
    ("5:30pm", "5:30 pm", 1),
    ("5:30pm", "5:30 am", 0),
    ("100km/h", "100 km/h", 1),
    ("1.234.567", "1234567", 1),
    ("1.234", "1234", 0),
    ("1.2.3", "123", 0),
    ("100 200", "100200", 0),
    ("100200", "100 200", 0),
    ("100 000", "100000", 1),
    ("100 200 300", "100200300", 1),
    ("1 234", "1234", 1),
    ("100\u202f200", "100200", 1),
    ("\u2212", "-", 1),
    ("\u2014", "+", 0),
]
ABBREVIATIONS = [
    ("Apple Inc. It makes phones.", "Apple Inc.", 1),
    ("Apple Inc. It makes phones.", "Apple Inc", 1),
    ("U.S. It is big.", "U.S.", 1),
    ("10 a.m. That is early.", "10 a.m.", 1),
    ("U.S. Army", "U.S.", 0),
    ("2 a.m. Monday", "2 a.m.", 0),
    ("Dr. Watson", "Dr.", 0),
    ("U.S. It is big.", "U.K.", 0),
]


@pytest.mark.parametrize(
    ("answer", "reference", "expected"), [*EXPLAINED, *FINAL, *DOCUMENTS, *NUMBERS, *ABBREVIATIONS]
)
def test_exact_match(answer: str, reference: str, expected: float) -> None:
    assert metrics.exact_match(answer, reference) == expected


def test_json_nested_beyond_the_limit_holds_no_value() -> None:
    nested = '"x"'
    for depth in range(1, 8):
        nested = f'{{"answer": {nested}}}'
        assert json_value(nested) == ("x" if depth <= 4 else None)


def test_an_announcement_repeated_in_its_own_line_is_left_out() -> None:
    found = last_announced("Step 1.\nFinal Answer: The final answer is $8$. I hope it is correct.")
    assert found is not None
    assert found.startswith("$8$")
