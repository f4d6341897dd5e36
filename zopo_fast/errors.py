"""Exception tree of the package; every class is also the matching standard exception.

    ZopoError
    ├── InputError (ValueError)           an invalid argument
    │   ├── ArrayError                    wrong shape, dtype or memory order, NaN or infinity
    │   ├── ConfigError                   a setting out of range, or two settings that contradict each other
    │   ├── ConflictingScoreError         two different scores for one prompt
    │   ├── EmbeddingMismatchError        a saved state of other embeddings
    │   ├── StudyMismatchError            a study file with other settings
    │   ├── TaskError                     an invalid task file; carries path and line
    │   └── PoolError                     an invalid pool file; carries path and line
    ├── NothingToAsk (RuntimeError)       the search is done, or every remaining prompt is pending
    ├── UnknownIndexError (IndexError)    a pool index that is out of range or not pending
    ├── NotPositiveDefiniteError (ArithmeticError)   a kernel matrix without a Cholesky factor
    ├── DeviceError (RuntimeError)        a missing or unusable device
    │   ├── DeviceMemoryError (MemoryError)          out of device memory; the object is unchanged
    │   └── DeviceLostError                          the CUDA context is lost, with every object in it
    ├── MissingDependencyError (ImportError)         an optional package is not installed
    ├── OutputError (OSError)             an output path that is not writable or already occupied
    ├── StoreError (OSError)              an unusable study file
    │   ├── StoreBusyError (BlockingIOError)         the study is open in another process or object
    │   ├── StoreVersionError                        the study was written by a newer version of the package
    │   ├── StoreDamagedError                        the study file is damaged; tells what was recovered
    │   └── StoreFullError                           the disk is full; acknowledged data is intact
    ├── ConcurrentUseError (RuntimeError) two threads use an object at the same time
    ├── EventLoopError (RuntimeError)     a call that the running event loop does not allow
    ├── LimitReachedError (RuntimeError)  a hard limit of the run; carries which one
    ├── MetricError (RuntimeError)        a failure in the user's metric, score or writer function
    └── LLMError (RuntimeError)           a model call that failed after all retries
        ├── UnreachableError (ConnectionError)       the endpoint cannot be reached
        │   └── EndpointDownError                    the endpoint stayed down for the time of the call
        ├── RequestTimeoutError (TimeoutError)       the request timed out on every attempt
        ├── AuthenticationError (PermissionError)    401, 403, or an error about the key
        ├── ModelNotFoundError (LookupError)         404, or an error about the model
        ├── RequestRejectedError (ValueError)        any other 4xx
        ├── RateLimitError                           429 on every attempt, or no quota
        ├── ServerError                              5xx on every attempt
        └── MalformedAnswerError (ValueError)        HTML, invalid JSON, no choices, or no text

An `LLMError` states in `concerns` what fails, and in `code` the reason:

| concerns | codes |
|---|---|
| call | content_filter, moderation, refusal, context_length_exceeded, no_choices, no_text, length, HTTP 400 |
| call | generation_failed and malformed_output: the provider or the model failed within an answer |
| account | invalid_api_key, insufficient_quota, insufficient_funds, rate_limit_exceeded, HTTP 401, HTTP 429 |
| endpoint | model_not_found, HTTP 404, refused_field, web_page, not_json, unreachable, endpoint_down |

HTTP 5xx, "timeout", "dropped" and "truncated" concern the call if other calls were answered meanwhile, else
the endpoint. A code that the provider sends stands in place of these.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's: `import zopo_fast` has to stay quick
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    Concern = Literal["call", "account", "endpoint"]


class ZopoError(Exception):
    """Root of the package's exception tree."""


class InputError(ZopoError, ValueError):
    """An argument or a file holds an invalid value."""


class ArrayError(InputError):
    """An array has the wrong shape, dtype or memory order, or holds NaN or infinity."""


class ConfigError(InputError):
    """A setting is out of range or contradicts another setting."""


class ConflictingScoreError(InputError):
    """One prompt was given two different scores."""


class EmbeddingMismatchError(InputError):
    """A saved state belongs to other embeddings than the given ones."""


class StudyMismatchError(InputError):
    """A study file was created with other settings than the given ones."""


