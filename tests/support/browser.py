"""Chromium under test: every page is checked for errors, foreign requests and accessibility.

    def test_the_page(tmp_path):
        with chromium() as browser:
            page = browser.open(url, scheme="dark", width=400)
            page.get_by_role("button", name="Stop").click()
            browser.audit(page)                 # axe-core: no serious violation
            browser.shot(page, "job-dark")      # build/screenshots/job-dark.png

When the context ends, the test fails if a page logged an error, lost a request, or requested anything beyond
loopback. A test is skipped where Playwright or Chromium is missing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from time_tools import HANG

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("ZOPO_SCREENSHOTS") or ROOT / "build" / "screenshots")
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # a container's root has no user namespaces
    "--proxy-server=http://127.0.0.1:9",  # nothing listens there, and loopback needs no proxy
    "--disable-gpu",
)
SERIOUS = ("serious", "critical")
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Chromium:
    """Browser whose pages are watched.

    Args:
        browser: browser of Playwright.

    Attributes:
        problems: console errors, failed requests and requests beyond loopback so far.
        requested: URLs requested so far.
    """

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._expected: list[str] = []
        self.problems: list[str] = []
        self.requested: list[str] = []

    def open(
        self, url: str | None, *, scheme: str = "light", width: int = 1280, height: int = 800, **options: Any
    ) -> Any:
        """Open a page in a new context, which has no cookies.

        Args:
            url: address of the page; None: an empty page.
            scheme: preferred colour scheme, "light" or "dark".
            width: width of the window in pixels.
            height: height of the window in pixels.
            **options: further options of the context, such as `java_script_enabled`.

        Returns:
            The page of Playwright.
        """
        context = self._browser.new_context(
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(HANG * 1000)
        context.on("page", self._watch)
        page = context.new_page()
        if url is not None:
            page.goto(url)
        return page

    def expect(self, pattern: str) -> None:
        """Allow problems that contain a pattern, such as "status of 422"."""
        self._expected.append(pattern)

    def unexpected(self) -> list[str]:
        """List the problems that no expected pattern matches."""
        return [one for one in self.problems if not any(re.search(each, one) for each in self._expected)]

    def audit(self, page: Any) -> None:
        """Fail if axe-core finds a serious or critical violation on a page."""
        found = violations(page)
        assert found == [], "\n".join([f"{page.url}:", *found])

    def shot(self, page: Any, name: str, *, full: bool = True) -> Path:
        """Save a screenshot; `full` includes what is below the window."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path, full_page=full, animations="disabled")
        return path

    def _watch(self, page: Any) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._on_request)
        page.on("requestfailed", self._on_failure)

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Any) -> None:
        self.requested.append(request.url)
        parts = urlsplit(request.url)
        host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}") if parts.netloc else ""
        if parts.scheme in ("http", "https", "ws", "wss") and host not in LOCAL:
            self.problems.append(f"beyond loopback: {request.url}")

    def _on_failure(self, request: Any) -> None:
        # ERR_ABORTED: the page left, or cancelled the request itself.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.failure} {request.url}")


def violations(page: Any) -> list[str]:
    """List the serious and critical violations that axe-core finds on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {[node['html'][:200] for node in each['nodes'][:5]]}"
        for each in found
        if each["impact"] in SERIOUS
    ]


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Run Chromium while the context is open, then fail on unexpected problems.

    Playwright's event loop belongs to the thread while the context is open, so nothing inside may call
    `asyncio.run` in this thread.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    with playwright.sync_playwright() as driver:
        watched = Chromium(_launch(driver.chromium))
        try:
            yield watched
        finally:
            watched._browser.close()
    problems = watched.unexpected()
    assert problems == [], "\n".join(problems)


def _launch(chromium: Any) -> Any:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and not Path(chromium.executable_path).exists():
        pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
    from playwright.sync_api import Error

    try:
        return chromium.launch(executable_path=path, args=list(ARGUMENTS))
    except Error as error:
        pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
