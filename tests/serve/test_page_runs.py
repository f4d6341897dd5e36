"""The list of runs and the page of one: filter, pages, summaries, updates, actions, and hostile texts."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from model_stub import PROMPTS, Model
from page_tools import Visitor
from serve_study_tools import run_to_the_end
from serve_tools import SECONDS, Client, InThread, packed, pool, served

from zopo_fast.serve.changes import Changes
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.pages import routes, runs
from zopo_fast.serve.pages.summaries import scores_of
from zopo_fast.storage.store import Event

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</bdi></td><form action=https://evil.example>",
    "\u202eevil\u202c \u2066x",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
]


def job(**changes: Any) -> dict[str, Any]:
    # No prompt is perfect, which would end the run.
    examples = [{"input": f"q{i}", "output": "maybe" if i % 2 else "yes"} for i in range(4)]
    config = {"budget": 6, "initial": 2, **changes.pop("config", {})}
    return {
        "task": {"examples": examples},
        "pool": PROMPTS,
        "model": "small",
        "embeddings": packed(pool(20, 4)),
        "config": config,
        **changes,
    }


def wait_state(call: Client, name: str, state: str) -> None:
    end = time.monotonic() + SECONDS
    while call.ok("GET", f"/v1/jobs/{name}")["state"] != state:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def visitor(server: InThread) -> Visitor:
    return Visitor(server.url)


def rows(visitor: Visitor, query: str = "") -> list[str]:
    """List the runs that the list shows, by their links."""
    found = visitor.get(f"/ui/runs{query}").elements("a")
    return [a.attributes["href"] for a in found if a.attributes.get("id", "").startswith("open-")]


# ---- list ----------------------------------------------------------------------------------------------


def test_a_hundred_runs_are_filtered_and_paged(visitor: Visitor, call: Client) -> None:
    embeddings = [[0.0, 1.0], [1.0, 0.0]]
    made = [
        call.ok(
            "POST", "/v1/studies", {"embeddings": embeddings, "name": f"{'Red' if i % 4 else 'Blue'} {i}"}
        )
        for i in range(100)
    ]
    pages = [rows(visitor, f"?page={number}") for number in range(1, 5)]
    assert [len(page) for page in pages] == [runs.PAGE_ROWS] * 4
    assert {link.rsplit("/", 1)[1] for page in pages for link in page} == {one["id"] for one in made}
    assert rows(visitor, "?page=99") == pages[3]
    assert rows(visitor, "?page=x") == pages[0]
    newest_first = [one["id"] for one in sorted(made, key=lambda one: -one["created"])]
    assert pages[0][0].endswith(newest_first[0])
    assert len(rows(visitor, "?name=BLUE")) == 25
    assert len(rows(visitor, "?name=blue+96")) == 1
    assert rows(visitor, f"?name={made[7]['id'][:12]}") == [f"./ui/studies/{made[7]['id']}"]
    assert rows(visitor, "?name=nothing") == []
    assert "No run matches" in visitor.get("/?name=nothing").words()
    first = visitor.get("/?name=red&page=2")
    assert "75 runs of 100" in first.words()
    assert 'value="red"' in first.text
    links = [a.attributes["href"] for a in first.elements("a") if "rel" in a.attributes]
    assert links == ["./?name=red&state=&page=1", "./?name=red&state=&page=3"]


def test_states_of_studies_are_filtered(visitor: Visitor, call: Client) -> None:
    new, begun, done = call.study(m=4), call.study(m=4), call.study(m=4)
    call.ok("POST", f"/v1/studies/{begun}/ask")
    run_to_the_end(call, done)
    for state, study in (("new", new), ("open", begun), ("done", done)):
        assert rows(visitor, f"?state={state}") == [f"./ui/studies/{study}"]
    assert rows(visitor, "?state=queued") == []
    assert len(rows(visitor, "?state=nonsense")) == 3


@pytest.mark.parametrize("steps", [0, 1, 7, 30])
def test_a_study_has_the_same_summary_after_a_restart_without_being_loaded(
    tmp_path: Path, steps: int
) -> None:
    with served(tmp_path / "data") as server, Client(server.url) as call:
        study = call.study()
        if steps:
            run_to_the_end(call, study, steps)
        before = Visitor(server.url).get("/ui/runs").words()
    with served(tmp_path / "data") as server:
        assert Visitor(server.url).get("/ui/runs").words() == before
        assert server.do(server.server.studies.get(study)).study is None


def test_scores_of_a_log_follow_the_rules_of_the_search() -> None:
    events = [
        ("ask", [3, [4, 7, 9]]),
        ("tell", [4, 0.9, 0.1, False]),
        ("tell", [7, 0.2, None, True]),
        ("discard", [9]),
        ("learn", [[1], [0.5], None, "x"]),
    ]
    scores = scores_of([Event(seq, kind, data) for seq, (kind, data) in enumerate(events, start=1)])
    assert (scores.asked, scores.told, scores.pending) == ([4, 7], {4: 0.9, 7: 0.2}, {4})
    assert scores.best() == (7, 0.2)  # a final score beats a partial one
    assert scores_of([Event(1, "tell", [4, 0.9, 0.1, False])]).best() == (4, 0.9)
    assert scores_of([]).best() is None


def test_a_job_shows_progress_and_spending_and_keeps_them_over_a_restart(
    tmp_path: Path, models: Path
) -> None:
    with models.open("a") as file:
        file.write("price_in = 1000\nprice_out = 0\n")
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job(name="Priced"))["id"]
        wait_state(call, name, "done")
        shown = call.ok("GET", f"/v1/jobs/{name}")
        text = Visitor(server.url).get("/ui/runs").words()
        cost = shown["usage"]["prompt_tokens"] / 1000
        assert "Priced" in text
        assert f"6 of 6 {shown['usage']['calls']} calls" in text
        assert f"cost {cost:.3g}" in text
        assert PROMPTS[shown["best_index"]] in text
    with served(tmp_path / "data", models=models) as server:
        assert Visitor(server.url).get("/ui/runs").words() == text


# ---- one run -------------------------------------------------------------------------------------------


def test_a_job_is_stopped_resumed_and_deleted_from_its_page(
    tmp_path: Path, models: Path, model: Model
) -> None:
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        visitor = Visitor(server.url)
        model.go.clear()
        name = call.ok("POST", "/v1/jobs", job())["id"]
        page = f"/ui/jobs/{name}"
        refused = visitor.post(page + "/delete", {})
        assert refused.status == 409
        assert "cancel it first" in refused.words()
        assert "Delete…" not in visitor.get(page).words()
        stopped = visitor.post(page + "/stop", {})
        assert (stopped.status, visitor.target(page + "/stop", stopped.headers["Location"])) == (303, page)
        model.go.set()
        wait_state(call, name, "cancelled")
        refused = visitor.post(page + "/stop", {})
        assert refused.status == 409
        assert "the job is cancelled; only a running job can be cancelled" in refused.words()
        assert visitor.post(page + "/resume", {}).status == 303
        wait_state(call, name, "done")
        assert "Delete…" in visitor.get(page).words()
        assert visitor.get(page + "/delete").status == 200
        assert visitor.get(page).status == 200  # asking deletes nothing
        deleted = visitor.post(page + "/delete", {})
        assert (deleted.status, visitor.target(page + "/delete", deleted.headers["Location"])) == (303, "/")
        assert visitor.get(page).status == 404
        assert "No runs yet" in visitor.get("/").words()


def test_a_failed_job_shows_its_error(tmp_path: Path, models: Path, model: Model) -> None:
    model.status = 401
    with served(tmp_path / "data", models=models) as server, Client(server.url) as call:
        name = call.ok("POST", "/v1/jobs", job())["id"]
        wait_state(call, name, "failed")
        error = call.ok("GET", f"/v1/jobs/{name}")["error"]
        assert error in Visitor(server.url).get(f"/ui/jobs/{name}").words()


def test_the_state_is_announced_only_when_it_changed(visitor: Visitor, call: Client) -> None:
    study = call.study()
    path = f"/ui/studies/{study}/summary"
    assert "hx-swap-oob" not in visitor.get(path + "?state=new").text
    call.ok("POST", f"/v1/studies/{study}/ask")
    news = visitor.get(path + "?state=new")
    assert 'hx-swap-oob="innerHTML">Study is in progress<' in news.text
    assert "state=open" in news.text  # the next request knows


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_become_no_markup(visitor: Visitor, call: Client, name: str) -> None:
    safe = call.ok("POST", "/v1/studies", {"texts": ["a", "b"], "embeddings": [[0, 1], [1, 0]], "name": "x"})
    body = {"texts": [name, name + "2"], "embeddings": [[0, 1], [1, 0]], "name": name}
    hostile = call.ok("POST", "/v1/studies", body)
    for one in (safe, hostile):
        call.ok("POST", f"/v1/studies/{one['id']}/tell", {"index": 0, "score": 0.5})
    for part in ("", "/delete", "/summary"):
        pages = [visitor.get(f"/ui/studies/{one['id']}{part}") for one in (safe, hostile)]
        plain, tried = [[each.tag for each in page.elements()] for page in pages]
        assert plain == tried
    listed = visitor.get("/")
    shown = " ".join(name.split())
    assert listed.words().count(shown) >= 2  # the name and the prompt, as they are
    assert {each.tag for each in listed.elements()}.isdisjoint({"img"})
    assert listed.text.count("<script") == 3
    assert "49" not in listed.words()
    filtered = visitor.get("/?name=" + "%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert filtered.text.count("<script") == 3


def test_a_prompt_of_a_megabyte_leaves_the_list_small(visitor: Visitor, call: Client) -> None:
    body = {"texts": ["x" * 2**20, "y"], "embeddings": [[0, 1], [1, 0]], "name": "n" * 200}
    study = call.ok("POST", "/v1/studies", body)["id"]
    call.ok("POST", f"/v1/studies/{study}/tell", {"index": 0, "score": 0.5})
    assert len(visitor.get("/").text) < 10_000
    assert len(visitor.get(f"/ui/studies/{study}").text) < 10_000


# ---- changes -------------------------------------------------------------------------------------------


@contextmanager
def stream(server: InThread, path: str) -> Iterator[Callable[[], bytes]]:
    """Follow an event stream; the value reads one event."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200, response.read()

    def event() -> bytes:
        lines = b""
        while not lines.endswith(b"\n\n"):
            line = response.readline()
            if not line:
                return lines
            lines += line
        return lines

    try:
        yield event
    finally:
        connection.close()


