"""What the built-in metrics take as equal, in the cases that real answers bring up."""

from __future__ import annotations

import unicodedata
from itertools import product

import pytest
from hypothesis import example, given, strategies as st

from zopo_fast._utils import text
from zopo_fast.scoring import metrics
from zopo_fast.scoring.metrics import sentences, tokens

EXACT = [
    ("U.S.", "U.K.", 0),
    ("U.S.", "U.S.", 1),
    ("U.S", "U.S.", 1),
    ("us", "U.S.", 0),
    ("US", "U.S.", 0),
    ("J. K. Rowling", "J. R. R. Tolkien", 0),
    ("J. K. Rowling. She wrote Harry Potter.", "J. K. Rowling", 1),
    ("google.com", "google.org", 0),
    ("google.com is a site", "google.com", 0),
    ("google.com. It is a site.", "google.com", 1),
    ("positive. The review praises the food.", "positive", 1),
    ("Positive!\n\nIt says so.", "positive", 1),
    ("Paris.\n\nExplanation: it is the capital", "Paris", 1),
    ("Paris\nExplanation", "Paris", 1),
    ("Dr. Watson", "Dr. Who", 0),
    ("Dr. Who", "Dr. Who", 1),
    ("e.g. this", "e.g. that", 0),
    ("v1.2", "v1.3", 0),
    ("No. 5", "No. 6", 0),
    ("No. The food was bad.", "No", 1),
    ("no. 5", "no", 0),
    ("3.14", "3.15", 0),
    ("3.14. That is pi.", "3.14", 1),
    ("St. Louis", "St. Paul", 0),
    ("1,5", "15", 0),
    ("1.5", "15", 0),
    ("don't", "dont", 0),
    ("don’t", "don't", 1),
    ("dont", "don't", 0),
    ("42", "42.0", 1),
    ("42.00", "42", 1),
    ("+42", "42", 1),
    ("$42", "42", 1),
    ("42%", "42", 1),
    ("42 %", "42", 1),
    ("42", "42%", 0),
    ("42%", "42%", 1),
    ("42 %", "42%", 1),
    ("€42", "$42", 0),
    ("42€", "€42", 1),
    ("$ 42", "$42", 1),
    ("$42", "42.00", 1),
    ("-$42", "-42", 1),
    ("$-42", "-42", 1),
    ("−5", "-5", 1),
    ("–5", "-5", 1),
    ("5", "-5", 0),
    ("４２", "42", 1),
    ("٤٢", "42", 1),
    ("४२", "42", 1),
    ("1,234", "1234", 1),
    ("1,234.50", "1234.5", 1),
    ("1 234", "1234", 1),
    ("1'234", "1234", 1),
    ("1’234", "1234", 1),
    ("12,34,567", "1234567", 1),
    ("1.234,56", "1234.56", 1),
    ("1,23", "123", 0),
    ("12,345,6", "123456", 0),
    ("100, 200, 300", "100 200 300", 1),
    ("100 200", "200 100", 0),
    ("1e3", "1000", 1),
    ("1.5E-3", "0.0015", 1),
    ("1.2.3", "1.2.30", 0),
    ("007", "7", 0),
    ("007", "007", 1),
    ("02134", "2134", 0),
    (".5", "0.5", 1),
    ("0", "-0", 1),
    ("10", "1", 0),
    ("100", "10", 0),
    ("192.168.1.1", "192.168.1.10", 0),
    ("2024-01-05", "2024-1-5", 0),
    ("10:30", "1030", 0),
    ("Straße", "STRASSE", 1),
    ("ﬁn", "fin", 1),
    ("ＡＢＣ", "abc", 1),
    ("x²", "x2", 0),
    ("x²", "x^2", 1),
    ("½", "1/2", 1),
    ("1½", "11/2", 0),
    ("10²", "102", 0),
    ("```\npositive\n```", "positive", 1),
    ('```json\n{"answer": "positive"}\n```', "positive", 1),
    ('```json\n"positive"\n```', "positive", 1),
    ("`positive`", "positive", 1),
    ("**positive**", "positive", 1),
    ('"positive"', "positive", 1),
    ("“positive”", "positive", 1),
    ("Answer: positive", "positive", 1),
    ("Output: positive", "positive", 1),
    ("Final answer: positive.", "positive", 1),
    ("A: positive", "positive", 1),
    ("**Answer:** positive", "positive", 1),
    ("**Answer**: positive", "positive", 1),
    ("The answer is: positive", "positive", 1),
    ("\\boxed{42}", "42", 1),
    ("$\\boxed{42}$", "42", 1),
    ("$42$", "42", 1),
    ("$$x^2$$", "x^2", 1),
    ('{"answer": 42}', "42.0", 1),
    ('{"output": "positive"}', "positive", 1),
    ('{"sentiment": "positive"}', "positive", 1),
    ("{'a': 1}", "1", 0),
    ('{"answer": "B"}', '{"answer": "B"}', 1),
    ("B", '{"answer": "B"}', 0),
    ("It is positive.", "positive", 0),
    ("two", "Two!", 1),
    ("", "!", 0),
    (" ! ", "!", 1),
    ("", "", 1),
    ("x", "", 0),
    (" \n", "", 1),
    ("line one\nline two", "line one\nline two", 1),
    ("line one\nline two", "line one", 1),
    ("line one", "line one\nline two", 0),
    ("I like it. It is good. Very.", "I like it. It is good.", 0),
    ("Sentiment: positive", "positive", 1),
    ("Sure! Here is the answer:\n\nParis", "Paris", 1),
    ("The capital is big.\n\nFinal answer: Paris", "Paris", 1),
    ("... so \n#### 72", "72", 1),
    ("<answer>Paris</answer>", "Paris", 1),
    ("C++", "C", 0),
    ("C++", "C#", 0),
    ("C#", "C", 0),
    (".NET", "NET", 0),
    ("A+", "A", 0),
    ("A-", "A", 0),
    ("A+", "A-", 0),
    ("3 + 2", "3 - 2", 0),
    ("3 - 2", "3 2", 0),
    ("x = 5", "x=5", 1),
    ("x - y", "x + y", 0),
    ("Paris - France", "Paris, France", 1),
    ("cat,dog", "cat, dog", 1),
    ("f(x)", "f(x)", 1),
    ("f(x).", "f(x)", 1),
    ("(Paris)", "Paris", 1),
    ("北京。", "北京", 1),
    ("北京", "東京", 0),
    ("答案：北京", "北京", 1),
    ("北京。它是中国的首都。", "北京", 1),
    ("Yes! Of course", "Yes", 1),
    ("a.m.", "p.m.", 0),
    ("10 a.m.", "10 p.m.", 0),
    ("Martin Luther King Jr.", "Martin Luther King Sr.", 0),
    ("Ph.D. in math", "Ph.D. in art", 0),
    ("- positive", "positive", 1),
    ("* positive", "positive", 1),
    ("True", "true", 1),
    ('["Paris"]', "Paris", 1),
    ("1,2,3", "1, 2, 3", 1),
    ("1,5", "1.5", 0),
    ("5!", "5", 1),
    ("Mr. Smith went home. He slept.", "Mr. Smith went home.", 1),
    ("Mr. Smith", "Mr. Jones", 0),
    ("Washington D.C.", "Washington D.B.", 0),
    ("$1,234.00", "1234", 1),
    ("USD", "usd", 1),
    ("5-3", "53", 0),
    ("5/3", "53", 0),
    ("https://a.b/c?d=e", "https://a.b/c?d=f", 0),
    ("foo@x.com", "foo@x.org", 0),
    ("well-known", "wellknown", 0),
    ("and", "and", 1),
    ("salt and pepper", "salt pepper", 0),
    ("Positive", "positive", 1),
    ("POSITIVE", "positive", 1),
    ("positive\u200b", "positive", 1),
    ("\ufeffpositive", "positive", 1),
    ("Café", "Café", 1),
    ("naïve", "naive", 0),
]
SETS = [
    ("lion, cat and dog", "dog, cat, lion", 1),
    ("lion, cat, cat", "cat lion", 1),
    ("lion, cat", "dog, cat, lion", 0),
    ("lion, cat, dog, cow", "dog, cat, lion", 0),
    ("- lion\n- cat\n- dog", "dog, cat, lion", 1),
    ("lion,cat,dog", "dog, cat, lion", 1),
    ('["lion", "cat"]', "cat, lion", 1),
    ("1, 2, 3", "3,2,1", 1),
    ("lion, cat.\n\nThese are animals.", "cat, lion", 1),
    ("lion\ncat", "lion", 1),
]
CONTAINED = [
    ("The sentiment is positive.", "positive", 1),
    ("Seems nonpositive", "positive", 0),
    ("One. Positive.", "positive", 1),
    ("anything", "!", 0),
    ("big house", "house big", 0),
    ("答案是北京。", "北京", 1),
    ("答案是北京。", "东京", 0),
    ("คำตอบคือกรุงเทพ", "กรุงเทพ", 1),
    ("答えは東京です", "東京", 1),
    ("답은 서울입니다.", "서울", 1),
    ("15", "5", 0),
    ("2.5", "5", 0),
    ("The answer is 5.", "5", 1),
    ("It costs $5.", "5", 1),
    ("5,000", "5", 0),
    ("1,234 items", "1234", 1),
    ("x=5", "5", 1),
    ("I use C++.", "C++", 1),
    ("I use C.", "C++", 0),
    ("I use C++.", "C", 0),
    ("use .NET now", "NET", 0),
    ("use .NET.", ".NET", 1),
    ("join us", "U.S.", 0),
    ("the U.S. army", "U.S.", 1),
    ("C# rocks", "C", 0),
    ("C# rocks", "C#", 1),
    ("line\n\nParis is it", "Paris", 1),
    ("Sentiment:Positive", "positive", 1),
    ("so **positive**, yes", "positive", 1),
    ("x <answer>Paris</answer>", "Paris", 1),
    ("thus \\boxed{\\text{Paris}}.", "Paris", 1),
    ("thus $x = 5$.", "5", 1),
    ("thus \\(5\\)", "5", 1),
    ("", "", 1),
    ("x", "", 0),
    ("42%", "42", 1),
    ("42", "42%", 0),
    ("```\nParis\n```", "Paris", 1),
    ("not 10e5", "10", 0),
    ("New\nYork", "New York", 1),
    ("Paris's", "Paris", 0),
    ("'Paris'", "Paris", 1),
    ("(Paris)", "Paris", 1),
    ('I said "Paris", ok', "Paris", 1),
    ("https://google.com/x", "google", 0),
    ("it's google.com!", "google.com", 1),
]
F1 = [
    ("go up fast", "go up", 0.8),
    ("go go", "go up", 0.5),
    ("down", "go up", 0),
    ("", "go up", 0),
    ("", "", 1),
    ("go\nup", "go up", 1),
    ("go up. go", "go up", 0.8),
    ("```\ngo up\n```", "go up", 1),
    ("北京市", "北京", 0.8),
    ("42.0", "42", 1),
]


