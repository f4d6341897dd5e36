"""Form that starts a job: reading it, and translating it to the request of the API."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgspec
from aiohttp import web

from zopo_fast.errors import PoolError, TaskError
from zopo_fast.prompts.pool import Pool
from zopo_fast.serve.config import ServerLimits
from zopo_fast.serve.http.idempotency import IdempotencyKey
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.request import check_length
from zopo_fast.serve.jobs.schemas import CreateJob, MetricName
from zopo_fast.tasks.task import Task

METRICS: tuple[str, ...] = get_args(MetricName)
TEMPLATES = ("instruction", "system", "user")
MAX_HELDOUT = 300  # an interval gains little from more
TASK_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
POOL_SUFFIXES = (".txt", ".jsonl")


@dataclass
class Form:
    """Fields of a form as texts, and the names of its uploaded files.

    An uploaded file becomes the text of its field, so that a form that comes back has lost nothing.
    """

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


async def read_form(request: web.BaseRequest, limits: ServerLimits) -> Form:
    """Read a form, URL-encoded or multipart; a file is read into the field with the name before `_file`.

    Raises:
        Problem: 400 for a malformed form, 408 for a slow one, 413 for a large one, 422 for a file that is
            not text in UTF-8.
    """
    check_length(request, limits)
    sized = request.clone(client_max_size=limits.max_body)
    try:
        given = await asyncio.wait_for(sized.post(), limits.body_timeout)
    except TimeoutError:
        raise Problem(
            408, "BodyTimeout", "form: did not arrive in time; send it again", {"Connection": "close"}
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise Problem(
            413,
            "BodyTooLarge",
            f"form: larger than {limits.max_body} bytes; send less, or start the server with a larger "
            "--max-body",
            {"Connection": "close"},
        ) from None
    except Exception as error:  # aiohttp has no common error for a malformed form
        raise Problem(400, "BadForm", "form: malformed; send it from the page") from error
    form = Form()
    uploads: list[tuple[str, str, bytes]] = []
    for name, value in given.items():
        if isinstance(value, web.FileField):
            with value.file as file:
                uploads.append((name.removesuffix("_file"), value.filename, file.read()))
        else:
            form.fields.setdefault(name, str(value))
    for name, filename, data in uploads:
        if not filename or not data:
            continue
        try:
            form.fields[name] = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Problem(422, "ValidationError", f"{name}: {filename} is not text in UTF-8") from None
        form.files[name] = Path(filename).suffix.lower()
    return form


def job_request(form: Form) -> CreateJob:
    """Translate the form to the request that creates a job.

    Raises:
        TaskError: the examples cannot be read.
        PoolError: the pool cannot be read.
        Problem: 422, a field is missing or invalid.
    """
    task, pool = _task(form), _pool(form)
    config = _given(form, "budget", "incumbent", "seed", "target")
    limits = {name: form[f"limit_{name}"].strip() for name in ("calls", "tokens", "cost", "seconds")}
    limits = {name: value for name, value in limits.items() if value}
    values: dict[str, Any] = {
        **_given(form, "name", "model"),
        "task": task,
        "pool": pool,
        "config": {**config, **({"limits": limits} if limits else {})},
    }
    if form["metric"] == "judge":
        values |= _given(form, "judge")
    try:
        return msgspec.convert(values, CreateJob, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(422, "ValidationError", _in_words(str(error))) from None


def key_of(form: Form) -> IdempotencyKey | None:
    """Return the key of a form, so that a form sent twice starts one job; None without a nonce."""
    nonce = form["nonce"]
    if not nonce.isalnum() or len(nonce) > 64:
        return None
    rest = sorted((name, value) for name, value in form.fields.items() if name != "nonce")
    digest = hashlib.blake2b(msgspec.json.encode(rest), digest_size=16).hexdigest()
    return IdempotencyKey(f"page-{nonce}-{digest}", digest)


def _given(form: Form, *names: str) -> dict[str, str]:
    return {name: form[name].strip() for name in names if form[name].strip()}


def _task(form: Form) -> dict[str, Any]:
    text = form["task"]
    if not text.strip():
        raise Problem(422, "ValidationError", "task: missing; choose a file or paste the examples")
    suffix = form.files.get("task") or _task_suffix(text)
    if suffix not in TASK_SUFFIXES:
        raise Problem(422, "ValidationError", f"task: a file {suffix} is not supported; send JSONL or CSV")
    count = form["examples"].strip()
    if count and not count.isdecimal():
        raise Problem(422, "ValidationError", "examples: not a number; leave it empty for 20")
    with _file("task", text, suffix, TaskError) as path:
        # Metric and template never come from the file: a template could name a file of the server.
        task = Task.load(
            path,
            examples=int(count or 20),
            metric=form["metric"] or METRICS[0],
            template=form["template"] or TEMPLATES[0],
        )

    def rows(examples: Any) -> list[dict[str, Any]]:
        return [{"input": one.input, "output": list(one.outputs)} for one in examples]

    return {
        "examples": rows(task.train),
        "heldout": rows(task.heldout[:MAX_HELDOUT]),
        "metric": form["metric"] or METRICS[0],
        "template": form["template"] or TEMPLATES[0],
        "name": form["name"].strip() or "task",
    }


def _task_suffix(text: str) -> str:
    """Tell the format of pasted examples."""
    if not text.lstrip().startswith(("{", "[")):
        return ".tsv" if "\t" in text.lstrip().partition("\n")[0] else ".csv"
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return ".jsonl"
    return ".json"


def _pool(form: Form) -> list[Any]:
    text = form["pool"]
    if not text.strip():
        raise Problem(422, "ValidationError", "pool: missing; write one prompt a line, or choose a file")
    suffix = form.files.get("pool") or (".jsonl" if text.lstrip().startswith('{"prompt"') else ".txt")
    if suffix not in POOL_SUFFIXES:
        raise Problem(422, "ValidationError", f"pool: a file {suffix} is not supported; send text or JSONL")
    if suffix == ".txt":
        prompts = [line for line in text.splitlines() if line.strip()]
    else:
        with _file("pool", text, suffix, PoolError) as path:
            prompts = list(Pool.load(path).prompts)
    if len(prompts) < 2:
        raise Problem(422, "ValidationError", "pool: only one prompt; a search needs at least two")
    return prompts


@contextlib.contextmanager
def _file(name: str, text: str, suffix: str, kind: type[TaskError | PoolError]) -> Iterator[Path]:
    """Write a text to a file for the readers of files; errors name the field instead of that file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (name + suffix)
        path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        try:
            yield path
        except kind as error:
            raise Problem(422, type(error).__name__, str(error).replace(f"{folder}/", "")) from None


def _in_words(message: str) -> str:
    """Name the field of an error before the error: `config.budget: Expected...`."""
    what, _, where = message.partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what


def defaults(models: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of an empty form."""
    return {"budget": "30", "examples": "20", "metric": METRICS[0], "model": min(models, default="")}
