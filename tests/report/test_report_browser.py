"""Report in a real browser: tables, charts, hostile texts, print, accessibility; offline by construction."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Chromium, chromium
from report_tools import HOSTILE, make_run

import zopo_fast as zf
from zopo_fast.report.output import write_page

LONG = "Say yes " + "please " * 60 + "."
TASK = Path(__file__).parents[2] / "examples" / "sentiment.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with its report."""
    made = tmp_path_factory.mktemp("run")
    make_run(made, [*(f"Say yes{' please' * (i % 7)} ({i})." for i in range(40)), LONG])
    return with_report(made)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose texts are hostile, with its report."""
    made = tmp_path_factory.mktemp("hostile")
    prompts = [f"{text} {i}" for i, text in enumerate(HOSTILE * 3)]
    examples = [zf.Example(f"{text} {i}", ("yes",)) for i, text in enumerate(HOSTILE * 2)]
    make_run(made, prompts, examples=examples, wrong=HOSTILE[1] + "x" * 1_000_000, name=HOSTILE[0])
    return with_report(made)


# After the runs: Playwright's event loop belongs to the thread while its context is open.
@pytest.fixture
def browser() -> Iterator[Chromium]:
    with chromium() as watched:
        yield watched


def opened(browser: Chromium, path: Path, **options: Any) -> Any:
    page = browser.open(path.as_uri(), **options)
    page.wait_for_selector("[data-ready]")
    return page


def with_report(folder: Path) -> Path:
    with zf.Study.open(folder) as study:
        write_page([study], folder / "report.html")
    return folder


def numbers(page: Any) -> list[str]:
    """Return the numbers of the prompts in the table, from top to bottom."""
    found: list[str] = page.locator('[data-table="prompts"] tbody tr td:nth-child(2)').all_text_contents()
    return found


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390)], ids=["light", "dark", "narrow"]
)
def test_the_report_is_readable(
    folder: Path, browser: Chromium, scheme: str, width: int, request: pytest.FixtureRequest
) -> None:
    page = opened(browser, folder / "report.html", scheme=scheme, width=width)
    assert page.locator(".chart svg").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    browser.audit(page)
    browser.shot(page, f"report-{request.node.callspec.id}")


def test_the_prompts_can_be_sorted_and_searched(folder: Path, browser: Chromium) -> None:
    page = opened(browser, folder / "report.html")
    winner = page.locator("#winner .note").text_content()
    assert f"Prompt number {numbers(page)[0]} of the pool" in winner
    assert "1 to 15 of 41" in page.locator('[data-status="prompts"]').text_content()
    page.locator('[data-pager="prompts"]').get_by_text("Next").click()
    assert "16 to 30 of 41" in page.locator('[data-status="prompts"]').text_content()
    sort = page.get_by_role("button", name="number", exact=True)
    sort.focus()
    page.keyboard.press("Enter")
    assert numbers(page)[:3] == ["0", "1", "2"]
    page.keyboard.press("Enter")
    assert numbers(page)[:2] == ["40", "39"]
    assert page.locator("th[aria-sort=descending]").text_content() == "number"
    more = page.get_by_role("button", name="more of prompt 40")
    more.click()
    assert LONG in page.locator('[data-table="prompts"]').text_content()
    page.locator('[data-search="prompts"]').fill("(17)")
    assert numbers(page) == ["17"]
    page.locator('[data-search="prompts"]').fill("nowhere")
    assert page.locator('[data-status="prompts"]').text_content() == "nothing found"


def test_the_answers_can_be_filtered(folder: Path, browser: Chromium) -> None:
    page = opened(browser, folder / "report.html")
    marks = page.locator('[data-table="answers"] tbody tr td:nth-child(4) .mark')
    first = marks.all_text_contents()
    assert first == sorted(first, key=lambda text: "right" in text)  # wrong ones first
    page.get_by_label("Show").select_option("wrong")
    assert set(marks.all_text_contents()) == {"✗ wrong"}
    page.get_by_label("Show").select_option("heldout")
    assert "of 12" in page.locator('[data-status="answers"]').text_content()


def test_the_curve_shows_calls_and_tokens(folder: Path, browser: Chromium) -> None:
    page = opened(browser, folder / "report.html")
    labels = page.locator('[data-chart="curve"] .role-axis-label')
    before = labels.all_text_contents()
    page.get_by_role("button", name="calls", exact=True).first.click()
    page.wait_for_function(
        "old => [...document.querySelectorAll('[data-chart=\"curve\"] .role-axis-label')]"
        ".map(e => e.textContent).join() !== old",
        arg=",".join(before),
    )
    assert page.locator('[data-axis="curve"] [aria-pressed=true]').text_content() == "calls"


def test_a_dot_of_the_map_names_its_prompt(hostile: Path, browser: Chromium) -> None:
    page = opened(browser, hostile / "report.html")
    page.locator("#map").scroll_into_view_if_needed()
    page.locator('[data-chart="map"] path[aria-roledescription="point"]').last.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "prompt" in tip.text_content()
    assert page.evaluate("window.stolen") is None


def test_hostile_texts_run_nothing(hostile: Path, browser: Chromium) -> None:
    page = opened(browser, hostile / "report.html")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img, iframe, object, b").count() == 0
    assert "<script>window.stolen = 1</script>" in page.locator("h1").text_content()
    browser.audit(page)


def test_ten_thousand_prompts_stay_usable(tmp_path: Path, browser: Chromium) -> None:
    rng = np.random.default_rng(0)
    texts = [f"Prompt {i}: answer in {'very ' * (i % 9)}few words." for i in range(10_000)]
    scores = {i * 40: float(rng.random()) for i in range(200)}
    study = zf.Study.of_search("large", texts, rng.normal(size=(10_000, 8)).astype(np.float32), scores)
    write_page([study], tmp_path / "report.html")
    page = opened(browser, tmp_path / "report.html")
    assert "1 to 15 of 10,000" in page.locator('[data-status="prompts"]').text_content()
    page.locator('[data-search="prompts"]').fill("Prompt 9999:")
    assert numbers(page) == ["9999"]
    assert page.locator("*").count() < 20_000  # elements: what makes a page slow


def test_a_report_prints(folder: Path, browser: Chromium) -> None:
    page = opened(browser, folder / "report.html", scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator('[data-search="prompts"]').is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.chart svg text')).fill") == "rgb(0, 0, 0)"
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_the_winner_is_readable(folder: Path, browser: Chromium) -> None:
    page = browser.open((folder / "report.html").as_uri(), java_script_enabled=False)
    assert page.locator("#winner-text").text_content().startswith("Say yes")
    assert page.locator('[data-table="prompts"] tbody tr').count() >= 3


def test_runs_are_compared(tmp_path: Path, folder: Path, hostile: Path, browser: Chromium) -> None:
    with zf.Study.open(folder) as study, zf.Study.open(hostile) as other:
        write_page([study, other], tmp_path / "comparison.html")
    page = opened(browser, tmp_path / "comparison.html")
    assert page.locator("tbody tr").count() == 2
    browser.audit(page)
    browser.shot(page, "comparison")


@pytest.mark.model
def test_the_report_of_a_real_run(tmp_path: Path, browser: Chromium) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "zopo_fast", "optimize", str(TASK), "--local", "--generate", "24",
        "--budget", "4", "--initial", "2", "--examples", "8", "--heldout", "8", "--max-tokens", "8",
        "--incumbent", "Is it positive or negative?", "--out", str(out), "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    content = (out / "report.html").read_text()
    for secret in (str(tmp_path), str(Path.home()), str(TASK.parent)):
        assert secret not in content
    page = opened(browser, out / "report.html")
    assert page.locator("#winner-text").text_content() == (out / "best_prompt.txt").read_text().strip()
    assert (
        "zopo-fast optimize sentiment.jsonl --examples 8 --heldout 8 --generate 24"
        in page.locator("#command").text_content()
    )
    assert page.locator('[data-table="answers"] tbody tr').count() > 0
    browser.audit(page)
    browser.shot(page, "report-real")
