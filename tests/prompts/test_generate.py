"""Candidate prompts from a model's answers and from lists of parts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from zopo_fast.errors import AuthenticationError, ConfigError, PoolError, ServerError
from zopo_fast.llm.types import Answer, Message, Usage
from zopo_fast.prompts import generate
from zopo_fast.tasks.task import Example

EXAMPLES = [Example(f"word{i}", (f"rhyme{i}", "other")) for i in range(12)]


class Model:
    """Answers by a function of the request's text, in an order that is not that of the calls."""

    def __init__(self, answer: Callable[[str], str], *, order: int = 0) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.rng = random.Random(order)

    async def chat(self, messages: Sequence[Message]) -> Answer:
        text = messages[-1]["content"]
        self.requests.append(text)
        answer = self.answer(text)
        for _ in range(self.rng.randrange(5)):
            await asyncio.sleep(0)
        return Answer(answer, Usage(10, 2, calls=1))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def induce(model: Model, n: int = 6, **settings: int) -> generate.Generated:
    return asyncio.run(generate.induce(model, EXAMPLES, n, **settings))


def test_induce_shows_seeded_subsamples() -> None:
    model = Model(lambda text: f'Instruction: "Do {digest(text)}."')
    found = induce(model, demonstrations=3, seed=1)
    assert found.pool.prompts == tuple(f"Do {digest(text)}." for text in model.requests)
    assert len(set(model.requests)) == len(found.pool) == 6
    assert found.usage == Usage(60, 12, calls=6)
    for request in model.requests:
        assert request.count("Input: word") == 3
        assert "\nOutput: rhyme" in request
        assert "other" not in request
    again = Model(lambda text: f'Instruction: "Do {digest(text)}."', order=9)
    assert induce(again, demonstrations=3, seed=1).pool == found.pool
    assert induce(Model(digest), demonstrations=3, seed=2).pool != induce(Model(digest), seed=1).pool


def test_the_pool_follows_the_calls_not_their_end() -> None:
    pools = {
        induce(Model(lambda text: digest(text)[:1], order=order), n=5, seed=3).pool for order in range(5)
    }
    assert len(pools) == 1


def test_more_calls_are_made_until_there_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter(["Same.", "same.", "Same.", "Same.", "Third."])
    model = Model(lambda text: next(answers))
    found = induce(model, n=3)
    assert found.pool.prompts == ("Same.", "same.", "Third.")
    assert found.pool.counts == (3, 1, 1)
    assert len(model.requests) == 5
    assert not caplog.records


def test_calls_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    model = Model(lambda text: "Always this.")
    found = induce(model, n=3, max_calls=7)
    assert len(model.requests) == 7
    assert found.pool.prompts == ("Always this.",)
    assert "3 prompts were requested" in caplog.text
    model = Model(lambda text: "Always this.")
    induce(model, n=3)
    assert len(model.requests) == 12


def test_a_model_that_repeats_itself_is_not_asked_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    model = Model(lambda _: "Always the same.")
    with caplog.at_level(logging.WARNING):
        found = induce(model, n=30)
    assert found.pool.prompts == ("Always the same.",)
    assert len(model.requests) == 30 + 29  # a second wave, and no third: 120 were allowed
    assert "30 prompts were requested" in caplog.text


def test_a_few_failed_calls_do_not_lose_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    calls = iter(range(100))

    def answer(text: str) -> str:
        if next(calls) % 3 == 0:
            raise ServerError("503")
        return digest(text)

    found = induce(Model(answer), n=6)
    assert len(found.pool) == 6
    assert found.failed == len(caplog.records) + 2 == 3
    assert found.usage.calls == 6


def test_all_calls_failed() -> None:
    def refuse(text: str) -> str:
        raise AuthenticationError("401")

    model = Model(refuse)
    with pytest.raises(AuthenticationError, match="401"):
        induce(model, n=4)
    assert len(model.requests) == 4


def test_answers_without_an_instruction() -> None:
    with pytest.raises(PoolError, match="8 answers"):
        induce(Model(lambda text: ' "" '), n=2)


def test_a_bug_in_the_model_is_not_hidden_and_ends_the_other_calls() -> None:
    begun, ended = [], []

    class Broken:
        async def chat(self, messages: Sequence[Message]) -> Answer:
            begun.append(messages)
            if len(begun) == 3:
                raise KeyError("bug")
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(messages)
            raise AssertionError

    with pytest.raises(KeyError, match="bug"):
        asyncio.run(generate.induce(Broken(), EXAMPLES, 3))
    assert ended == begun[:2]


