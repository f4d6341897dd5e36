"""Links of the documents lead to files and headings that exist, in the repository itself."""

from __future__ import annotations

import subprocess

import pytest
from doc_tools import PAGES, ROOT, anchors_of, links_of

LISTING = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = set(subprocess.run(LISTING, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def faults(page: str, text: str) -> list[str]:
    """List the links of a page that lead nowhere."""
    found = []
    for target, anchor in links_of(text):
        path = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
        is_there = name in FILES or any(each.startswith(f"{name}/") for each in FILES if name)
        if not is_there or (anchor and anchor not in anchors_of(PAGES[name])):
            found.append(target + anchor)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert faults(page, PAGES[page]) == []


def test_broken_links_are_found() -> None:
    good = "[a](install.md) [b](../README.md#results) [c](#extras) ![d](../bench/gpu.sh) [e](../bench)"
    assert faults("docs/install.md", good) == []
    bad = "[a](instal.md) [b](../README.md#result) [c](#extra) ![d](../bench/cpu.sh) [e](/etc/hosts)"
    assert len(faults("docs/install.md", bad)) == 5


def test_every_page_of_the_documents_is_linked_from_another() -> None:
    linked = {
        (ROOT / page).parent.joinpath(target).resolve()
        for page, text in PAGES.items()
        for target, _ in links_of(text)
    }
    alone = [page for page in PAGES if page.startswith("docs/") and (ROOT / page) not in linked]
    assert alone == []
