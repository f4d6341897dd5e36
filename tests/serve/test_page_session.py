"""The page of the server: sign-in, headers, forms of other sites, files, a prefix, and a missing package."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from page_tools import Visit, Visitor
from serve_tools import SECONDS, TOKEN, Client, InThread, mounted, served, table

from zopo_fast.serve.http import session
from zopo_fast.serve.pages import assets

PARTS = ("/summary", "/report", "/delete", "")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[InThread]:
    with served(tmp_path / "data", token=TOKEN) as running:
        yield running


@pytest.fixture
def visitor(guarded: InThread) -> Visitor:
    return Visitor(guarded.url)


@pytest.fixture
def study(guarded: InThread) -> str:
    """Create a study with one score."""
    with Client(guarded.url, TOKEN) as call:
        name = call.study()
        (index,) = call.ok("POST", f"/v1/studies/{name}/ask")["indices"]
        call.ok("POST", f"/v1/studies/{name}/tell", {"index": index, "score": 0.5})
    return name


def paths(study: str) -> list[str]:
    return ["/", "/ui/runs", "/ui/new", "/ui/jobs/none", *(f"/ui/studies/{study}{part}" for part in PARTS)]


# ---- sign-in -------------------------------------------------------------------------------------------


def test_pages_need_a_sign_in_and_lead_back_to_where_it_began(visitor: Visitor, study: str) -> None:
    page = f"/ui/studies/{study}"
    for path in paths(study):
        visit = visitor.get(path)
        assert (visit.status, visit.text) == (303, "")
        assert visitor.target(path, visit.headers["Location"]).startswith("/sign-in")
    where = visitor.target(page, visitor.get(page).headers["Location"])
    assert f'value="{page[1:]}"' in visitor.get(where).text
    done = visitor.sign_in(TOKEN, next=page[1:])
    assert (done.status, visitor.target("/sign-in", done.headers["Location"])) == (303, page)
    assert visitor.get(page).status == 200
    assert visitor.get("/sign-in").status == 303  # already signed in


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "../v1/studies", "ui/jobs/x/stop"]
)
def test_a_sign_in_leads_to_no_other_site(visitor: Visitor, target: str) -> None:
    assert visitor.sign_in(TOKEN, next=target).headers["Location"] == "./"


def test_a_wrong_token_is_refused_after_a_delay(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(session.asyncio, "sleep", sleep)
    refused = visitor.sign_in(TOKEN + "x")
    assert refused.status == 401
    assert "token: wrong" in refused.words()
    assert session.FAILURE_SECONDS in slept
    assert visitor.cookie is None
    assert TOKEN not in refused.text


def test_failed_sign_ins_wait_for_each_other_within_a_limit(guarded: InThread) -> None:
    sessions = guarded.server._authenticator.sessions
    assert sessions is not None

    async def attempts() -> tuple[int, bool]:
        async with sessions._failing:  # a failure that is still delayed
            waiting = [asyncio.create_task(sessions.sign_in("x")) for _ in range(session.MAX_WAITING)]
            await asyncio.sleep(0)
            with pytest.raises(Exception, match="too many failed attempts"):
                await sessions.sign_in("x")
            is_right = await sessions.sign_in(TOKEN)  # the right token never waits
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return sessions._waiting, is_right

    assert guarded.do(attempts()) == (0, True)


def cookie_of(visit: Visit) -> SimpleCookie:
    return SimpleCookie(visit.headers["Set-Cookie"])


def test_the_cookie_is_for_this_server_alone(visitor: Visitor) -> None:
    visit = visitor.sign_in(TOKEN)
    (morsel,) = cookie_of(visit).values()
    assert (morsel["httponly"], morsel["samesite"], morsel["secure"]) == (True, "Strict", "")
    assert (morsel["path"], morsel["max-age"], morsel["domain"]) == ("", "", "")
    assert TOKEN not in visit.headers["Set-Cookie"]
    behind_tls = visitor.post(
        "/sign-in", {"token": TOKEN}, Origin=f"https://{visitor.host}", Sec_Fetch_Site="same-origin"
    )
    (morsel,) = cookie_of(behind_tls).values()
    assert morsel["secure"] is True


def test_a_cookie_that_was_changed_or_has_expired_is_refused(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.sign_in(TOKEN)
    good = visitor.cookie
    assert good is not None
    assert visitor.get("/").status == 200
    name, _, value = good.partition("=")
    expiry, nonce, signature = value.split(".")
    for bad in (
        f"{int(expiry) + 1}.{nonce}.{signature}", f"{expiry}.{nonce}x.{signature}", "x", "..", ".",
        f"{expiry}.{nonce}.{'0' * 64}", f"{expiry}.{nonce}.",
    ):  # fmt: skip
        visitor.cookie = f"{name}={bad}"
        assert visitor.get("/").status == 303, bad
    visitor.cookie = good
    now = time.time()
    monkeypatch.setattr(session.time, "time", lambda: now + session.SESSION_SECONDS + 2)
    assert visitor.get("/").status == 303


def test_the_api_takes_the_cookie_for_event_streams_only(
    guarded: InThread, visitor: Visitor, study: str
) -> None:
    visitor.sign_in(TOKEN)
    assert visitor.get("/v1/studies").status == 401
    assert visitor.get("/metrics").status == 401
    assert visitor.get("/v1/jobs/none/events").status == 404  # authenticated: there is no such job
    assert visitor.post(f"/v1/studies/{study}/ask", {}).status == 401
    visitor.cookie = None
    assert visitor.get("/v1/jobs/none/events").status == 401
    assert visitor.get("/", Authorization=f"Bearer {TOKEN}").status == 200


def test_a_sign_out_ends_the_session_of_the_browser(visitor: Visitor) -> None:
    visitor.sign_in(TOKEN)
    visit = visitor.post("/sign-out", {})
    assert (visit.status, visit.headers["Location"]) == (303, "./sign-in")
    (morsel,) = cookie_of(visit).values()
    assert (morsel.value, morsel["max-age"]) == ("", "0")
    assert visitor.cookie is None


def test_a_part_of_a_page_reloads_the_page_when_the_session_has_ended(visitor: Visitor) -> None:
    part = visitor.get("/ui/runs", HX_Request="true")
    assert (part.status, part.headers["HX-Refresh"]) == (401, "true")
    assert visitor.get("/ui/changes", Accept="text/event-stream").status == 401


# ---- forms of other sites ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({}, True),
        ({"Origin": ""}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Sec_Fetch_Site": "none"}, False),
        ({"Origin": "", "Sec_Fetch_Site": "same-origin"}, True),
        # A proxy that replaces Host: the browser's own verdict counts.
        ({"Origin": "https://public.example", "Sec_Fetch_Site": "same-origin"}, True),
    ],
)
def test_a_form_must_come_from_the_page_itself(
    visitor: Visitor, study: str, headers: dict[str, str], is_allowed: bool
) -> None:
    visitor.sign_in(TOKEN)
    for path in (f"/ui/studies/{study}/delete", "/sign-in", "/ui/new", "/sign-out"):
        status = visitor.post(path, {}, **headers).status
        assert (status != 403) is is_allowed, (path, status)
        visitor.sign_in(TOKEN)


def test_without_a_token_the_page_serves_its_own_machine_only(server: InThread, call: Client) -> None:
    visitor, study = Visitor(server.url), call.study()
    delete = f"/ui/studies/{study}/delete"
    assert visitor.get("/").status == 200
    assert "Sign out" not in visitor.get("/").words()
    assert visitor.get("/sign-in").headers["Location"] == "./"
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert visitor.get("/", **headers).status == 403
        assert visitor.post(delete, {}, **headers).status == 403
        assert visitor.post(delete, {}, Sec_Fetch_Site="same-origin", **headers).status == 403
    assert visitor.post(delete, {}, Origin="").status == 403
    assert visitor.post(delete, {}).status == 303
    assert call("GET", f"/v1/studies/{study}").status == 404


# ---- markup, headers, files ----------------------------------------------------------------------------


def test_every_page_has_a_strict_policy_and_nothing_inline(visitor: Visitor, study: str) -> None:
    visitor.sign_in(TOKEN)
    signed_in = [visitor.get(path) for path in paths(study)]
    visitor.cookie = None
    for visit in (*signed_in, visitor.get("/sign-in"), visitor.get("/")):
        policy = visit.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert visit.headers["X-Content-Type-Options"] == "nosniff"
        assert visit.headers["Referrer-Policy"] == "same-origin"
        assert visit.headers["Cache-Control"] == "no-store"
        for tag, attributes in visit.elements():
            assert not [name for name in attributes if name.startswith(("on", "hx-on"))]
            assert "style" not in attributes
            assert tag != "style"
            data = attributes.get("type") == "application/json"
            assert tag != "script" or "src" in attributes or data


def test_files_are_cached_by_their_content(visitor: Visitor, study: str) -> None:
    visitor.sign_in(TOKEN)
    page = f"/ui/studies/{study}"
    files = {visitor.target(page, link) for link in visitor.get(page).links() if "static/" in link}
    assert {re.sub(r"\?.*", "", file).removeprefix("/static/") for file in files} == set(assets.NAMES)
    visitor.cookie = None
    for file in files:
        first = visitor.get(file)
        assert (first.status, "immutable" in first.headers["Cache-Control"]) == (200, True)
        assert visitor.get(file, If_None_Match=first.headers["ETag"]).status == 304
        assert visitor.get(file.partition("?")[0]).headers["Cache-Control"] == "no-cache"
    assert visitor.get("/static/htmx.js").text.startswith("var htmx=")
    assert visitor.get("/static/page.html").status == 401  # unknown, and strangers are not told


def test_pages_are_no_part_of_the_api_document(visitor: Visitor) -> None:
    document = visitor.get("/openapi.json", Authorization=f"Bearer {TOKEN}").text
    assert '"/v1/jobs"' in document
    assert not re.search(r'"/(ui|static|sign)', document)
    assert not any(route.is_page for route in table())


def test_a_problem_is_a_page_too(visitor: Visitor) -> None:
    visitor.sign_in(TOKEN)
    visit = visitor.get("/ui/jobs/0123456789abcdef")
    assert visit.status == 404
    assert "the job does not exist" in visit.words()
    part = visitor.get("/ui/jobs/0123456789abcdef/summary", HX_Request="true")
    assert (part.status, part.text.strip()) == (404, '<p class="problem">the job does not exist</p>')


def test_the_page_works_below_a_prefix(tmp_path: Path) -> None:
    with mounted(tmp_path / "data", "/a/optimiser", token=TOKEN) as url:
        visitor = Visitor(url)
        begin = visitor.get("/ui/new")
        assert visitor.target("/ui/new", begin.headers["Location"]) == "/sign-in?next=ui/new"
        assert visitor.target("/sign-in", visitor.sign_in(TOKEN).headers["Location"]) == "/"
        large = visitor.post("/ui/new", {"pool": "x" * 2**21})  # above the limit of aiohttp's own server
        assert "task: missing" in large.words()
        with Client(url, TOKEN) as call:
            body = {"embeddings": [[0.0, 1.0], [1.0, 0.0]]}
            study = call.ok("POST", "/a/optimiser/v1/studies", body)["id"]
        seen, queue = set(), ["/"]
        while queue:
            path = queue.pop()
            seen.add(path)
            visit = visitor.get(path)
            assert visit.status == 200, path
            if visit.text.startswith("<!doctype"):  # links of a part are relative to the page around it
                targets = {visitor.target(path, link) for link in visit.links() if not link.startswith("#")}
                streams = {one for one in targets if "/changes" in one}
                queue += sorted(targets - streams - seen - set(queue) - {"/sign-out"})
        assert {
            "/", "/ui/new", "/ui/runs", f"/ui/studies/{study}/report", f"/ui/studies/{study}/delete",
            "/static/page.css",
        } <= {one.partition("?")[0] for one in seen}  # fmt: skip


def test_without_the_extra_the_page_names_it_and_the_api_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(assets._PACKAGES, "no_such_module_there", "no-such-package")
    with served(tmp_path / "data") as running:
        visitor = Visitor(running.url)
        visit = visitor.get("/")
        assert visit.status == 503
        assert 'the page needs no-such-package: pip install "zopo-fast[page]"' in visit.words()
        assert visitor.get("/ui/new").status == 404
        assert visitor.get("/v1/studies").status == 200


def test_the_page_does_not_load_django() -> None:
    code = (
        "import sys; from zopo_fast.serve.pages import assets; assets.require(); assets.url('htmx.js'); "
        "print([name for name in sys.modules if name.startswith(('django.', 'asgiref'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert done.stdout.strip() == "[]"
