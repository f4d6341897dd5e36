"""The form that starts a job: task and pool as files or text, errors, nothing lost, one job per form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_stub import PROMPTS, Model
from page_tools import Visit, Visitor
from serve_tools import Client, InThread, served

from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.pages.forms import Form, job_request, key_of

RECORDS = [{"input": f"q{i}", "output": "yes"} for i in range(6)]
JSONL = "".join(json.dumps(one) + "\n" for one in RECORDS)
CSV = "input,output\n" + "".join(f"{one['input']},{one['output']}\n" for one in RECORDS)
FIELDS = {"task": JSONL, "pool": "\n".join(PROMPTS), "model": "small", "budget": "4", "examples": "3"}


@pytest.fixture
def embedding(tmp_path: Path, models: Path, model: Model) -> Iterator[InThread]:
    settings: dict[str, Any] = {"embedder": "endpoint:e", "embedding_base_url": model.url, "models": models}
    with served(tmp_path / "data", **settings) as running:
        yield running


@pytest.fixture
def visitor(embedding: InThread) -> Visitor:
    return Visitor(embedding.url)


def request_of(embedding: InThread, visit: Visit) -> Any:
    """Return the stored request of the job that a form started."""
    assert visit.status == 303, visit.words()
    name = visit.headers["Location"].rsplit("/", 1)[1]
    return json.loads((embedding.server.config.data / "jobs" / name / "request.json").read_text())


def value_of(visit: Visit, name: str) -> str:
    """Return what a field of the form holds."""
    for each in visit.elements():
        if each.attributes.get("name") == name and each.tag == "input":
            return each.attributes["value"]
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (JSONL, "task.jsonl"),
        (CSV, "Task.CSV"),
        (CSV.replace(",", "\t"), "task.tsv"),
        (json.dumps(RECORDS), "t.json"),
    ],
)
def test_examples_are_read_from_a_file_or_pasted_text(
    embedding: InThread, visitor: Visitor, text: str, file: str
) -> None:
    pasted = visitor.post("/ui/new", {**FIELDS, "task": text})
    files = {"task_file": (file, text.encode("utf-8-sig")), "pool_file": ("", b"")}
    sent = visitor.post("/ui/new", {**FIELDS, "task": ""}, files)
    for visit in (pasted, sent):
        request = request_of(embedding, visit)
        assert len(request["task"]["examples"]) == 3
        assert len(request["task"]["heldout"]) == 3
        found = request["task"]["examples"] + request["task"]["heldout"]
        assert sorted(one["input"] for one in found) == [one["input"] for one in RECORDS]
        assert {one["output"][0] for one in found} == {"yes"}


def test_all_fields_reach_the_request(embedding: InThread, visitor: Visitor) -> None:
    fields = {
        "name": " A name ", "metric": "contains", "template": "system", "incumbent": "Say it.",
        "seed": "7", "target": "0.5", "limit_calls": "50", "limit_tokens": "900", "limit_seconds": "60.5",
        "limit_cost": "", "judge": "small",
    }  # fmt: skip
    pool = "".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS)
    files = {"pool_file": ("pool.jsonl", pool.encode())}
    request = request_of(embedding, visitor.post("/ui/new", {**FIELDS, **fields, "pool": ""}, files))
    assert (request["name"], request["model"], request["judge"]) == ("A name", "small", None)
    assert (request["task"]["metric"], request["task"]["template"]) == ("contains", "system")
    assert request["pool"] == PROMPTS
    config = request["config"]
    expected = {"budget": 4, "incumbent": "Say it.", "seed": 7, "target": 0.5}
    assert {name: config[name] for name in expected} == expected
    assert config["limits"] == {"calls": 50, "tokens": 900, "cost": None, "seconds": 60.5}
    judged = request_of(embedding, visitor.post("/ui/new", {**FIELDS, "metric": "judge", "judge": "small"}))
    assert judged["judge"] == "small"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": " "}, "task: missing"),
        ({"task": '{"input": "a"}\n{"x"'}, "task.jsonl:2: "),
        ({"task": "a,b\n1,2\n"}, "task.csv"),
        ({"task": JSONL, "examples": "x"}, "examples: not a number"),
        ({"pool": ""}, "pool: missing"),
        ({"pool": "only one"}, "pool: only one prompt; a search needs at least two"),
        ({"budget": "many"}, "config.budget: Expected `int`"),
        ({"budget": "0"}, "config.budget: Expected `int` >= 1"),
        ({"limit_calls": "-1"}, "config.limits.calls: Expected `int` >= 1"),
        ({"limit_cost": "2"}, "a limit of cost needs prices"),
        ({"metric": "nonsense"}, "task.metric: Invalid enum value 'nonsense'"),
        ({"template": "/etc/passwd"}, "template"),
        ({"model": "other"}, "model 'other' is not in the server's models file; choose one of: local, small"),
        ({"metric": "judge", "judge": "x"}, "model 'x' is not in the server's models file"),
    ],
)
def test_an_error_is_told_in_the_words_of_the_api_and_nothing_is_lost(
    visitor: Visitor, changes: dict[str, str], problem: str
) -> None:
    fields = {
        **FIELDS,
        "name": 'A "name"',
        "incumbent": "Old prompt",
        "limit_tokens": "77",
        "nonce": "abc",
        **changes,
    }
    visit = visitor.post("/ui/new", fields)
    assert visit.status in (409, 422)
    assert problem in visit.words()
    assert "/tmp" not in visit.words()
    assert value_of(visit, "name") == 'A "name"'
    assert value_of(visit, "nonce") == "abc"
    assert "Old prompt" in visit.words()
    assert value_of(visit, "limit_tokens") == "77"
    assert value_of(visit, "budget") == fields["budget"]
    assert PROMPTS[3] in visit.words() or "pool" in changes
    if fields["model"] == "small":
        assert [each for each in visit.elements("option") if "selected" in each.attributes]
    part = visitor.post("/ui/new", fields, HX_Request="true")
    assert part.status == visit.status
    assert part.text.startswith('<p class="problem">')
    assert problem in part.words()
    assert "No runs yet" in visitor.get("/").words()


def test_a_file_becomes_the_text_of_its_field_when_the_form_comes_back(visitor: Visitor) -> None:
    files = {
        "task_file": ("t.csv", CSV.encode()),
        "pool_file": ("p.txt", b"\xef\xbb\xbfOne </textarea>.\nTwo."),
    }
    visit = visitor.post("/ui/new", {"budget": "0", "model": "small"}, files)
    assert visit.status == 422
    assert "input,output q0,yes" in visit.words()
    assert "One </textarea>. Two." in visit.words()
    assert "\ufeff" not in visit.text


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"task_file": ("t.csv", b"\xff\xfe\x00")}, "task: t.csv is not text in UTF-8"),
        ({"task_file": ("t.xlsx", b"x")}, "task: a file .xlsx is not supported"),
        ({"pool_file": ("p.csv", b"x")}, "pool: a file .csv is not supported"),
        ({"pool_file": ("p.jsonl", b'{"prompt": "a"}\n{}')}, "pool.jsonl:2: "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    visitor: Visitor, files: dict[str, tuple[str, bytes]], problem: str
) -> None:
    visit = visitor.post("/ui/new", FIELDS, files)
    assert visit.status == 422
    assert problem in visit.words()


def test_a_task_file_chooses_neither_metric_nor_template() -> None:
    metadata = {"metadata": {"metric": "contains", "template": "/etc/passwd"}, "examples": RECORDS}
    form = Form({**FIELDS, "task": json.dumps(metadata)})
    task = job_request(form).task
    assert (task.metric, task.template) == ("exact_match", "instruction")


def test_a_form_sent_twice_starts_one_job(visitor: Visitor, embedding: InThread) -> None:
    fields = {**FIELDS, "nonce": value_of(visitor.get("/ui/new"), "nonce")}
    first, again = (visitor.post("/ui/new", fields).headers["Location"] for _ in range(2))
    assert first == again
    other = visitor.post("/ui/new", {**fields, "budget": "3"}).headers["Location"]
    assert other != first
    with Client(embedding.url) as call:
        assert len(call.ok("GET", "/v1/jobs")["jobs"]) == 2


def test_a_form_without_a_usable_nonce_has_no_key() -> None:
    assert key_of(Form({"nonce": ""})) is None
    assert key_of(Form({"nonce": "a b"})) is None
    assert key_of(Form({"nonce": "a" * 65})) is None


def test_a_script_gets_the_address_of_the_new_job(visitor: Visitor) -> None:
    visit = visitor.post("/ui/new", FIELDS, HX_Request="true")
    assert visit.status == 204
    assert visitor.get(visitor.target("/ui/new", visit.headers["HX-Redirect"])).status == 200


def test_without_an_embedder_the_form_says_so(server: InThread) -> None:
    visitor = Visitor(server.url)
    assert "This server embeds no texts" in visitor.get("/ui/new").words()
    visit = visitor.post("/ui/new", {**FIELDS, "model": "local"})
    assert visit.status == 422
    assert "embeddings are missing and this server has no embedder" in visit.words()


def test_a_form_above_the_limit_is_refused(tmp_path: Path) -> None:
    with served(tmp_path / "data", ServerLimits(max_body=1000, stop_timeout=5)) as server:
        visitor = Visitor(server.url)
        visit = visitor.post("/ui/new", {**FIELDS, "pool": "x" * 2000})
        assert visit.status == 413
        assert "larger than 1000 bytes" in visit.words()
        malformed = visitor._send(
            "POST", "/ui/new", b"--edge\r\nx",
            {"Origin": server.url, "Content-Type": "multipart/form-data; boundary=edge"},
        )  # fmt: skip
        assert malformed.status in (400, 422)


def test_a_problem_names_the_field_first() -> None:
    with pytest.raises(Problem, match=r"^config\.budget: Expected"):
        job_request(Form({**FIELDS, "budget": "x"}))
