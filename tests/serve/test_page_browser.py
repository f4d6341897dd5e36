"""The server's page in a real browser: a job from the form to its report, live, in light and dark."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Chromium, chromium
from model_stub import PROMPTS, Model
from serve_tools import TOKEN, InThread, served

# No prompt is perfect, which would end the run.
TASK = "".join(json.dumps({"input": f"q{i}", "output": "maybe" if i % 2 else "yes"}) + "\n" for i in range(8))


@pytest.fixture
def page_server(tmp_path: Path, models: Path, model: Model) -> Iterator[InThread]:
    with models.open("a") as file:
        file.write("price_in = 100\nprice_out = 400\n")
    settings = {"embedder": "endpoint:e", "embedding_base_url": model.url, "models": models}
    with served(tmp_path / "data", token=TOKEN, **settings) as running:
        yield running


def sign_in(browser: Chromium, url: str, **options: Any) -> Any:
    page = browser.open(url, **options)
    page.get_by_label("Token of this server").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Runs", exact=True).wait_for()
    return page


def start_job(page: Any, name: str) -> None:
    page.get_by_role("link", name="Start a job").first.click()
    page.get_by_label("Name of the job").fill(name)
    page.get_by_label("Examples", exact=True).fill(TASK)
    page.get_by_label("Pool").fill("\n".join(PROMPTS))
    page.get_by_label("Model", exact=True).select_option("small")
    page.get_by_label("Prompts to score").fill("12")
    page.get_by_label("Examples to score on").fill("4")
    page.get_by_role("button", name="Start the job").click()


def scored(page: Any, root: str) -> int:
    text = page.locator(f"{root} progress + small").first.inner_text()
    return int(re.match(r"(\d+) of", text)[1])


def wait_scored(page: Any, root: str, count: int) -> None:
    page.wait_for_function(
        "([root, count]) => parseInt(document.querySelector(root + ' progress + small').innerText) >= count",
        arg=[root, count],
    )


def test_a_job_is_started_followed_stopped_and_resumed(page_server: InThread, model: Model) -> None:
    model.steps = threading.Semaphore(0)
    with chromium() as browser:
        browser.expect("htmx:(sendAbort|afterRequest)")  # a button left the page during an update
        page = sign_in(browser, page_server.url)
        page.get_by_text("No runs yet").wait_for()
        browser.audit(page)
        browser.shot(page, "page-empty-light")
        start_job(page, "Say yes")
        page.get_by_role("heading", name="Say yes").wait_for()
        page.evaluate("window.isSamePage = true")
        page.get_by_text("The report appears here with the first score.").wait_for()
        assert scored(page, "#summary") == 0
        model.steps.release(9)
        wait_scored(page, "#summary", 1)
        page.locator("#report [data-ready]").wait_for()
        first = scored(page, "#summary")
        model.steps.release(12)
        wait_scored(page, "#summary", first + 2)
        assert page.evaluate("window.isSamePage")  # no reload
        browser.audit(page)
        browser.shot(page, "page-job-running-light")

        page.get_by_role("button", name="Stop and keep the results").click()
        model.steps.release(100)
        page.get_by_text("cancelled", exact=True).wait_for()
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("done", exact=True).wait_for()
        assert scored(page, "#summary") == 12
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        assert page.context.cookies() == []
        page.goto(page_server.url + "/")
        page.get_by_role("heading", name="Sign in").wait_for()
        assert {url for url in browser.requested if not url.startswith(page_server.url)} == set()
