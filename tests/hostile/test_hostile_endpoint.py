"""Any response of an endpoint is a document, or an error that quotes no control characters."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import numpy as np
import pytest
from hostile_tools import NASTY, damaged, json_values, texts, typed
from hypothesis import example, given, strategies as st
from time_tools import time_limit
from yarl import URL

import zopo_fast as zf
from zopo_fast.llm.openai import responses as answers
from zopo_fast.llm.openai.embeddings.vectors import read_embeddings
from zopo_fast.llm.openai.endpoint import Endpoint
from zopo_fast.llm.openai.refusals.error_body import parse_error
from zopo_fast.llm.openai.refusals.stated_wait import stated_wait
from zopo_fast.llm.openai.retry import Failure

ENDPOINT = Endpoint(zf.ClientConfig("m", base_url="http://localhost:1/v1", api_key="sk-0123456789"))
CHAT = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {},
}
VECTORS = {"data": [{"index": i, "embedding": [0.5, float(i)]} for i in range(3)]}
HEADERS = ("Retry-After", "Date", "Location", "Content-Length", "Transfer-Encoding", "Content-Type")

headers = st.dictionaries(
    st.sampled_from(HEADERS),
    st.one_of(
        texts,
        st.sampled_from(
            [
                "5", "-5", "0.5", "1e999", "9" * 400, "9" * 10**5, "٣", "inf", "nan",
                "Fri, 31 Dec 9999 23:59:59 GMT", "http://[::1",
                "Fri, 31 Dec 0001 23:59:59 +2359", "Fri, 99 Foo 99999999999999999999 99:99:99 GMT", "//[",
                "chunked", "0 " * 1000,
            ]
        ),
    ),
)  # fmt: skip
bodies = st.one_of(
    st.binary(max_size=60),
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"[" * 10**5, b'{"a":' * 10**5, b"9" * 5000, b'{"choices": 1e999}', b"\xff\xfe", b"<" * 100]
    ),
)


@given(st.integers(-1, 1000), headers, bodies)
@example(200, {}, b'{"n": ' + b"9" * 5000 + b"}")
@example(302, {"Location": "http://[::1"}, b"")
@example(302, {"Location": "0 " * 1000}, b"")
def test_any_response_is_a_document_or_a_failure(status: int, given: dict[str, str], body: bytes) -> None:
    reply = answers.Response(URL("http://localhost:1/v1/chat/completions"), status, given, body)
    with time_limit():
        outcome = answers.read_response(reply, ENDPOINT)
    if isinstance(outcome, Failure):
        assert issubclass(outcome.error, zf.LLMError)
        assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in outcome.message)
        assert len(outcome.message) < 1000
    else:
        typed(answers.read_chat, outcome)
        typed(read_embeddings, outcome, 2)


@given(damaged(CHAT), damaged(VECTORS), st.sampled_from([0, 1, 3, 10**18]))
def test_nearly_valid_responses_are_read_or_refused(chat: Any, vectors: Any, count: int) -> None:
    for values in (chat, vectors):
        if isinstance(values, dict):
            document = answers.Document(values, "where", "quoted")
            read = typed(answers.read_chat, document)
            if read is not None and not isinstance(read, Failure):
                read.text.encode()
            found = typed(read_embeddings, document, count)
            if found is not None and not isinstance(found, Failure):
                assert np.isfinite(found.vectors).all()
                assert found.vectors.shape[0] == count


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_any_text_of_an_answer_can_be_stored(nasty: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": nasty}, "finish_reason": nasty}]}).encode()
    document = answers.read_response(answers.Response(URL("http://localhost:1/v1"), 200, {}, body), ENDPOINT)
    assert isinstance(document, answers.Document)
    read = answers.read_chat(document)
    assert not isinstance(read, Failure)
    assert read.text.encode() == nasty.encode("utf-8", "replace")
    assert read.finish_reason == nasty


@given(headers, bodies)
@example({"Retry-After": "9" * 400}, b"")
@example({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": "Fri, 31 Dec 0001 23:59:59 +2359"}, b"")
@example({"x-ratelimit-reset": "9999-99-99T00:00:00Z", "ratelimit": "t=" + "9" * 400}, b"")
@example({}, json.dumps({"message": "try again in " + "1m" * 30_000}).encode())
@example({}, b'{"error": {"retry_after": NaN, "retryDelay": {"seconds": [1]}}}')
@example({}, b'{"estimated_time": -1, "retry_after_ms": 1e999}')
def test_any_stated_wait_is_a_duration_or_none(given: dict[str, str], body: bytes) -> None:
    with time_limit():
        wait = stated_wait(given, parse_error(body))
    assert wait is None or wait.seconds >= 0.0
    assert wait is None or not math.isnan(wait.seconds)
