"""Every error this package raises on purpose: one tree, each also a standard exception.

ZopoError
├── InputError (ValueError)           an argument that cannot be used
│   ├── ArrayError                    wrong shape, dtype, memory order, NaN or infinity
│   ├── ConfigError                   a setting out of range or contradicting another
│   ├── ConflictingScoreError         one prompt, two different scores
│   ├── EmbeddingMismatchError        a saved state does not belong to these embeddings
│   ├── StudyMismatchError            a study file was begun with other settings
│   ├── TaskError                     a task file; carries path and line
│   └── PoolError                     a pool file; carries path and line
├── NothingToAsk (RuntimeError)       all that is left is pending, or the run is done
├── UnknownIndexError (IndexError)    a pool index out of range, or not pending
├── NotPositiveDefiniteError (ArithmeticError)
├── DeviceError (RuntimeError)        the requested device cannot be used
│   ├── DeviceMemoryError (MemoryError)          too little memory there; the object is as it was
│   └── DeviceLostError                          its context is gone, and every object on it
├── MissingDependencyError (ImportError)
├── OutputError (OSError)             the output folder cannot be written, or holds a run
├── StoreError (OSError)              a study file cannot be used
│   ├── StoreBusyError (BlockingIOError)         another process has it open
│   ├── StoreVersionError                        made by a newer version of this package
│   ├── StoreDamagedError                        not readable as a whole; says what could be saved
│   └── StoreFullError                           no room left; what was acknowledged is intact
├── ConcurrentUseError (RuntimeError) an object is used by two threads at a time
├── EventLoopError (RuntimeError)     not possible in this event loop, or in any
├── LimitReachedError (RuntimeError)  a hard limit leaves no room for the next call; carries which
├── MetricError (RuntimeError)        a user's metric or score function failed
└── LLMError (RuntimeError)           a call to a model failed; retries are already spent
    ├── UnreachableError (ConnectionError)
    │   └── EndpointDownError                    so many calls failed in a row that no more are made
    ├── RequestTimeoutError (TimeoutError)
    ├── AuthenticationError (PermissionError)    401, 403
    ├── ModelNotFoundError (LookupError)         404
    ├── RequestRejectedError (ValueError)        any other 4xx
    ├── RateLimitError                           429 after the last retry
    ├── ServerError                              5xx after the last retry
    └── MalformedAnswerError (ValueError)        HTML, broken JSON, no choices
"""

from __future__ import annotations

from pathlib import Path


class ZopoError(Exception):
    """Root of every error this package raises on purpose."""


class InputError(ZopoError, ValueError):
    """An argument or a file holds a value that cannot be used."""


class ArrayError(InputError):
    """An array has the wrong shape, dtype or memory order, or holds NaN or infinity."""


class ConfigError(InputError):
    """A setting is out of range or contradicts another one."""


class ConflictingScoreError(InputError):
    """The same prompt was given two different scores."""


class EmbeddingMismatchError(InputError):
    """A saved state was made with other embeddings than those given."""


class StudyMismatchError(InputError):
    """A study file was begun with other settings than those given."""


class _FileError(InputError):
    """A file of the user's cannot be used; says which line where that is known."""

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)
        self.path = None if path is None else Path(path)
        self.line = line


class TaskError(_FileError):
    """A task file is missing, empty or malformed."""


class PoolError(_FileError):
    """A pool of prompts is missing, malformed or too small."""


class NothingToAsk(ZopoError, RuntimeError):  # noqa: N818 - the name is part of the public contract
    """There is no prompt left to ask for: the run is done, or all that is left is pending."""


class UnknownIndexError(ZopoError, IndexError):
    """A pool index is out of range, or is not pending where it has to be."""


class NotPositiveDefiniteError(ZopoError, ArithmeticError):
    """A kernel matrix cannot be factorised, even with jitter on its diagonal."""


class DeviceError(ZopoError, RuntimeError):
    """The requested device does not exist or cannot be used."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device has too little memory left for this; the object is as it was before the call."""


class DeviceLostError(DeviceError):
    """The device, or this process's context on it, is gone, and with it every object there."""


class MissingDependencyError(ZopoError, ImportError):
    """An optional package is needed for this and is not installed."""


class OutputError(ZopoError, OSError):
    """The output folder cannot be written, or already holds a run."""


class StoreError(ZopoError, OSError):
    """A study file cannot be used."""


class StoreBusyError(StoreError, BlockingIOError):
    """Another process, or another object of this one, has the study open."""


class StoreVersionError(StoreError):
    """The study was written by a newer version of this package."""


class StoreDamagedError(StoreError):
    """The study file is damaged, or no study file; the message says what could be saved, and where to."""


class StoreFullError(StoreError):
    """There is no room left to write; everything that was acknowledged before is intact."""


class ConcurrentUseError(ZopoError, RuntimeError):
    """An object that serves one thread at a time is used by two."""


class EventLoopError(ZopoError, RuntimeError):
    """A call is not possible in this event loop, or in any; the message says what to do instead."""


class LimitReachedError(ZopoError, RuntimeError):
    """A hard limit of the run leaves no room for the next call.

    Attributes:
        limit: which: "calls", "tokens", "cost" or "time".
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[type[LimitReachedError], tuple[str, str], dict[str, object]]:
        return type(self), (str(self), self.limit), vars(self)


class MetricError(ZopoError, RuntimeError):
    """A user's metric or score function raised, or returned something that is not a finite number."""


class LLMError(ZopoError, RuntimeError):
    """A call to a model failed for good; what could be retried has been."""


class UnreachableError(LLMError, ConnectionError):
    """The endpoint does not answer: refused, dropped, or no such host."""


class EndpointDownError(UnreachableError):
    """So many calls in a row have failed at the endpoint that no more are made for a while."""


class RequestTimeoutError(LLMError, TimeoutError):
    """The endpoint took longer than the request's time limit, each time."""


class AuthenticationError(LLMError, PermissionError):
    """The endpoint refuses the key (401 or 403)."""


class ModelNotFoundError(LLMError, LookupError):
    """The endpoint knows no such model or path (404)."""


class RequestRejectedError(LLMError, ValueError):
    """The endpoint refuses the request itself (another 4xx)."""


class RateLimitError(LLMError):
    """The endpoint still answers 429 after the last retry."""


class ServerError(LLMError):
    """The endpoint still answers 5xx after the last retry."""


class MalformedAnswerError(LLMError, ValueError):
    """The endpoint's answer is not what the API promises: HTML, broken JSON, no choices."""
