"""Prices from the list on disk: by host, by a prefix of the name, by the name alone."""

from __future__ import annotations

import socket
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from zopo_fast.errors import ConfigError
from zopo_fast.llm.price_list import listed_prices

LLAMA = "meta-llama/llama-3.3-70b-instruct"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"

genai_prices = pytest.importorskip("genai_prices")


def expected(model: str, provider: str) -> tuple[float, float]:
    usage = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
    found = genai_prices.calc_price(usage, model, provider_id=provider)
    return float(found.input_price * 1000), float(found.output_price * 1000)


@pytest.mark.parametrize(
    ("model", "url", "name", "provider"),
    [
        ("gpt-4o-mini", "https://api.openai.com/v1", "gpt-4o-mini", "openai"),
        ("gpt-4o-mini", None, "gpt-4o-mini", "openai"),
        ("GPT-4o-mini", "http://localhost:8000/v1", "gpt-4o-mini", "openai"),
        ("openai/gpt-4o-mini", "https://proxy.example/v1", "gpt-4o-mini", "openai"),
        ("anthropic/claude-3-5-haiku-latest", None, "claude-3-5-haiku-latest", "anthropic"),
        (LLAMA, "https://openrouter.ai/api/v1", LLAMA, "openrouter"),
        # The price of the lowest tier: prompts are short.
        ("gemini-2.5-pro", GOOGLE, "gemini-2.5-pro", "google"),
    ],
)  # fmt: skip
def test_a_model_is_found(
    model: str, url: str | None, name: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = listed_prices(model, url)
    assert (found.prices.prompt, found.prices.completion) == expected(name, provider)
    assert 0 < found.prices.prompt < found.prices.completion
    assert found.entry.endswith(f" of {provider}")
    assert found.source == f"genai-prices {genai_prices.__version__}"


def test_the_prices_are_per_million_tokens() -> None:
    prices = listed_prices("gpt-4o-mini").prices
    assert (Decimal(str(prices.prompt)), Decimal(str(prices.completion))) == (Decimal("0.15"), Decimal("0.6"))


@pytest.mark.parametrize("model", ["nonsense", "x/nonsense", "/", "\ud800", "m" * 10_000])
@pytest.mark.parametrize("url", [None, "https://api.openai.com/v1", "http://127.0.0.1:1/v1", "nonsense"])
def test_an_unknown_model_is_an_error(model: str, url: str | None) -> None:
    with pytest.raises(ConfigError, match=r"no price of the model .* give its prices by hand") as caught:
        listed_prices(model, url)
    assert len(str(caught.value)) < 300


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['genai_prices'] = None\nimport zopo_fast as zf\n"
        "from zopo_fast.llm.price_list import listed_prices\n"
        "try: listed_prices('gpt-4o-mini')\nexcept zf.MissingDependencyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'pip install "zopo-fast[prices]"' in done.stdout