@pytest.mark.parametrize(("answer", "reference", "expected"), EXACT)
def test_exact_match(answer: str, reference: str, expected: float) -> None:
    assert metrics.exact_match(answer, reference) == expected


@pytest.mark.parametrize(("answer", "reference", "expected"), SETS)
def test_exact_set(answer: str, reference: str, expected: float) -> None:
    assert metrics.exact_set(answer, reference) == expected


@pytest.mark.parametrize(("answer", "reference", "expected"), CONTAINED)
def test_contains(answer: str, reference: str, expected: float) -> None:
    assert metrics.contains(answer, reference) == expected


@pytest.mark.parametrize(("answer", "reference", "expected"), F1)
def test_f1(answer: str, reference: str, expected: float) -> None:
    assert metrics.f1(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("It is good. It is.", "It is good."),
        ("By J. K. Rowling. Yes.", "By J. K. Rowling."),
        ("In the U.S. and Canada. Yes.", "In the U.S. and Canada."),
        ("See e.g. Dr. No at google.com. Yes.", "See e.g. Dr. No at google.com."),
        ("It is 3.14. Yes.", "It is 3.14."),
        ("No. 5 wins. Yes.", "No. 5 wins."),
        ("No. It is bad.", "No."),
        ('He said "no." Then he left.', 'He said "no."'),
        ("Wait... no. Yes.", "Wait... no."),
        ("是。不是。", "是。"),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_the_first_sentence(given: str, expected: str) -> None:
    assert sentences.first_sentence(given) == expected


def test_a_long_reference_is_compared_with_the_whole_answer() -> None:
    short = "one two three four five six seven eight nine ten eleven twelve"
    assert metrics.exact_match(f"{short}. And more.", short) == 1
    assert metrics.exact_match(f"{short} thirteen. And more.", f"{short} thirteen") == 0


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
PAIRS = [name for name in metrics.METRICS if name != "multiple_choice"]


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
def test_tokens_of_tokens_are_the_same(text: str) -> None:
    once = tokens.tokens(text)
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


def test_the_benchmark_keeps_its_rule() -> None:
    """These pairs are equal there and nowhere else."""
    for answer, reference in [
        ("U.S.", "U.K."),
        ("1,5", "15"),
        ("salt and pepper", "salt pepper"),
        ("dont", "don't"),
    ]:
        assert metrics.METRICS["induction_match"](answer, reference) == 1
        assert metrics.exact_match(answer, reference) == 0
    assert metrics.METRICS["induction_contains"]("One. Positive.", "positive") == 0
    assert metrics.METRICS["induction_set"]("lion, cat and dog", "dog cat lion") == 1
    assert metrics.METRICS["induction_f1"]("go\nup", "go up") == pytest.approx(2 / 3)
