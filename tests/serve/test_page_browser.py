"""The server's page in a real browser: a job from the form to its report, live, in light and dark."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Chromium, chromium
from model_stub import PROMPTS, Model
from serve_tools import SECONDS, TOKEN, Client, InThread, mounted, packed, pool, served

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


SCHEMES = [("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)]


def label(scheme: str, width: int) -> str:
    return scheme if width > 1000 else f"{scheme}-narrow"


@pytest.fixture
def many(tmp_path: Path, models: Path) -> Iterator[InThread]:
    """Serve a hundred runs: 97 studies and three jobs."""
    with served(tmp_path / "data", token=TOKEN, models=models) as running, Client(running.url, TOKEN) as call:
        for i in range(97):
            body = {"texts": PROMPTS[:6], "embeddings": packed(pool(6, 3)), "config": {"budget": 6}}
            study = call.ok("POST", "/v1/studies", {**body, "name": f"Rhymes {i}"})["id"]
            for index in range(i % 7):
                call.ok("POST", f"/v1/studies/{study}/tell", {"index": index % 6, "score": index / 10})
        for name in ("Sentiment of reviews", "Sums", "A job with a rather long name that wraps in the table"):
            task = {"examples": [{"input": f"q{i}", "output": "maybe" if i else "yes"} for i in range(4)]}
            body = {"task": task, "pool": PROMPTS, "model": "small", "embeddings": packed(pool(20, 4))}
            call.ok("POST", "/v1/jobs", {**body, "name": name, "config": {"budget": 12}})
        yield running


def test_a_hundred_runs_stay_usable(many: InThread, model: Model) -> None:
    with chromium() as browser, Client(many.url, TOKEN) as call:
        page = sign_in(browser, many.url)
        page.get_by_text("Page 1 of 4").wait_for()
        page.get_by_role("link", name="Next").click()
        page.get_by_text("Page 2 of 4").wait_for()
        page.get_by_label("Name").press_sequentially("rhymes 9")
        page.get_by_text("8 runs of 100").wait_for()  # 9 and 90 to 96, without a reload
        focused = page.evaluate("document.activeElement.id")
        study = call.ok("POST", "/v1/studies", {"embeddings": [[0, 1], [1, 0]], "name": "Rhymes 99"})["id"]
        page.get_by_text("9 runs of 101").wait_for()  # an update keeps filter, text and focus
        assert page.get_by_label("Name").input_value() == "rhymes 9"
        assert page.evaluate("document.activeElement.id") == focused == "name"
        page.locator(f"#open-{study}").focus()
        call.ok("POST", f"/v1/studies/{study}/tell", {"index": 0, "score": 0.5})
        page.locator(f"#run-{study}").get_by_text("1 of 2").wait_for()
        assert page.evaluate("document.activeElement.id") == f"open-{study}"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Rhymes 99").wait_for()
        page.goto(many.url + "/?state=done")
        page.get_by_text(re.compile(r"\d+ runs of\s+101")).wait_for()
        assert set(page.locator("#runs .state").all_inner_texts()) == {"done"}


def test_pages_are_accessible(many: InThread, model: Model) -> None:
    with chromium() as browser:
        browser.expect("status of 401")  # the wrong tokens below
        for scheme, width in SCHEMES:
            audit_pages(browser, many.url, scheme, width)


def audit_pages(browser: Chromium, url: str, scheme: str, width: int) -> None:
    def look(name: str) -> None:
        browser.audit(page)
        browser.shot(page, f"page-{name}-{label(scheme, width)}")
        is_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not is_wide, name

    page = browser.open(url, scheme=scheme, width=width)
    page.get_by_label("Token of this server").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("token: wrong").wait_for()
    look("sign-in")
    page.get_by_label("Token of this server").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Page 1 of 4").wait_for()
    page.get_by_text("0 jobs running or queued").wait_for()
    look("list")
    page.get_by_role("link", name="Start a job").first.click()
    page.get_by_text("Limits and more settings").click()
    look("form")
    page.goto(url + "/?name=sentiment")
    page.get_by_role("link", name="Sentiment of reviews").click()
    page.locator("#report > [data-ready]").wait_for()
    look("job")
    page.get_by_role("link", name="Delete…").click()
    look("delete")
    page.context.close()


def test_an_error_stands_beside_the_form_and_nothing_is_lost(page_server: InThread) -> None:
    with chromium() as browser:
        browser.expect("status of 422")
        page = sign_in(browser, page_server.url)
        page.get_by_role("link", name="Start a job").first.click()
        page.get_by_label("or a file instead").first.set_input_files(
            {"name": "task.csv", "mimeType": "text/csv", "buffer": b"input,output\nq,yes\nr,maybe\ns,no\n"}
        )
        page.get_by_label("Pool").fill("Only one prompt.")
        page.get_by_label("Model", exact=True).select_option("small")
        page.get_by_label("Examples to score on").fill("2")
        page.get_by_role("button", name="Start the job").click()
        page.get_by_text("pool: only one prompt; a search needs at least two").wait_for()
        browser.audit(page)
        browser.shot(page, "page-form-error")
        assert page.get_by_label("Pool").input_value() == "Only one prompt."
        page.get_by_label("Pool").fill("Only one prompt.\nAnother.")
        page.get_by_role("button", name="Start the job").click()  # with the file chosen before
        page.get_by_role("button", name="Stop").or_(page.get_by_role("link", name="Delete…")).wait_for()


def test_the_page_works_below_a_prefix_in_a_browser(tmp_path: Path) -> None:
    with mounted(tmp_path / "data", "/a/optimiser", token=TOKEN) as url, chromium() as browser:
        page = browser.open(url + "/ui/new")
        page.get_by_label("Token of this server").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Start a job").wait_for()
        (cookie,) = page.context.cookies()
        assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == ("/a/optimiser", True, "Strict")
        page.get_by_role("link", name="Runs").click()
        page.get_by_text("No runs yet").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        assert page.context.cookies() == []


def test_the_page_works_without_javascript(page_server: InThread) -> None:
    with chromium() as browser:
        page = sign_in(browser, page_server.url, java_script_enabled=False)
        start_job(page, "No scripts")
        page.get_by_role("heading", name="No scripts").wait_for()
        with Client(page_server.url, TOKEN) as call:
            end = time.monotonic() + SECONDS
            while call.ok("GET", "/v1/jobs")["jobs"][0]["state"] != "done":
                assert time.monotonic() < end
                time.sleep(0.05)
        page.reload()
        assert scored(page, "#summary") == 12
        page.get_by_role("link", name="Open the report").click()
        page.get_by_role("heading", name="Winner", exact=True).wait_for()
        page.get_by_role("link", name="Back to the run").click()
        page.get_by_role("link", name="Delete…").click()
        page.get_by_role("button", name="Delete permanently").click()
        page.get_by_text("No runs yet").wait_for()


def test_a_report_of_ten_thousand_prompts_is_live_and_kept_while_it_is_used(tmp_path: Path) -> None:
    m = 10_000
    texts = [f"Prompt number {i} <b>bold</b>" for i in range(m)]
    with (
        served(tmp_path / "data", token=TOKEN) as running,
        chromium() as browser,
        Client(running.url, TOKEN) as call,
    ):
        body = {
            "texts": texts,
            "embeddings": packed(pool(m, 4)),
            "config": {"budget": 50},
            "name": "Large",
        }
        study = call.ok("POST", "/v1/studies", body)["id"]

        def tell(index: int, score: float) -> None:
            call.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score})

        for i in range(20):
            tell(i, i / 100)
        page = sign_in(browser, running.url)
        page.get_by_role("link", name="Large").click()
        page.locator("#report > [data-ready]").wait_for()
        prompts = page.locator("#prompts")
        search = prompts.get_by_label("Search")
        search.fill("number 9999")
        prompts.get_by_text("1 to 1 of 1").wait_for()
        assert prompts.locator("td.text").inner_text() == texts[9999]  # text, not markup
        tell(9999, 0.9)
        page.locator("#summary").get_by_text("21 of 50").wait_for()
        page.get_by_text("Paused while you use it.").wait_for()
        assert search.input_value() == "number 9999"
        page.get_by_role("heading", name="Large").click()  # leave the field
        prompts.get_by_text("0.900").wait_for()
        assert search.input_value() == "number 9999"  # the new report has what was typed
        assert page.locator("#report > *").count() == 1
        search.fill("")
        prompts.get_by_text(f"1 to 15 of {m:,}").wait_for()
        prompts.get_by_role("button", name="score", exact=True).click()
        page.get_by_label("Keep the report up to date").uncheck()
        tell(9998, 0.95)
        page.locator("#summary").get_by_text("22 of 50").wait_for()
        assert prompts.get_by_text("0.950").count() == 0
        page.get_by_label("Keep the report up to date").check()
        prompts.get_by_text("0.950").wait_for()


def test_hostile_names_run_no_script(many: InThread) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202edlrow"
    with chromium() as browser, Client(many.url, TOKEN) as call:
        body = {"texts": [hostile, hostile + "2"], "embeddings": [[0, 1], [1, 0]], "name": hostile}
        study = call.ok("POST", "/v1/studies", body)["id"]
        call.ok("POST", f"/v1/studies/{study}/tell", {"index": 0, "score": 0.5})
        page = sign_in(browser, many.url)
        dialogs: list[Any] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
        page.locator(f"#open-{study}").click()
        page.locator("#report > [data-ready]").wait_for()
        page.locator("#prompts").get_by_text("<img src=x").first.wait_for()
        assert dialogs == []
        assert page.locator("img").count() == 0


def test_the_page_notices_a_server_that_comes_back(tmp_path: Path) -> None:
    with chromium() as browser:
        browser.expect("sse|ERR_|htmx")  # the connection is lost below
        with served(tmp_path / "data", token=TOKEN) as running:
            port = int(running.url.rsplit(":", 1)[1])
            page = sign_in(browser, running.url)
        again = served(tmp_path / "data", token=TOKEN, port=port)
        with again as running, Client(running.url, TOKEN) as call:
            call.ok("POST", "/v1/studies", {"embeddings": [[0, 1], [1, 0]], "name": "After the restart"})
            page.get_by_text("After the restart").wait_for()


@pytest.mark.model
def test_a_job_with_the_embedded_model(tmp_path: Path) -> None:
    with served(tmp_path / "data", embedder="local") as running, chromium() as browser:
        page = browser.open(running.url)
        page.get_by_role("link", name="Start a job").first.click()
        page.get_by_label("Examples", exact=True).fill(TASK)
        page.get_by_label("Pool").fill("Say yes.\nAnswer with yes or no.\nSay maybe.")
        page.get_by_label("Prompts to score").fill("2")
        page.get_by_label("Examples to score on").fill("2")
        page.get_by_role("button", name="Start the job").click()
        page.get_by_text("done", exact=True).wait_for(timeout=200_000)
        page.locator("#report > [data-ready]").wait_for()
        browser.audit(page)
        browser.shot(page, "page-job-embedded-model")
