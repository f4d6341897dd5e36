"""Batching server of the benchmarks: groups, its answers beside llama.cpp's, and answers that are kept."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import zopo_fast as zf
from zopo_fast.bench.common.batch_model import AnswerFile, BadBodyError, BatchServer, parse_body, serving
from zopo_fast.errors import MissingDependencyError
from zopo_fast.llm.local import find_model

for package in ("torch", "gguf", "tokenizers", "jinja2"):
    pytest.importorskip(package, reason=f'{package} is not installed: pip install "zopo-fast[bench-model]"')

from zopo_fast.bench.common.batch_llama import (  # noqa: E402 (imports torch)
    BatchLlama,
    Group,
    Row,
    batches_of,
    group_by_prefix,
)


def model_path() -> Path:
    try:
        return find_model()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def rows(*tokens: Sequence[int]) -> list[Row]:
    return [Row(list(one), 4) for one in tokens]


def saved(groups: Sequence[Group]) -> int:
    return sum((len(group.rows) - 1) * group.shared for group in groups)


def test_rows_with_a_common_instruction_form_a_group() -> None:
    one, two = [1, 2, 3, 4, 5, 6], [1, 2, 9, 8, 7, 6]
    groups = group_by_prefix(rows(*([*one, n] for n in range(20, 25)), *([*two, n] for n in range(3))), 99)
    assert [(len(group.rows), group.shared) for group in groups] == [(5, 6), (3, 6)]
    for group in groups:
        assert len({tuple(row.tokens[: group.shared]) for row in group.rows}) == 1


def test_groups_share_as_many_tokens_as_any_split_of_the_sorted_rows() -> None:
    generator = random.Random(0)
    for _ in range(50):
        some = rows(*([generator.randrange(2) for _ in range(generator.randint(1, 7))] for _ in range(7)))
        ordered = sorted(some, key=lambda row: tuple(row.tokens))
        best = 0
        for cuts in itertools.product((False, True), repeat=6):
            parts: list[list[Row]] = [[ordered[0]]]
            for cut, row in zip(cuts, ordered[1:], strict=True):
                if cut:
                    parts.append([row])
                else:
                    parts[-1].append(row)
            best = max(best, sum((len(part) - 1) * shared_by(part) for part in parts))
        assert saved(group_by_prefix(some, 99)) == best


def shared_by(part: Sequence[Row]) -> int:
    shared = min(len(row.tokens) - 1 for row in part)
    while len({tuple(row.tokens[:shared]) for row in part}) > 1:
        shared -= 1
    return shared


def test_batches_hold_every_row_once_and_are_not_too_large() -> None:
    groups = [
        Group(rows(*([n, m] for m in range(size))), 1) for n, size in enumerate((5, 1, 3, 5, 2, 8, 1, 1))
    ]
    batches = batches_of(groups, 12)
    assert sorted(id(group) for batch in batches for group in batch) == sorted(map(id, groups))
    for batch in batches:
        assert len(batch) * max(len(group.rows) for group in batch) <= 12


def test_long_tails_are_not_batched_with_short_ones() -> None:
    short = [Group(rows(*([n, *range(20)] for _ in range(10))), 1) for n in range(3)]
    long = Group(rows([9, *range(300)]), 1)
    assert sorted(map(len, batches_of([*short, long], 256))) == [1, 3]
    few = [Group(rows([n, *range(20 * n + 2)]), 1) for n in range(3)]
    assert len(batches_of(few, 256)) == 1, "a batch of a few tokens costs no more than one of fewer"


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"temperature": 0.7},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"stop": [3]},
        {"top_k": 4},
    ],
)
def test_a_body_that_cannot_be_obeyed_is_refused(change: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "temperature": 0}
    assert parse_body(body)["max_tokens"] == 64
    with pytest.raises(BadBodyError):
        parse_body({**body, **change})


class Echo:
    """Model that answers with the tokens of the last message, and counts what it computes."""

    max_rows = 8
    context = 100

    def __init__(self) -> None:
        self.vocabulary = self
        self.computed = 0

    def encode(self, messages: Sequence[Any]) -> list[int]:
        return [ord(letter) for letter in messages[-1]["content"]]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def answer(self, batch: Sequence[Row]) -> None:
        for row in batch:
            self.computed += 1
            if row.tokens[0] == ord("!"):
                raise RuntimeError("broken")
            for token in [*row.tokens, 0]:
                row.add(token, frozenset({0}))
                if row.finish_reason:
                    break


async def ask(url: str, text: str, **more: Any) -> tuple[int, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        return response.status, await response.json(content_type=None) if response.status < 500 else None


def test_server_answers_keeps_and_stops(tmp_path: Path) -> None:
    from aiohttp import web

    async def served(model: Echo, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[int, Any]]:
        server = BatchServer(model, AnswerFile(tmp_path / "answers.sqlite3"), "echo")
        runner = web.AppRunner(server.application(), shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return list(await asyncio.gather(*(ask(url, text, **more) for text, more in calls)))
        finally:
            await runner.cleanup()

    calls: list[tuple[str, dict[str, Any]]] = [
        ("hello", {}),
        ("hello", {"max_tokens": 3}),
        ("hello", {"stop": "l"}),
        ("hello", {}),
        ("x" * 99, {"max_tokens": 2}),
    ]
    model = Echo()
    whole, short, stopped, again, long = asyncio.run(served(model, calls))
    assert model.computed == 3  # equal calls in flight are computed once
    choice = whole[1]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "stop")
    assert whole[1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert short[1]["choices"][0]["message"]["content"] == "hel"
    assert short[1]["choices"][0]["finish_reason"] == "length"
    assert stopped[1]["choices"][0]["message"]["content"] == "he"
    assert again[1]["choices"] == whole[1]["choices"]
    assert long[0] == 400
    other = Echo()
    ((_, kept),) = asyncio.run(served(other, calls[:1]))
    assert kept["usage"] == whole[1]["usage"]
    assert other.computed == 0
    ((code, _),) = asyncio.run(served(other, [("!", {})]))
    assert code == 500


@pytest.mark.model
def test_most_answers_begin_as_those_of_llama_cpp() -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    path = model_path()
    words = ("cat", "hat", "boy", "light", "tree", "blue")
    prompts = ("Find a rhyme.", "Answer with one word that rhymes with the input.")
    chats = [
        [{"role": "user", "content": f"Instruction: {prompt}\n\nInput: {word}\n\nOutput:"}]
        for prompt in prompts
        for word in words
    ]

    async def scenario() -> None:
        async with zf.LocalModel(path, body={"max_tokens": 8}) as local:
            expected = [await local.chat(chat) for chat in chats]
        model = BatchLlama(path)
        batch = [Row(model.vocabulary.encode(chat), 8) for chat in chats]
        model.answer(batch)
        for row, answer in zip(batch, expected, strict=True):
            assert len(row.tokens) == answer.usage.prompt_tokens
        answers = [model.vocabulary.decode(row.answer) for row in batch]
        # llama.cpp rounds activations to 8 bits, which changes a third of the answers at some later word.
        pairs = zip(answers, expected, strict=True)
        assert sum(one.split()[:1] == other.text.split()[:1] for one, other in pairs) >= 8
        # Alone, in a batch with others, or beside another prefix: the same answer.
        for row in batch[::5]:
            alone = Row(row.tokens, 8)
            model.answer([alone])
            assert alone.answer == row.answer

    asyncio.run(scenario())


@pytest.mark.model
def test_the_server_speaks_as_an_endpoint(tmp_path: Path) -> None:
    path = model_path()

    async def scenario() -> None:
        async with serving(tmp_path / "answers.sqlite3", path=path) as url:
            config = zf.ClientConfig(
                "SmolLM2-135M-Instruct", base_url=url, api_key="k", body={"max_tokens": 4}
            )
            async with zf.OpenAIClient(config) as client:
                answer = await client.chat([{"role": "user", "content": "Say hello."}])
        assert answer.text
        assert answer.usage.completion_tokens <= 5
        assert answer.usage.prompt_tokens > 20  # with the system prompt of the template

    asyncio.run(scenario())
