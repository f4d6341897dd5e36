"""Types shared by all writers of new prompts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from zopo_fast._utils.public import public
from zopo_fast.llm.types import Usage


@public
@dataclass(frozen=True)
class Failure:
    """Train example that a prompt answered wrongly.

    Attributes:
        input: of the example.
        expected: its first accepted output.
        given: answer of the model with the prompt; "" where it is unknown.
    """

    input: str
    expected: str
    given: str = ""


@public
@dataclass(frozen=True)
class Parent:
    """Prompt that a writer starts from.

    Attributes:
        index: in the pool.
        prompt: its text.
        score: estimated mean over the train examples, in units of the metric.
        failures: some of the examples that it answered wrongly; empty where none is known.
    """

    index: int
    prompt: str
    score: float
    failures: tuple[Failure, ...] = ()


@public
@dataclass(frozen=True)
class WriteRequest:
    """Request to a writer.

    Attributes:
        parents: prompts to start from, best first; at least one.
        n: number of drafts wanted. Fewer are fine; of more, the first n count.
        seed: of every random choice. The same request gives the same drafts.
        known: texts of all prompts in the pool, in order.
    """

    parents: tuple[Parent, ...]
    n: int
    seed: int
    known: Collection[str] = ()


@public
@dataclass(frozen=True)
class Draft:
    """Prompt that a writer proposes.

    Attributes:
        prompt: its text.
        parents: pool indices of the prompts it was made from.
        note: what was done, such as "role"; "" for nothing to say.
    """

    prompt: str
    parents: tuple[int, ...]
    note: str = ""


@public
@dataclass(frozen=True)
class Written:
    """Outcome of a request.

    Attributes:
        drafts: in a fixed order.
        usage: of the calls made.
        rejected: reason of each answer or text that gave no draft.
    """

    drafts: tuple[Draft, ...]
    usage: Usage = field(default_factory=Usage)
    rejected: tuple[str, ...] = ()


@public
@runtime_checkable
class Writer(Protocol):
    """Writes prompts near given ones.

    Attributes:
        name: by which a study and a report know the writer; unique within a run.
        calls: model calls that a draft takes; 0 for a writer without a model.
    """

    name: str
    calls: int

    async def write(self, request: WriteRequest) -> Written:
        """Write drafts.

        Raises:
            LLMError: the model cannot be used at all; a single failed call is a rejected draft.
            LimitReachedError: the account has no room for a call.
        """
        ...
