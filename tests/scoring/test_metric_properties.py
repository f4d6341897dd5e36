"""Properties of the metrics: reflexive, symmetric where they can be, and normal forms that stay."""

from __future__ import annotations

import unicodedata
from itertools import product

from hypothesis import example, given, strategies as st

from zopo_fast._utils import text
from zopo_fast.scoring import metrics
from zopo_fast.scoring.metrics import tokens

TEXTS = st.one_of(
    st.text(max_size=30),
    st.text("aA1.-_,' \n\u2212\u2014\u0130\u0307\u0301$%()[]{}\"`*<>\\:0é北กั", max_size=30),
    st.lists(
        st.sampled_from(
            [
                "U.S.", "1,234", "$5", "42 %", "Dr.", "a", "B)", "Answer:", "\\boxed{", "}", "```", "\n",
                '{"a": 1}', "and", "北京", "-", "１", "...", "<answer>", "</answer>", "**",
            ]
        ),
        max_size=8,
    ).map(" ".join),
)  # fmt: skip


@given(st.sampled_from(sorted(metrics.METRICS)), TEXTS)
@example("multiple_choice", "A and B")
@example("contains", "...")
def test_every_text_equals_itself(name: str, text: str) -> None:
    assert metrics.METRICS[name](text, text) == 1


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_without_markup(answer: str, reference: str) -> None:
    bare = [unit for unit in "$%<>\\`" if unit in answer + reference]
    if not bare and bool(tokens.tokens(answer)) == bool(tokens.tokens(reference)):
        assert metrics.f1(answer, reference) == metrics.f1(reference, answer)


@given(TEXTS)
def test_tokens_of_tokens_are_the_same(given: str) -> None:
    # A sign joins the number before it: "5 %" is one token.
    bare = "".join(c for c in text.nfkc(given) if c not in "%‰" and unicodedata.category(c) != "Sc")
    once = tokens.tokens(bare)
    assert tokens.tokens(" ".join(once)) == once


@given(TEXTS)
def test_case_and_blanks_and_marks_at_the_ends_do_not_matter(text: str) -> None:
    wanted = tokens.tokens(text)
    assert tokens.tokens(f" {text} ") == wanted
    if text.isascii():
        assert tokens.tokens(text.upper()) == wanted


@given(st.integers(-(10**12), 10**12))
def test_a_number_equals_all_its_forms(number: int) -> None:
    forms = [f"{number}", f"{number:,}", f"{number}.00", f"{number:,}.0", f"{number}e0", f"{number:.15e}"]
    forms += [form.replace("-", "\u2212") for form in forms]
    for first, second in product(forms, repeat=2):
        assert metrics.exact_match(first, second) == 1
    for form in forms:
        assert metrics.exact_match(f"{form}%", f"{number}") == 1
        assert metrics.exact_match(f"{form}", f"{number}%") == 0
        assert metrics.exact_match(form, f"{number + 1}") == 0
        assert metrics.contains(f"It is {form}.", str(number)) == 1


@given(st.text())
def test_the_linear_time_compatibility_form_is_nfkc(given: str) -> None:
    assert text.nfkc(given) == unicodedata.normalize("NFKC", given)