def connected_at(visitor: Visitor, path: str) -> str:
    """Return the address of a page's event stream."""
    (link,) = [
        each.attributes["sse-connect"]
        for each in visitor.get(path).elements()
        if "sse-connect" in each.attributes
    ]
    return visitor.target(path, link)


def test_a_page_hears_of_changes_after_it_was_rendered(server: InThread, call: Client) -> None:
    visitor, study = Visitor(server.url), call.study()
    address = connected_at(visitor, f"/ui/studies/{study}")
    call.ok("POST", f"/v1/studies/{study}/ask")  # between the page and its stream
    with stream(server, address) as event:
        assert b"event: change\n" in event()
        call.ok("POST", f"/v1/studies/{study}/ask")
        assert b"data: %d\n" % server.server._changes.revision(study) in event()
    with stream(server, connected_at(visitor, "/")) as event:
        call.ok("DELETE", f"/v1/studies/{study}")
        assert b"event: change\n" in event()


def test_streams_of_the_page_count_against_the_limit_and_end_with_the_server(tmp_path: Path) -> None:
    with served(tmp_path / "data", ServerLimits(max_streams=1, stop_timeout=5)) as server:
        visitor = Visitor(server.url)
        address = connected_at(visitor, "/")
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=SECONDS)
        connection.request("GET", address)
        response = connection.getresponse()
        refused = visitor.get("/ui/changes")
        assert refused.status == 429
        assert "limit of 1 event streams" in refused.words()
    assert response.read() == b""  # complete: the server ended the stream, and did not cut it off
    connection.close()


