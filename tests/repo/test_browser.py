"""The browser of the tests: it notices errors, foreign requests and inaccessible pages."""

from __future__ import annotations

import struct
from pathlib import Path

import browser
import pytest
from browser import chromium, violations

HEAD = '<!doctype html><html lang="en"><head><title>T</title></head>'


def written(folder: Path, body: str) -> str:
    path = folder / "page.html"
    path.write_text(f"{HEAD}<body><main><h1>T</h1>{body}</main></body></html>")
    return path.as_uri()


def test_a_clean_page_passes_and_its_screenshot_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "SCREENSHOTS", tmp_path / "shots")
    with chromium() as chrome:
        page = chrome.open(written(tmp_path, "<p>Text</p>"), width=400)
        chrome.audit(page)
        image = chrome.shot(page, "clean").read_bytes()
        assert struct.unpack(">I", image[16:20]) == (400,)  # width of the PNG


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>console.error('lost')</script>", "console: lost"),
        ("<script>throw new Error('broken')</script>", "exception: broken"),
        ("<img src='https://example.com/a.png' alt=''>", "beyond loopback: https://example.com/a.png"),
        ("<img src='https://93.184.216.34/a.png' alt=''>", "ERR_PROXY_CONNECTION_FAILED"),
        ("<img src='missing.png' alt=''>", "ERR_FILE_NOT_FOUND"),
    ],
)
def test_a_problem_of_a_page_fails_the_test(tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises(AssertionError), chromium() as chrome:
        chrome.open(written(tmp_path, body)).wait_for_load_state("networkidle")
    assert any(problem in one for one in chrome.problems), chrome.problems


def test_an_expected_problem_passes(tmp_path: Path) -> None:
    with chromium() as chrome:
        chrome.expect("lost")
        chrome.open(written(tmp_path, "<script>console.error('lost')</script>"))


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("<input>", "label"),
        ("<p style='color: #ccc; background: #fff'>pale</p>", "color-contrast"),
        ("<button></button>", "button-name"),
    ],
)
def test_an_inaccessible_page_is_found(tmp_path: Path, body: str, rule: str) -> None:
    with chromium() as chrome:
        page = chrome.open(written(tmp_path, body))
        assert [each.split(" ")[0] for each in violations(page)] == [rule]
        with pytest.raises(AssertionError, match=rule):
            chrome.audit(page)
