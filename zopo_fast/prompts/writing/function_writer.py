"""Functions of the caller as writers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

from zopo_fast._utils.checks import as_count
from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, MetricError, ZopoError
from zopo_fast.llm.adapter import call_function
from zopo_fast.prompts.writing.types import Draft, Writer, WriteRequest, Written

MAX_NAME = 64
"""Characters of a writer's name."""

WriterFunction = Callable[[Any, int], Any]
"""Function `(parents: list[Parent], n: int) -> list[str]`, sync or async."""


@public
class FunctionWriter:
    """Writer that calls a function of the caller.

        def shout(parents: list[zf.Parent], n: int) -> list[str]:
            return [parent.prompt.upper() for parent in parents][:n]

        writer = zf.FunctionWriter(shout)

    A sync function runs in a thread of its own. An exact resume needs a function that returns the same
    prompts for the same parents. The limits of a run do not count calls that the function itself makes.

    Args:
        function: `(parents, n) -> prompts`, sync or async; of more than n prompts, the first n count.
        name: by which studies and reports know the writer; None: that of the function.

    Raises:
        ConfigError: `function` cannot be called, or the name is no line of 1 to 64 characters.
    """

    calls = 0

    def __init__(self, function: WriterFunction, name: str | None = None) -> None:
        if not callable(function):
            raise ConfigError(
                f"writer: {type(function).__name__} is no function; pass (parents, n) -> list of prompts"
            )
        self._function = function
        self.name = _checked_name(_name_of(function) if name is None else name)

    async def write(self, request: WriteRequest) -> Written:
        """Call the function with a list of the parents and n.

        Raises:
            ConfigError: `request.n` is no count.
            MetricError: the function failed, or returned something other than a list of texts.
        """
        n = as_count("n", request.n)
        parents = list(request.parents)
        try:
            found = await call_function(lambda _: self._function(parents, n), None)
        except (ZopoError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise MetricError(
                f"writer {self.name!r}: the function failed: {short_repr(error, 200)}"
            ) from error
        indices = tuple(parent.index for parent in request.parents)
        return Written(tuple(Draft(prompt, indices) for prompt in self._texts(found)[:n]))

    def _texts(self, found: object) -> list[str]:
        if isinstance(found, str | bytes | bytearray) or not isinstance(found, Sequence):
            raise MetricError(
                f"writer {self.name!r}: the function returned {type(found).__name__}; "
                "expected a list of texts"
            )
        for place, text in enumerate(found):
            if not isinstance(text, str):
                raise MetricError(
                    f"writer {self.name!r}: item {place} of the function's list is {short_repr(text)}; "
                    "expected a text"
                )
        return list(found)


@public
def as_writer(writer: Any) -> Writer:
    """Return a writer, or a function `(parents, n) -> prompts`, as a `Writer`.

    Raises:
        ConfigError: `writer` is neither.
    """
    if isinstance(writer, type):
        raise ConfigError(f"writer: {writer.__name__} is a class; pass an instance, {writer.__name__}(...)")
    if isinstance(writer, Writer):
        _checked_name(writer.name)
        if isinstance(writer.calls, bool) or not isinstance(writer.calls, int) or writer.calls < 0:
            raise ConfigError(
                f"writer {writer.name!r}: calls must be an integer of at least 0, "
                f"not {short_repr(writer.calls)}"
            )
        return writer
    if callable(writer):
        return FunctionWriter(writer)
    raise ConfigError(
        f"writer: {type(writer).__name__} is no writer: pass an object with name, calls and write(), or a "
        "function (parents, n) -> list of prompts"
    )


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else str(name)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ConfigError(
            f"writer: the name must be a line of 1 to {MAX_NAME} printable characters, not {short_repr(name)}"
        )
    return name