class _FileError(InputError):
    """An input file is invalid.

    Attributes:
        path: Path of the file, or None.
        line: Line number, counted from 1, or None.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)
        from pathlib import Path  # here, because it is a third of the package's import time

        self.path = None if path is None else Path(path)
        self.line = line


class TaskError(_FileError):
    """A task file is missing, empty or malformed."""


class PoolError(_FileError):
    """A pool of prompts is missing, malformed or too small."""


class NothingToAsk(ZopoError, RuntimeError):  # noqa: N818 - the name is part of the public contract
    """No prompt can be asked for: the search is done, or every remaining prompt is pending."""


class UnknownIndexError(ZopoError, IndexError):
    """A pool index is out of range, or is not pending in a call that needs a pending one."""


class NotPositiveDefiniteError(ZopoError, ArithmeticError):
    """A kernel matrix has no Cholesky factor, even with jitter on its diagonal."""


class DeviceError(ZopoError, RuntimeError):
    """The requested device does not exist or is unusable."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device is out of memory; the object is unchanged by the failed call."""


class DeviceLostError(DeviceError):
    """The device or this process's context on it is lost, together with every object there."""


class MissingDependencyError(ZopoError, ImportError):
    """A required optional package is not installed."""


class OutputError(ZopoError, OSError):
    """An output path is not writable, or is already occupied."""


class StoreError(ZopoError, OSError):
    """A study file is unusable."""


class StoreBusyError(StoreError, BlockingIOError):
    """The study is open in another process, or in another object of this process."""


class StoreVersionError(StoreError):
    """The study was written by a newer version of the package."""


class StoreDamagedError(StoreError):
    """The study file is damaged or not a study file; the message tells what was recovered, and where."""


class StoreFullError(StoreError):
    """The disk is full; all data acknowledged before is intact."""


class ConcurrentUseError(ZopoError, RuntimeError):
    """Two threads use an object that serves one thread at a time."""


class EventLoopError(ZopoError, RuntimeError):
    """The running event loop does not allow this call; the message tells the alternative."""


class LimitReachedError(ZopoError, RuntimeError):
    """A hard limit of the run does not allow the next call.

    Attributes:
        limit: Name of the limit: "calls", "tokens", "cost" or "time".
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[type[LimitReachedError], tuple[str, str], dict[str, object]]:
        return type(self), (str(self), self.limit), vars(self)


class MetricError(ZopoError, RuntimeError):
    """A user's metric, score or writer function raised an error, or did not return what it should."""


class LLMError(ZopoError, RuntimeError):
    """A model call failed after all retries.

    Attributes:
        concerns: What fails: "call" (this call alone; others may be answered), "account" (key, quota or rate
            limit) or "endpoint" (address, model or availability, so that every call fails).
        code: Short reason, such as "content_filter" or "HTTP 500"; "" if unknown.
        refuses_all: True if a probe has shown that the endpoint refuses calls that it answered before.
    """

    concerns: Concern = "endpoint"
    code: str = ""
    refuses_all: bool = False

    def __init__(self, *args: object, concerns: Concern | None = None, code: str | None = None) -> None:
        super().__init__(*args)
        if concerns is not None:
            self.concerns = concerns
        if code is not None:
            self.code = code


class UnreachableError(LLMError, ConnectionError):
    """The endpoint is unreachable: connection refused, connection dropped, or unknown host."""


class EndpointDownError(UnreachableError):
    """The endpoint stayed down, with an open circuit breaker, for as long as the call may take."""


class RequestTimeoutError(LLMError, TimeoutError):
    """The request exceeded its time limit on every attempt."""


class AuthenticationError(LLMError, PermissionError):
    """The endpoint rejects the API key (401 or 403)."""

    concerns: Concern = "account"


class ModelNotFoundError(LLMError, LookupError):
    """The endpoint has no such model or path (404)."""


class RequestRejectedError(LLMError, ValueError):
    """The endpoint rejects the request (any other 4xx)."""

    concerns: Concern = "call"


class RateLimitError(LLMError):
    """The endpoint returned 429 on every attempt."""

    concerns: Concern = "account"


class ServerError(LLMError):
    """The endpoint returned 5xx on every attempt."""


class MalformedAnswerError(LLMError, ValueError):
    """The endpoint's response violates the API: HTML, invalid JSON, or no choices."""

    concerns: Concern = "call"


# As `_utils.public` does: a pickle then survives a move of the class.
for _name, _definition in list(vars().items()):
    if isinstance(_definition, type) and not _name.startswith("_"):
        _definition.__module__ = "zopo_fast"
