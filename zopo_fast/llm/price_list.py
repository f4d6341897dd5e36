"""Prices of known models from the package `genai-prices`, whose data lie on disk: no call is made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, MissingDependencyError
from zopo_fast.llm.limits import Prices

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKENS = 1000  # of the call that is priced: few enough for the lowest tier of models with several


@dataclass(frozen=True)
class ListedPrices:
    """Prices of a model and the entry of the list that they stand in.

    Attributes:
        prices: of a million tokens, in US dollars.
        entry: model and provider in the list.
        source: name and version of the list.
    """

    prices: Prices
    entry: str
    source: str


def listed_prices(model: str, base_url: str | None = None) -> ListedPrices:
    """Return the listed prices of a model.

    The provider is that of the base URL's host. For an unknown host, such as that of a proxy, the provider
    stands in front of the model's name, as in "openai/gpt-4o-mini", or is the one known for the model.

    Args:
        model: name of the model at the endpoint.
        base_url: of the endpoint; None: not known.

    Raises:
        ConfigError: the list has no such model.
        MissingDependencyError: genai-prices is not installed.
    """
    try:
        import genai_prices
    except ImportError as error:
        raise MissingDependencyError(
            'the price list needs genai-prices: pip install "zopo-fast[prices]"'
        ) from error
    source = f"genai-prices {version('genai-prices')}"
    usage = genai_prices.Usage(input_tokens=_TOKENS, output_tokens=_TOKENS)
    for name, provider in _references(model, base_url):
        try:
            found = genai_prices.calc_price(usage, name, **provider)
        except (LookupError, ValueError):
            continue
        scale = 10**6 // _TOKENS
        prices = Prices(float(found.input_price * scale), float(found.output_price * scale))
        return ListedPrices(prices, f"{found.model.id} of {found.provider.id}", source)
    raise ConfigError(f"no price of the model {short_repr(model)} in {source}; give its prices by hand")


def _references(model: str, base_url: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names of the model with what is known of its provider, the most certain first."""
    prefix, _, rest = model.partition("/")
    if base_url is not None:
        yield model, {"provider_api_url": base_url}
    if rest:
        yield rest, {"provider_id": prefix}
    yield model, {}
    if rest:
        yield rest, {}
