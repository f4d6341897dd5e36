"""What a `FakeServer` may do with a request, and plans of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

Edit = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Behaviour:
    """What the server does with one request."""

    name: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    edit: Edit | None = None
    """Changes the good JSON answer."""
    raw: bytes | None = None
    """Sent instead of JSON."""
    content_type: str = "application/json"
    cut: str | None = None
    """Where the connection drops: "before", "length", "chunked" or "close" (no length, no chunks)."""
    hold: bool = False
    """Answered only once `server.release` is set; the client is expected to give up before."""
    good: bool = False
    """Whether the client gets its answer."""


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    index: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    behaviour: str = ""

    @property
    def key(self) -> str:
        """What is asked: the messages or the texts as JSON."""
        return key_of(self.body.get("messages", self.body.get("input")))


Plan = Sequence[Behaviour] | Behaviour | Callable[[Request], Behaviour] | None


def key_of(asked: Any) -> str:
    """Return the key under which `FakeServer.answered` counts messages or texts."""
    return json.dumps(asked, sort_keys=True)


def ok() -> Behaviour:
    """A good answer."""
    return Behaviour("ok", good=True)


def status(
    code: int, *, retry_after: float | None = None, as_date: bool = False, text: str = "no"
) -> Behaviour:
    """An error status, with `Retry-After` in seconds or, `as_date`, as a date that far from the answer's."""
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
    """The connection drops before any answer."""
    return Behaviour("dropped", cut="before")


def truncated(how: str = "length") -> Behaviour:
    """The connection drops in the middle of the body; `how`: "length", "chunked" or "close"."""
    return Behaviour(f"truncated {how}", cut=how)


def slow() -> Behaviour:
    """The answer is held until `server.release` is set."""
    return Behaviour("slow", hold=True)


def html(code: int = 200) -> Behaviour:
    """A web page."""
    page = b"<!DOCTYPE html><html><body>Welcome</body></html>"
    return Behaviour("html", status=code, raw=page, content_type="text/html")


def broken_json() -> Behaviour:
    """A body of the promised length that is no JSON."""
    return Behaviour("broken json", raw=b'{"choices": [{"mess')


def redirect(location: str) -> Behaviour:
    """A redirect."""
    return Behaviour("redirect", status=307, headers={"Location": location}, raw=b"")


def huge(size: int) -> Behaviour:
    """A body of `size` bytes, sent in chunks."""
    return Behaviour("huge", raw=b'{"pad": "' + b"x" * size + b'"}')


def edited(edit: Edit, *, name: str = "edited", good: bool = False) -> Behaviour:
    """A good answer's JSON, changed by `edit`."""
    return Behaviour(name, edit=edit, good=good)


def no_choices() -> Behaviour:
    """An answer without choices."""
    return edited(lambda answer: {**answer, "choices": []}, name="no choices")


def null_content() -> Behaviour:
    """An answer whose text is null."""
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
    return edited(lambda answer: {**answer, "choices": [choice]}, name="null content")


def no_usage() -> Behaviour:
    """A good answer that does not say what it cost."""
    return edited(lambda a: {k: v for k, v in a.items() if k != "usage"}, name="no usage", good=True)


def absurd_usage(prompt: Any = -5, completion: Any = 10**15) -> Behaviour:
    """A good answer with a usage that cannot be."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return edited(lambda answer: {**answer, "usage": usage}, name="absurd usage", good=True)


def random_faults(
    *, seed: int, share: float = 0.3, kinds: Sequence[Behaviour] | None = None, at_most: int = 3
) -> Callable[[Request], Behaviour]:
    """Return a plan where a `share` of requests fails, each one asked the same at most `at_most` times.

    With `at_most` below the client's attempts every call is answered in the end, whatever the dice say.
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
    """Return a vector in [-1, 1] that depends on nothing but the text."""
    rng = random.Random(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return [rng.uniform(-1.0, 1.0) for _ in range(dimension)]


def only_first(chat_calls: int, otherwise: Any) -> Any:
    """A plan: embeddings and so many chat calls are answered."""
    seen = 0

    def plan(request: Request) -> Any:
        nonlocal seen
        seen += request.path.endswith("/chat/completions")
        return ok() if seen <= chat_calls else otherwise

    return plan
