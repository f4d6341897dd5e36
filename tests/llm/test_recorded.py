"""Answers of a study: recorded under stable keys, replayed once each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from zopo_fast.llm.adapter import as_chat_model
from zopo_fast.llm.cached_model import key_of
from zopo_fast.llm.middleware import RecordedModel, ReplayedAnswers, recorded_key
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient
from zopo_fast.llm.types import Answer, CallKey, Message, Usage

HELLO = [{"role": "user", "content": "say hello"}]
KEY = CallKey("train", "Do it.", 3)


class Log:
    """Answers by number, in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, str, Answer]] = []

    def answers(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for number, (key, _, _) in enumerate(self.rows):
            found.setdefault(key, []).append(number)
        return found

    def answer(self, number: int) -> Answer:
        return self.rows[number][2]

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        self.rows.append((key, role, answer))


@pytest.mark.parametrize(
    ("role", "key", "digest"),
    [
        ("writer", None, "dfc66425de9a74aabd98987dd6a82a78"),
        ("model", KEY, "7101be303107170c08d5d19ad6cac59a"),
        ("judge", KEY, "144528cdcd4cb7a5a3dd1934e63acd5f"),
    ],
)
def test_the_keys_in_study_files_do_not_change(role: str, key: CallKey | None, digest: str) -> None:
    """Older study files hold these bytes: with other keys a resumed study would repeat all calls."""
    log = Log()
    model = RecordedModel(as_chat_model(lambda _: "hi", 1), ReplayedAnswers(log), role)
    asyncio.run(model.chat(HELLO, key=key))
    assert [(found.hex(), used) for found, used, _ in log.rows] == [(digest, role)]


def test_the_keys_in_the_answer_cache_do_not_change() -> None:
    url = "http://me:secret99@h/v1?api-version=2"
    client = OpenAIClient(ClientConfig("m", base_url=url, body={"temperature": 0}))
    assert (
        key_of(client.identity, HELLO).hex()
        == "a6f389c49106e35d6b2d24c73553b8333c1971774b5fe33c29ad89492bd7c34d"
    )


def test_role_and_key_distinguish_calls_with_equal_messages() -> None:
    keys = [None, KEY, KEY._replace(part="heldout"), KEY._replace(prompt="Do."), KEY._replace(example=4)]
    digests = {recorded_key(role, key, HELLO) for role in ("model", "judge") for key in keys}
    assert len(digests) == 10


def test_recorded_answers_are_replayed_once_each_and_oldest_first() -> None:
    log, asked = Log(), list[Sequence[Message]]()

    def function(messages: Any) -> Answer:
        asked.append(messages)
        return Answer(f"answer {len(asked)}", Usage(calls=1))

    def run(calls: int) -> list[str]:
        async def scenario() -> list[str]:
            model = RecordedModel(as_chat_model(function, 1), ReplayedAnswers(log), "model")
            return [(await model.chat(HELLO, key=KEY)).text for _ in range(calls)]

        return asyncio.run(scenario())

    assert run(2) == ["answer 1", "answer 2"]
    assert run(3) == ["answer 1", "answer 2", "answer 3"]
    assert len(asked) == 3
