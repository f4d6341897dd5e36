"""Messages quoted in docs/troubleshooting.md are those that the package prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


def texts() -> str:
    """Return the string literals of the package, with literals on several lines joined."""
    sources = sorted((ROOT / "zopo_fast").rglob("*.py"))
    joined = "\n".join(path.read_text(encoding="utf-8") for path in sources if "bench" not in path.parts)
    return re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", joined)


TEXTS = texts()


def parts_of(message: str) -> list[str]:
    return [part.strip(" ,;") for part in message.split("…") if re.search(r"\w", part)]


def test_the_page_quotes_messages() -> None:
    assert len(MESSAGES) > 30
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_part_of_a_message_is_printed_by_the_package(message: str) -> None:
    missing = [part for part in parts_of(message) if part not in TEXTS]
    assert missing == []


def test_a_message_that_is_not_printed_is_found() -> None:
    assert any(part not in TEXTS for part in parts_of("the endpoint sleeps: … attempts"))
