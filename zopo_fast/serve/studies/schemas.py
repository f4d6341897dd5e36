"""What goes in and out, as JSON: read by the handlers, and from which the OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zopo_fast.serve.http.schemas import (
    Answer,
    Count,
    Finite,
    Index,
    Label,
    NotNegative,
    Positive,
    Request,
    Some,
    Text,
    Whole,
)

AtOnce = Annotated[int, Meta(ge=1, le=1000, description="How many prompts to ask for, at most.")]


class OfficialSettings(Request):
    """Settings of the published loop, by its script's names."""

    lr: Finite = 0.01
    uncertainty_threshold: Finite = 0.01
    uncertainty_count: Some = 5
    neighbors: Some = 10
    gp_queries: Some = 20
    tolerance: Whole = 2
    max_steps: Some = 2
    sigma: Finite = 0.01


class SearchConfig(Request):
    """How a study is searched: the settings of ZopoConfig, with its defaults."""

    budget: Count = 165
    initial: Count | Annotated[list[Index], Meta(min_length=1)] = 40
    seed: Whole = 0
    search: Literal["improvement", "thompson", "gradient"] = "improvement"
    region: Count = 1024
    patience: Whole = 10
    power: Literal[1, 2] = 2
    emphasis: NotNegative = 0.3
    zscore: bool = False
    neighbors: Some = 10
    step: NotNegative | None = None
    exploration: Annotated[int, Meta(ge=0, le=10_000)] = 3
    exploration_quantile: Annotated[float, Meta(ge=0, le=1)] = 0.9
    noise: Positive | None = None
    official_settings: OfficialSettings | None = None


class PackedArray(Request):
    """Embeddings as base64 of their little-endian numbers, row by row."""

    base64: bytes
    dtype: Literal["float16", "float32"]
    shape: Annotated[list[Count], Meta(min_length=2, max_length=2)]


Rows = Annotated[list[Annotated[list[float], Meta(min_length=1)]], Meta(min_length=1)]


class CreateStudy(Request):
    """A pool of texts, embeddings, or both; equal texts are merged where no embeddings are given."""

    texts: Annotated[list[Text], Meta(min_length=1)] | None = None
    embeddings: Rows | PackedArray | None = None
    config: SearchConfig = msgspec.field(default_factory=SearchConfig)
    name: Label | None = None


class Ask(Request):
    """Ask for the next prompts to score."""

    n: AtOnce = 1


class Tell(Request):
    """A prompt's score, higher is better; with `ask`, the next prompts are in the answer."""

    index: Index
    score: Finite
    noise: NotNegative | None = None
    final: bool = True
    ask: AtOnce | None = None


class Discard(Request):
    """Give a pending prompt back without a score."""

    index: Index


class Scored(Answer):
    """A prompt and its score."""

    index: int
    score: float
    prompt: str | None = None


class Asked(Answer):
    """Prompts to score next; fewer than asked for where the budget or the pool ends."""

    indices: list[int]
    done: bool
    prompts: list[str] | None = None


class Study(Answer):
    """A study's state in short."""

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


class StudyEntry(Answer):
    """A study in the list."""

    id: str
    name: str | None
    created: float
    prompts: int
    dimension: int


class StudyList(Answer):
    """Studies in order of their ids; `next` is the `after` of the next page."""

    studies: list[StudyEntry]
    next: str | None


class StudyState(Answer):
    """Everything but the embeddings: what Zopo.from_state() continues from, and the pool's texts."""

    state: dict[str, Any]
    texts: list[str] | None
