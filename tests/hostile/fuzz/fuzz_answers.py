"""Fuzz responses of an endpoint, their headers, and the text of answers."""

from __future__ import annotations

import json
from pathlib import Path

from harness import fuzz, instrumented

with instrumented:
    from zopo_fast._utils import text
    from zopo_fast.llm.openai import responses as answers
    from zopo_fast.llm.openai.embeddings import vectors
    from zopo_fast.llm.openai.refusals.error_body import parse_error
    from zopo_fast.llm.openai.refusals.stated_wait import stated_wait
    from zopo_fast.prompts import cleaning
    from zopo_fast.prompts.pool import normalise
    from zopo_fast.scoring import judge, metrics

from yarl import URL

from zopo_fast.llm.openai.config import ClientConfig
from zopo_fast.llm.openai.endpoint import Endpoint

ENDPOINT = Endpoint(ClientConfig("m", base_url="http://localhost:1/v1", api_key="sk-0123456789"))
HEADERS = ("Retry-After", "Date", "Location", "Content-Length", "Transfer-Encoding")


def target(folder: Path, data: bytes) -> None:
    """Read status (two bytes), headers (up to the first NUL byte) and body from the input."""
    del folder
    head, _, body = data[2:].partition(b"\0")
    values = head.decode("utf-8", "replace").split("\n")
    headers = dict(zip(HEADERS, values, strict=False))
    wait = stated_wait(headers, parse_error(body))
    if wait is not None and not wait.seconds >= 0:
        raise AssertionError(f"negative wait of {wait} s")
    status = int.from_bytes(data[:2], "big") % 600 if data[:1] != b"2" else 200
    texts_of(body.decode("utf-8", "replace"))
    outcome = answers.read_response(
        answers.Response(URL("http://localhost:1/v1"), status, headers, body), ENDPOINT
    )
    if isinstance(outcome, answers.Document):
        vectors.read_embeddings(outcome, len(outcome.values.get("data") or ())) if isinstance(
            outcome.values.get("data"), list
        ) else answers.read_chat(outcome)


def texts_of(answer: str) -> None:
    """Call every function that takes the text of an answer."""
    half = answer[: len(answer) // 2]
    for name, metric in metrics.METRICS.items():
        if not 0.0 <= metric(answer, half) <= 1.0:
            raise AssertionError(f"{name} out of range")
    score = judge.parse_score(answer)
    if score is not None and not 0.0 <= score <= 1.0:
        raise AssertionError(f"score {score}")
    if cleaning.clean(answer) != normalise(cleaning.clean(answer)):
        raise AssertionError("an instruction that is not normalised")
    text.printable(answer).encode()
    if json.loads(text.json_line(answer)) != answer:
        raise AssertionError("the text changed")


if __name__ == "__main__":
    fuzz(target)
