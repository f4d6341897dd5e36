"""Settings of any type and size: accepted, or refused by name."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_tools import HUGE, json_values, numbers, texts, typed
from hypothesis import given, strategies as st

import zopo_fast as zf
from zopo_fast.errors import MissingDependencyError
from zopo_fast.prompts import embedders as embed, generate
from zopo_fast.search.config import OfficialSettings

anything: st.SearchStrategy[Any] = st.one_of(numbers, texts, json_values)


@pytest.mark.parametrize("kind", [zf.ZopoConfig, OfficialSettings])
@given(data=st.data())
def test_any_setting_of_a_search(kind: Any, data: st.DataObject) -> None:
    names = st.sampled_from([*kind.__dataclass_fields__, "unknown"])
    given = data.draw(st.dictionaries(names, anything, min_size=1, max_size=3))
    config = typed(kind, **given, also=(TypeError,) if "unknown" in given else ())
    typed(zf.ZopoConfig.official, **given, also=(TypeError,))
    if isinstance(config, zf.ZopoConfig):
        assert zf.ZopoConfig.from_dict(config.to_dict()) == config
        hash(config)


def test_an_endless_iterator_is_refused() -> None:
    with pytest.raises(zf.ConfigError, match="at most 1000000"):
        zf.ZopoConfig(initial=itertools.count())  # type: ignore[arg-type]


@given(anything)
def test_an_invalid_dictionary_is_refused(state: Any) -> None:
    typed(zf.ZopoConfig.from_dict, state)
    good = zf.ZopoConfig.official().to_dict()
    for name in good:
        typed(zf.ZopoConfig.from_dict, {**good, name: state})


@given(st.data())
def test_any_setting_of_a_client(data: st.DataObject) -> None:
    names = st.sampled_from([*zf.ClientConfig.__dataclass_fields__])
    given = {"model": "m", **data.draw(st.dictionaries(names, anything, min_size=1, max_size=3))}
    config = typed(zf.ClientConfig, **given)
    if config is not None:
        assert repr(config)


@given(st.data())
def test_any_setting_of_a_run(data: st.DataObject) -> None:
    names = st.sampled_from([*zf.RunConfig.__dataclass_fields__])
    given = data.draw(st.dictionaries(names, anything, min_size=1, max_size=2))
    config = typed(zf.RunConfig, **given, also=(TypeError,))
    if config is not None:
        typed(config.races, zf.Task("t", (), metric="f1"), also=(TypeError, AttributeError))


@given(
    st.one_of(
        texts,
        st.sampled_from(["local:", "endpoint:", "st:", "minilm:"]).flatmap(lambda k: texts.map(k.__add__)),
    )
)
def test_any_name_of_an_embedder(spec: str) -> None:
    typed(embed.resolve, spec.replace("local", "Local"), cache=False, also=(MissingDependencyError,))
    typed(embed.resolve, f"local:last:~nobody/{spec}", cache=False)
    typed(embed.resolve, f"local:{spec}:x", cache=False)


@given(anything, anything, texts)
def test_composing_of_any_parts(n: Any, lists: Any, kind: str) -> None:
    typed(generate.compose, n, 0, {"instructions": ["a", "b"]})
    typed(generate.compose, 3, 0, {"instructions": lists})
    typed(generate.compose, 3, 0, {"roles": lists, "instructions": ["a"], kind: lists})
    if isinstance(lists, dict):
        typed(generate.compose, 3, 0, lists, kind=kind)


def test_composing_from_many_parts_needs_little_memory() -> None:
    many = [str(i) for i in range(10**5)]
    for n in (10**7, 10**18, HUGE):
        with pytest.raises(zf.ConfigError, match="at most"):
            generate.compose(n, 0, {"instructions": many, "roles": many, "formats": many})
    assert len(generate.compose(3, 0, {"instructions": many, "roles": many, "formats": many})) == 3


@pytest.mark.parametrize(
    "embeddings", ["text", 5, [[1.0], [2.0, 3.0]], [[1.0]], np.full((3, 2), np.nan)], ids=ascii
)
def test_invalid_embeddings_are_refused_before_any_call(embeddings: Any) -> None:
    scored: list[str] = []
    with pytest.raises(zf.InputError, match="embeddings"):
        zf.optimize_sync(scored.append, ["a", "b", "c"], config=zf.RunConfig(budget=3), embeddings=embeddings)
    assert scored == []


class Never:
    """Embedder that must not be called."""

    name = "never"

    async def embed(self, texts: Any) -> Any:
        raise AssertionError("the embedder was called")


@pytest.mark.parametrize("bad", [["a", "\ud800"], "text", [1], [None], [b"a"]])
@pytest.mark.parametrize("folder", ["cache", "no\0path"])
def test_invalid_texts_are_refused_before_the_embedder_is_called(
    tmp_path: Path, bad: Any, folder: str
) -> None:
    cached = embed.CachedEmbedder(Never(), tmp_path / folder)
    with pytest.raises(zf.InputError, match=r"strings|surrogate"):
        asyncio.run(cached.embed(bad))
