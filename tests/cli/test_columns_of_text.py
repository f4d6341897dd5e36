"""Width of text on a terminal, wrapped and shortened lines."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from zopo_fast._utils.columns import shorten, width, wrap
from zopo_fast._utils.text import printable

texts = st.text(st.one_of(st.characters(), st.sampled_from(" \n-日本e\u0301🙂\ufe0f")), max_size=200).map(
    printable
)


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("日本語", 6), ("e\u0301a", 2), ("🙂", 2), ("ｶﾞ", 2), ("！", 2), ("❤\ufe0f", 2)],
)
def test_wide_characters_count_two_columns_and_marks_none(text: str, columns: int) -> None:
    assert width(text) == columns


@given(texts, st.integers(20, 90))
def test_wrapped_lines_fit_and_keep_every_character(text: str, columns: int) -> None:
    lines = wrap(text, columns, "  ", "    ")
    assert all(width(line) <= columns for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert len(lines) >= text.count("\n") + 1


def test_lines_break_at_spaces_and_hang() -> None:
    assert wrap("one two three\nfour", 9, "", "  ") == ["one two", "  three", "four"]
    assert wrap("a  b", 9) == ["a  b"]
    assert wrap("see abcdefghijkl", 8, "", "  ") == ["see abcd", "  efghij", "  kl"]
    assert wrap("- 日本語日本語日本語", 12, "", "  ") == ["- 日本語日本", "  語日本語"]


def test_a_word_of_a_million_characters_is_wrapped() -> None:
    lines = wrap("語" * 500_000 + "a" * 500_000, 80, "  ")
    assert len(lines) == pytest.approx(1_500_000 / 78, rel=0.01)


@given(texts, st.integers(1, 60))
def test_a_shortened_text_fits_on_one_line(text: str, columns: int) -> None:
    shown = shorten(text, columns)
    assert width(shown) <= columns
    assert "\n" not in shown
    if width(" ".join(text.split())) <= columns and len(text) < 4 * columns:
        assert shown == " ".join(text.split())
    else:
        assert shown.endswith("..."[:columns])