def test_quick_changes_count_as_one_and_the_last_is_never_lost() -> None:
    async def work() -> list[int | None]:
        changes, seen = Changes(), []
        paused = asyncio.Event()

        def pause() -> float:
            paused.set()
            return 0.05

        async def follow() -> None:
            async for revision in changes.follow("a", changes.revision("a"), pause, SECONDS):
                seen.append(revision)

        task = asyncio.create_task(follow())
        await asyncio.sleep(0)
        changes.touch("b")
        changes.touch("a")
        await asyncio.wait_for(paused.wait(), SECONDS)
        for _ in range(50):
            changes.touch("a")
        last = changes.revision("a")
        while seen[-1] != last:
            await asyncio.sleep(0.01)
        changes.touch("b")
        await asyncio.sleep(0)
        changes.close()
        await asyncio.wait_for(task, SECONDS)
        return seen

    assert len(asyncio.run(asyncio.wait_for(work(), SECONDS))) == 2


def test_a_silent_stream_is_kept_open_and_a_restart_counts_as_a_change() -> None:
    async def work() -> None:
        changes = Changes()
        events = changes.follow("", changes.revision(), lambda: 0.0, 0.01)
        assert await anext(events) is None
        await events.aclose()
        earlier = changes.follow("x", 5, lambda: 0.0, 0.01)
        assert await anext(earlier) == changes.revision("x") > 5
        await earlier.aclose()

    asyncio.run(work())


def test_a_report_that_takes_long_is_refreshed_less_often(
    server: InThread, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = call.study()
    monkeypatch.setattr(runs.Runs, "seconds", lambda *_: 5.0)
    pauses: list[float] = []

    async def follow(self: Any, run: str, after: int, pause: Callable[[], float], keep_alive: float) -> Any:
        pauses.append(pause())
        yield 1

    monkeypatch.setattr(Changes, "follow", follow)
    for path in ("/ui/changes", f"/ui/studies/{study}/changes"):
        with stream(server, path) as event:
            event()
    assert pauses == [routes.LIST_SECONDS, 20.0]


def test_a_report_is_rendered_once_for_each_revision(
    server: InThread, call: Client, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zopo_fast.report import page

    rendered = []
    lock = threading.Lock()

    def body(studies: Any) -> str:
        with lock:
            rendered.append([row.score for row in studies[0].ranked])
        return "<p>The report</p>"

    monkeypatch.setattr(page, "report_body", body)
    study = call.study()
    path = f"/ui/studies/{study}/report"
    assert "appears here with the first score" in visitor.get(path, HX_Request="true").words()
    assert rendered == []
    for score in (0.25, 0.75):
        (index,) = call.ok("POST", f"/v1/studies/{study}/ask")["indices"]
        call.ok("POST", f"/v1/studies/{study}/tell", {"index": index, "score": score})
        for _ in range(3):
            assert "<p>The report</p>" in visitor.get(path, HX_Request="true").text
    assert rendered == [[0.25], [0.75, 0.25]]
    assert visitor.get(path).text.startswith("<!doctype")  # without JavaScript, a page of its own
