"""Vectors of an embedding response, in the shapes that servers answer with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zopo_fast.llm.openai.embeddings.encoding import Row, decoded, is_other_format
from zopo_fast.llm.openai.responses import Document
from zopo_fast.llm.openai.retry import Failure
from zopo_fast.llm.types import stated_tokens

Vectors = np.ndarray[Any, np.dtype[np.float32]]

_LISTS = ("data", "embeddings", "embedding")  # OpenAI; Ollama, TEI, Cohere; llama.cpp
_ROWS = ("embedding", "values", "vector", "float")


@dataclass(frozen=True)
class Embeddings:
    """Vectors in the order of the texts, (count, d) float32, and the stated tokens of the texts."""

    vectors: Vectors
    prompt_tokens: int | None
    completion_tokens: int | None = 0

    @property
    def span_attributes(self) -> dict[str, Any]:
        """Attributes of the call's span."""
        return {
            "gen_ai.usage.input_tokens": self.prompt_tokens,
            "gen_ai.embeddings.dimension.count": self.vectors.shape[1],
        }


def read_embeddings(document: Document, count: int, dimensions: Any = None) -> Embeddings | Failure:
    """Return `count` vectors, or the failure of a response that does not hold them.

    Understood are OpenAI's shape, with or without `index`, lists of vectors under `embeddings`, and vectors
    as numbers or as base64 of little-endian float32.

    Args:
        document: JSON object of the response.
        count: number of texts.
        dimensions: requested dimensions, if any.
    """
    items = _items(document.values, count)
    if items is None:
        return document.malformed(
            "the response holds no embeddings; check that the server serves /embeddings"
        )
    order = _order(items)
    if (problem := _disorder(order, count)) is not None:
        return document.malformed(problem)
    rows = [row for item in items if (row := _row(item)) is not None]
    if (failure := _unlike_rows(document, items, rows, dimensions)) is not None:
        return failure
    vectors: Vectors = np.empty((count, len(rows[0]) if rows else 0), dtype=np.float32)
    with np.errstate(over="ignore"):
        vectors[order] = rows
    if not np.isfinite(vectors).all():
        return document.malformed("an embedding holds NaN, infinity or a number beyond float32")
    return Embeddings(vectors, stated_tokens(document.values, "prompt_tokens", least=1))


def _items(values: Mapping[str, Any], count: int) -> list[Any] | None:
    """Return the entries of the response, one a text; None where it holds none."""
    for name in _LISTS:
        found = values.get(name)
        if isinstance(found, Mapping) and isinstance(found.get("float"), list):  # Cohere, by type
            found = found["float"]
        if not isinstance(found, list):
            continue
        if count == 1 and found and all(isinstance(x, (int, float)) for x in found):
            return [found]  # the vector of a single text
        if all(isinstance(item, (Mapping, list, str)) for item in found):
            return found
    return None


def _order(items: Sequence[Any]) -> list[Any]:
    """Return the index of each entry; the position where no entry states one."""
    stated = [item.get("index") if isinstance(item, Mapping) else None for item in items]
    if all(index is None for index in stated):
        return list(range(len(items)))
    return stated


def _disorder(order: Sequence[Any], count: int) -> str | None:
    """Return the problem with the indices of `count` embeddings; None: they are complete."""
    if len(order) != count:
        return f"the response holds {len(order)} embeddings for {count} texts"
    if any(type(index) is not int for index in order) or sorted(order) != list(range(count)):
        return f"the indices of the embeddings are not 0 to {count - 1}, each once"
    return None


def _unlike_rows(document: Document, items: list[Any], rows: list[Row], dimensions: Any) -> Failure | None:
    """Return the failure of entries that are not all rows of one dimension; None: they are."""
    encoded = [values for item in items for values in _candidates(item) if isinstance(values, str)]
    if is_other_format(encoded, dimensions):
        return document.malformed(
            "the embeddings in base64 are not float32 (perhaps float16 or int8); set encoding_format to "
            '"float" in embedding_body, --embedding-body on the command line',
            "encoding_format",
        )
    if len(rows) < len(items):
        return document.malformed("an embedding is missing or not a list of numbers")
    if len({len(row) for row in rows}) > 1:
        return document.malformed("the embeddings have different dimensions")
    return None


def _row(item: Any) -> Row | None:
    """Return the vector of one entry; None where it holds none."""
    return next((row for values in _candidates(item) if (row := _vector(values)) is not None), None)


def _candidates(item: Any) -> Iterator[Any]:
    values = next((item[name] for name in _ROWS if name in item), None) if isinstance(item, Mapping) else item
    if isinstance(values, Mapping):
        values = values.get("float")
    yield values
    if isinstance(values, list) and len(values) == 1:  # llama.cpp: [[...]], one row after pooling
        yield values[0]


def _vector(values: object) -> Row | None:
    if isinstance(values, str):
        return decoded(values)
    try:
        row = np.asarray(values)
    except ValueError:  # rows of different lengths inside
        return None
    if not isinstance(values, Sequence) or row.ndim != 1 or row.size == 0 or row.dtype.kind not in "iuf":
        return None
    return row.astype(np.float64)
