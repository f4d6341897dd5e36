"""Behaviours of a `FakeServer`, and plans of behaviours."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

Edit = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Behaviour:
    """Behaviour of the server for one request."""

    name: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    edit: Edit | None = None
    """Changes the good JSON response."""
    raw: bytes | None = None
    """Body sent instead of JSON."""
    content_type: str = "application/json"
    cut: str | None = None
    """Point at which the connection drops: "before", "length", "chunked" or "close"."""
    hold: bool = False
    """Respond only once `server.release` is set; the client gives up before."""
    good: bool = False
    """The client gets an answer."""


@dataclass(frozen=True)
class Request:
    """Received request."""

    index: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    behaviour: str = ""

    @property
    def key(self) -> str:
        """Messages or texts of the request as JSON."""
        return key_of(self.body.get("messages", self.body.get("input")))


Plan = Sequence[Behaviour] | Behaviour | Callable[[Request], Behaviour] | None


def key_of(asked: Any) -> str:
    """Return the key under which `FakeServer.answered` counts messages or texts."""
    return json.dumps(asked, sort_keys=True)


def ok() -> Behaviour:
    """Respond with an answer."""
    return Behaviour("ok", good=True)


def status(
    code: int, *, retry_after: float | None = None, as_date: bool = False, text: str = "no"
) -> Behaviour:
    """Respond with an error status, and `Retry-After` in seconds or, with `as_date`, as a date."""
    headers = {}
    if retry_after is not None and as_date:
        now = 1_700_000_000
        headers = {
            "Date": formatdate(now, usegmt=True),
            "Retry-After": formatdate(now + retry_after, usegmt=True),
        }
    elif retry_after is not None:
        headers = {"Retry-After": f"{retry_after:g}"}
    raw = json.dumps({"error": {"message": text}}).encode()
    return Behaviour(f"status {code}", status=code, headers=headers, raw=raw)


def dropped() -> Behaviour:
    """Drop the connection before any response."""
    return Behaviour("dropped", cut="before")


def truncated(how: str = "length") -> Behaviour:
    """Drop the connection in the middle of the body; `how`: "length", "chunked" or "close"."""
    return Behaviour(f"truncated {how}", cut=how)


def slow() -> Behaviour:
    """Hold the response until `server.release` is set."""
    return Behaviour("slow", hold=True)


def html(code: int = 200) -> Behaviour:
    """Respond with a web page."""
    page = b"<!DOCTYPE html><html><body>Welcome</body></html>"
    return Behaviour("html", status=code, raw=page, content_type="text/html")


def broken_json() -> Behaviour:
    """Respond with a complete body that is no JSON."""
    return Behaviour("broken json", raw=b'{"choices": [{"mess')


def redirect(location: str) -> Behaviour:
    """Respond with a redirect."""
    return Behaviour("redirect", status=307, headers={"Location": location}, raw=b"")


def huge(size: int) -> Behaviour:
    """Respond with a body of about `size` bytes."""
    return Behaviour("huge", raw=b'{"pad": "' + b"x" * size + b'"}')


def edited(edit: Edit, *, name: str = "edited", good: bool = False) -> Behaviour:
    """Respond with the good JSON, changed by `edit`."""
    return Behaviour(name, edit=edit, good=good)


def no_choices() -> Behaviour:
    """Respond without choices."""
    return edited(lambda answer: {**answer, "choices": []}, name="no choices")


def null_content() -> Behaviour:
    """Respond with null as the text."""
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
    return edited(lambda answer: {**answer, "choices": [choice]}, name="null content")


def no_usage() -> Behaviour:
    """Respond with an answer and no usage."""
    return edited(lambda a: {k: v for k, v in a.items() if k != "usage"}, name="no usage", good=True)


def absurd_usage(prompt: Any = -5, completion: Any = 10**15) -> Behaviour:
    """Respond with an answer and an impossible usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return edited(lambda answer: {**answer, "usage": usage}, name="absurd usage", good=True)


def random_faults(
    *, seed: int, share: float = 0.3, kinds: Sequence[Behaviour] | None = None, at_most: int = 3
) -> Callable[[Request], Behaviour]:
    """Return a plan in which a `share` of requests fails, equal requests at most `at_most` times.

    With `at_most` below the client's attempts every call is answered in the end.
    """
    rng = random.Random(seed)
    mixed = (status(429), status(500), status(503), status(408), dropped(), truncated(), truncated("chunked"))
    choices = mixed if kinds is None else tuple(kinds)
    failed: Counter[str] = Counter()

    def plan(request: Request) -> Behaviour:
        if rng.random() >= share or failed[request.key] >= at_most:
            return ok()
        failed[request.key] += 1
        return rng.choice(choices)

    return plan


def hashed_vector(text: str, dimension: int = 8) -> list[float]:
    """Return a vector in [-1, 1] that depends on the text only."""
    rng = random.Random(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return [rng.uniform(-1.0, 1.0) for _ in range(dimension)]


def only_first(chat_calls: int, otherwise: Any) -> Any:
    """Return a plan that answers embeddings and the first `chat_calls` chat calls."""
    seen = 0

    def plan(request: Request) -> Any:
        nonlocal seen
        seen += request.path.endswith("/chat/completions")
        return ok() if seen <= chat_calls else otherwise

    return plan


def batch_limit(most: int, refusal: Behaviour) -> Callable[[Request], Behaviour]:
    """Return a plan that answers embedding requests of at most `most` texts, and refuses others."""

    def plan(request: Request) -> Behaviour:
        texts = request.body.get("input")
        return refusal if isinstance(texts, list) and len(texts) > most else ok()

    return plan


def base64_vectors() -> Behaviour:
    """Respond with vectors in base64 of little-endian float32."""

    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        for item in answer["data"]:
            packed = struct.pack(f"<{len(item['embedding'])}f", *item["embedding"])
            item["embedding"] = base64.b64encode(packed).decode()
        return answer

    return edited(edit, name="base64", good=True)


def native_vectors(shape: Callable[[list[list[float]]], Any]) -> Behaviour:
    """Respond with vectors in the shape of another API, made by `shape` from the rows."""
    return edited(lambda a: shape([item["embedding"] for item in a["data"]]), name="native", good=True)


def served_by(model: str | None, fingerprint: str | None = None) -> Behaviour:
    """Respond with an answer that states the model and its fingerprint."""
    stated = {"model": model, "system_fingerprint": fingerprint}

    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in answer.items() if name not in stated}
        return {**rest, **{name: value for name, value in stated.items() if value is not None}}

    return edited(edit, name=f"served by {model} {fingerprint}", good=True)
