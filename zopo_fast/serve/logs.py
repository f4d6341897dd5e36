"""Structured logs: one JSON object a line, without prompts, model answers or keys."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

LOGGERS = ("zopo_fast", "aiohttp", "asyncio", "py.warnings")


class _Formatter(JsonFormatter):
    """JSON formatter that can reduce exceptions to their type and location.

    The message of an exception may quote a prompt, so it is left out by default.
    """

    def __init__(self, *, log_messages: bool) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
        self._log_messages = log_messages

    def format(self, record: logging.LogRecord) -> str:
        if not self._log_messages and record.name == "asyncio":
            # Below its first line asyncio prints the task with its exception.
            record = logging.makeLogRecord({**record.__dict__, "args": ()})
            record.msg = str(record.msg).partition("\n")[0]
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - name given by logging
        if self._log_messages:
            return str(super().formatException(ei))
        kind, _, trace = ei
        places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
        return f"{getattr(kind, '__name__', kind)} at {', '.join(places)}"

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - name given by logging
        return str(super().formatStack(stack_info)) if self._log_messages else ""


@contextmanager
def json_logging(stream: TextIO, *, log_messages: bool, log_access: bool) -> Iterator[None]:
    """Write the logs of the server to a stream while the context is open.

    Args:
        stream: text stream to write to.
        log_messages: include messages of exceptions, which may quote prompts.
        log_access: include one line for each request.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(log_messages=log_messages))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(_level(logger.name, log_access))
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


def _level(name: str, log_access: bool) -> int:
    if name == "zopo_fast" or (name == "aiohttp" and log_access):
        return logging.INFO
    return logging.WARNING if name == "py.warnings" else logging.ERROR