def test_paraphrase_gives_new_prompts_only() -> None:
    prompts = ["Say {way} now.", "Name a {prompt}."]
    model = Model(lambda text: "Say {way} now." if len(model.requests) == 1 else f"Variation: {digest(text)}")
    found = asyncio.run(generate.paraphrase(model, prompts, 6, seed=4))
    assert len(found.pool) == 6
    assert not set(found.pool.prompts) & set(prompts)
    assert found.usage.calls == len(model.requests) == 7
    assert {sum(prompt in text for text in model.requests) for prompt in prompts} == {3, 4}
    for prompt in prompts:  # every call on one prompt asks in another way
        own = [text for text in model.requests if prompt in text]
        assert len(set(own)) == len(own)
    assert asyncio.run(generate.paraphrase(Model(digest), prompts, 6, seed=4)).pool == (
        asyncio.run(generate.paraphrase(Model(digest, order=5), prompts, 6, seed=4)).pool
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Write a rhyme.", "Write a rhyme."),
        ('"Write a rhyme."', "Write a rhyme."),
        ("“Write a rhyme.”", "Write a rhyme."),
        ("Instruction: Write a rhyme.", "Write a rhyme."),
        ('**Instruction:** "Write a rhyme."', "Write a rhyme."),
        ("The instruction was: 'Write a rhyme.'", "Write a rhyme."),
        ("The instruction was to write a rhyme.", "write a rhyme."),
        ("1. Write a rhyme.", "Write a rhyme."),
        ("- Write a rhyme.", "Write a rhyme."),
        ("Sure! Here is the new instruction:\n\nWrite a rhyme.\n\nThis keeps the meaning.", "Write a rhyme."),
        ("```text\nWrite a rhyme.\n```", "Write a rhyme."),
        ("Write a\n  rhyme  now.", "Write a\n  rhyme now."),
        ('"Good" or "bad"', '"Good" or "bad"'),
        ("Answer with one word: positive or negative.", "Answer with one word: positive or negative."),
        ("Output only the word.", "Output only the word."),
        ("3 words at most.", "3 words at most."),
        ("", ""),
        ('""', ""),
        ("word " * 1000, ""),
    ],
)
def test_clean(answer: str, expected: str) -> None:
    assert generate.clean(answer) == expected


@pytest.mark.parametrize("kind", ["general", "sentiment", "rhymes", "cause_and_effect"])
def test_default_lists_are_large_and_distinct(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    pool = generate.compose(500, seed=1, kind=kind)
    assert len(pool) == 500
    assert set(pool.counts) == {1}
    assert not caplog.records
    assert generate.compose(500, seed=1, kind=kind) == pool
    assert generate.compose(500, seed=2, kind=kind).prompts != pool.prompts
    assert generate.compose(50, seed=1, kind=kind).prompts == pool.prompts[:50]


def test_compose_joins_the_parts(caplog: pytest.LogCaptureFixture) -> None:
    lists = {"roles": ["", "R.", "R. "], "instructions": ["I.", "J."], "formats": ["F."]}
    pool = generate.compose(4, lists=lists)
    assert set(pool.prompts) == {"I. F.", "J. F.", "R. I. F.", "R. J. F."}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert set(generate.compose(9, lists=lists).prompts) == set(pool.prompts)
    assert "9 prompts were requested, the lists give 4" in caplog.text
    assert generate.compose(1, lists={"instructions": ["Only."]}).prompts == ("Only.",)


def test_compose_takes_a_sample_of_a_huge_product() -> None:
    lists = {part: [f"{part}{i}" for i in range(400)] for part in generate.PARTS}
    assert len(generate.compose(300, lists=lists)) == 300


def test_compose_reads_files(tmp_path: Path) -> None:
    toml, flat = tmp_path / "lists.toml", tmp_path / "lists.json"
    toml.write_text('[mine]\nroles = ["A"]\ninstructions = ["B"]\nformats = ["ü"]\n', encoding="utf-8")
    assert generate.compose(1, lists=toml, kind="mine").prompts == ("A B ü",)
    flat.write_text(json.dumps({"instructions": ["Flat."]}))
    assert generate.compose(1, lists=str(flat)).prompts == ("Flat.",)
    with pytest.raises(ConfigError, match="no table 'general'; the tables are mine"):
        generate.compose(1, lists=toml)


@pytest.mark.parametrize(
    "content",
    [
        '{"instructions": []}',
        '{"instructions": "x"}',
        '{"instructions": [1]}',
        '{"instructions": ["x", " "]}',
        '{"instructions": ["x"], "format": ["y"]}',
        '{"roles": ["r"]}',
        "[]",
        "{",
        "\xff",
    ],
)
def test_broken_lists(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lists.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"lists\.json"):
        generate.compose(1, lists=path)
    with pytest.raises(ConfigError, match="No such file"):
        generate.compose(1, lists=tmp_path / "none.toml")


def test_settings_are_checked() -> None:
    model = Model(digest)
    for n in (0, -1, True, 1.5):
        with pytest.raises(ConfigError, match="n must"):
            generate.compose(n)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="n must"):
            asyncio.run(generate.induce(model, EXAMPLES, n))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="example"):
        asyncio.run(generate.induce(model, [], 1))
    with pytest.raises(ConfigError, match="pairs"):
        asyncio.run(generate.induce(model, EXAMPLES, 1, template="no"))
    with pytest.raises(ConfigError, match="prompt"):
        asyncio.run(generate.paraphrase(model, [], 1))
    with pytest.raises(ConfigError, match="max_calls"):
        induce(model, n=1, max_calls=0)
    assert not model.requests
