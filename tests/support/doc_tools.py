"""Markdown pages of the repository: their code blocks, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")))
    if path.name != "CHANGELOG.md" or path.parent == ROOT
}

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code block of a page.

    Attributes:
        page: path of the page in the repository.
        language: as the page states it.
        code: its lines.
        reason: why it is not run; None: it is run.
    """

    page: str
    language: str
    code: str
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    """Return the code blocks of a page in order."""
    found = _BLOCK.finditer(PAGES[page])
    return [Block(page, each["language"], each["code"], each["reason"]) for each in found]


def links_of(text: str) -> list[tuple[str, str]]:
    """Return target and anchor of every link to a file or heading; either may be empty."""
    return _LINK.findall(_FENCE.sub("", text))


def anchors_of(text: str) -> set[str]:
    """Return the anchors of the headings, as repositories and the site make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
