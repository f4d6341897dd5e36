"""JSON bodies of the requests and responses on studies; the OpenAPI document is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zopo_fast.search import config
from zopo_fast.serve.http.schemas import (
    Count,
    Finite,
    Index,
    Label,
    NotNegative,
    RequestBody,
    ResponseBody,
    Text,
    settings_struct,
)

MAX_SOURCE_SCORES = 1000  # the time to learn from n scores grows as n^3
StudyId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
AskCount = Annotated[int, Meta(ge=1, le=1000, description="Number of prompts to ask for at most.")]


class OfficialSettings(settings_struct(config.OfficialSettings)):  # type: ignore[misc]
    """Settings of the published loop, under the names of the published script."""


class SearchConfig(
    settings_struct(  # type: ignore[misc]
        config.ZopoConfig,
        initial=Count | Annotated[list[Index], Meta(min_length=1)] | None,
        official_settings=OfficialSettings | None,
    )
):
    """Settings of a search: those of ZopoConfig."""


class PackedArray(RequestBody):
    """Embeddings as the base64 text of their little-endian numbers, row by row."""

    base64: bytes
    dtype: Literal["float16", "float32"]
    shape: Annotated[list[Count], Meta(min_length=2, max_length=2)]


Rows = Annotated[list[Annotated[list[float], Meta(min_length=1)]], Meta(min_length=1)]


class CreateStudy(RequestBody):
    """A pool of texts, embeddings or both; equal texts are merged where no embeddings are given."""

    texts: Annotated[list[Text], Meta(min_length=1)] | None = None
    embeddings: Rows | PackedArray | None = None
    config: SearchConfig = msgspec.field(default_factory=SearchConfig)
    name: Label | None = None


class Ask(RequestBody):
    """Request for the next prompts to score."""

    n: AskCount = 1


class Tell(RequestBody):
    """Score of a prompt, higher is better; with `ask` the response names the next prompts."""

    index: Index
    score: Finite
    noise: NotNegative | None = None
    final: bool = True
    ask: AskCount | None = None


class Discard(RequestBody):
    """Pending prompt to return without a score."""

    index: Index


class Learn(RequestBody):
    """Scores of an earlier search: given here, or those of another study with the same embeddings."""

    indices: Annotated[list[Index], Meta(min_length=1, max_length=MAX_SOURCE_SCORES)] | None = None
    scores: Annotated[list[Finite], Meta(min_length=1, max_length=MAX_SOURCE_SCORES)] | None = None
    noise: NotNegative | Annotated[list[NotNegative], Meta(max_length=MAX_SOURCE_SCORES)] | None = None
    study: StudyId | None = None
    source: Label | None = None


class Learned(ResponseBody):
    """Name of the source, its number of scores, and the names of all sources of the study."""

    source: str
    scores: int
    sources: list[str]


class Scored(ResponseBody):
    """Prompt and its score."""

    index: int
    score: float
    prompt: str | None = None


class Asked(ResponseBody):
    """Next prompts to score; fewer than requested where the budget or the pool ends."""

    indices: list[int]
    done: bool
    prompts: list[str] | None = None


class Study(ResponseBody):
    """Summary of a study."""

    id: str
    name: str | None
    created: float
    prompts: int
    dimension: int
    dtype: str
    texts: bool
    config: SearchConfig
    budget: int
    asked: int
    scored: int
    pending: list[int]
    done: bool
    best: Scored | None
    sources: list[str]


class StudyEntry(ResponseBody):
    """Entry of the list of studies."""

    id: str
    name: str | None
    created: float
    prompts: int
    dimension: int


class StudyList(ResponseBody):
    """Page of the studies in the order of their ids; `next` is the `after` of the next page."""

    studies: list[StudyEntry]
    next: str | None


class StudyState(ResponseBody):
    """State without the embeddings, for Zopo.from_state(), and the texts of the pool."""

    state: dict[str, Any]
    texts: list[str] | None
