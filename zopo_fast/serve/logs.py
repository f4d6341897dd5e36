"""Structured logs: a JSON object a line, without what a prompt, a score's text or a key may be in."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

NAMES = ("zopo_fast", "aiohttp", "asyncio", "py.warnings")


class _Formatter(JsonFormatter):
    """Of an exception only its kind and where it came from: its message may quote what was sent."""

    def __init__(self, *, messages: bool) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
        self._messages = messages

    def format(self, record: logging.LogRecord) -> str:
        if not self._messages and record.name == "asyncio":  # the rest shows a task and what it failed with
            record = logging.makeLogRecord({**record.__dict__, "args": ()})
            record.msg = str(record.msg).partition("\n")[0]
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        if self._messages:
            return str(super().formatException(ei))
        kind, _, trace = ei
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
        return f"{getattr(kind, '__name__', kind)} at {', '.join(places)}"

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the library's name
        return str(super().formatStack(stack_info)) if self._messages else ""


@contextmanager
def written(stream: TextIO, *, messages: bool, access: bool) -> Iterator[None]:
    """Write the log for the length of a block.

    Args:
        messages: keep the messages of exceptions, which may quote prompts.
        access: also a line for each request.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(messages=messages))
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(_level(logger.name, access))
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _level(name: str, access: bool) -> int:
    if name == "zopo_fast" or (name == "aiohttp" and access):
        return logging.INFO
    return logging.WARNING if name == "py.warnings" else logging.ERROR
