"""Wait that a response asks for, in its headers or its body."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from zopo_fast.llm.openai.refusals.error_body import ErrorBody

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_UNIT = r"(?:days?|d|hours?|hrs?|h|minutes?|mins?|milliseconds?|ms|microseconds?|[uµ]s|ns|m|seconds?|secs?|s)"
_PART = re.compile(rf"([0-9]+(?:\.[0-9]+)?)\s*({_UNIT})(?![a-z])", re.IGNORECASE)
# The parts of "6h0m3s" have no blank between them.
_COMPACT_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[uµ]s|ns|[dhms])")
_DURATION = rf"[0-9]+(?:\.[0-9]+)?\s*{_UNIT}(?:(?:\s*,?\s*and)?\s*[0-9]+(?:\.[0-9]+)?\s*{_UNIT})*(?![a-z])"
_ASKS = re.compile(
    r"(?:try(?:\s+your\s+request)?\s+again|retry(?:ing)?(?:\s+your\s+request)?|wait|resets?|available)"
    rf"(?:\s+(?:in|after|for|at\s+least|again|about|another))*\s+~?({_DURATION})",
    re.IGNORECASE,
)
_MIN_EPOCH = 1e9  # a larger number of seconds is a time since 1970
_MIN_EPOCH_MS = 1e12
_RESET = re.compile(r"(?:x-|anthropic-)?ratelimit(?:-.+)?-reset(?:-.+)?")
_DRAFT_RESET = re.compile(r"(?:^|;)\s*(?:t|reset)\s*=\s*([0-9]+)")
_DRAFT_REMAINING = re.compile(r"(?:^|;)\s*(?:r|remaining)\s*=\s*([0-9]+)")
_BODY_SECONDS = ("retry_after", "retryAfter", "retry_after_seconds", "estimated_time")
_BODY_MILLISECONDS = ("retry_after_ms", "retryAfterMs")


@dataclass(frozen=True)
class Wait:
    """Seconds that the endpoint asks to wait, and the header or field that states them."""

    seconds: float
    source: str


def stated_wait(
    headers: Mapping[str, str], error: ErrorBody, now: Callable[[], float] = time.time
) -> Wait | None:
    """Return the wait that a response states; None without one.

    `Retry-After` and its relatives come first, then the body, then the resets of rate limits: these state the
    time until a limit is whole again, which can be long after the next request is allowed. The resets of a
    limit with requests or tokens remaining do not count.

    Args:
        headers: headers of the response.
        error: error of the response body.
        now: seconds since 1970, for a response without a `Date`.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    date = _timestamp(lower.get("date", ""))
    since = now() if date is None else date
    for found in (_retry_after(lower, since), _from_body(error, since), _reset(lower, since)):
        if found is not None and found.seconds >= 0:  # not NaN
            return found
    nested = error.value("headers")  # OpenRouter quotes the headers of its upstream
    if isinstance(nested, Mapping) and headers is not nested:
        quoted = {str(name).lower(): str(value).strip() for name, value in nested.items()}
        return _retry_after(quoted, since) or _reset(quoted, since)
    return None


def seconds_of(value: str) -> float | None:
    """Return the seconds of a duration such as `7m12s`, `350ms`, `6 seconds` or `27`; None if it is none."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    for part in (_COMPACT_PART, _PART):
        found = [(float(number), _unit(unit)) for number, unit in part.findall(value)]
        rest = re.sub(r"[\s,]|and", "", part.sub("", value))
        if found and not rest:
            return sum(number * seconds for number, seconds in found)
    return None


def _unit(name: str) -> float:
    name = name.lower()
    if name in _UNITS:
        return _UNITS[name]
    if name.startswith("milli"):
        return 1e-3
    return 1e-6 if name.startswith("micro") else _UNITS[name[0]]


def _retry_after(headers: Mapping[str, str], since: float) -> Wait | None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if _NUMBER.fullmatch(headers.get(name, "")):
            return Wait(float(headers[name]) / 1e3, name)
    value = headers.get("retry-after", "")
    until = _timestamp(value)
    if until is not None:
        return Wait(max(0.0, until - since), "Retry-After")
    seconds = seconds_of(value)
    return None if seconds is None else Wait(_relative(seconds, since), "Retry-After")


def _reset(headers: Mapping[str, str], since: float) -> Wait | None:
    """Return the longest reset of the limits that are used up."""
    waits = list(_resets(headers, since))
    return max(waits, key=lambda wait: wait.seconds, default=None)


def _resets(headers: Mapping[str, str], since: float) -> Iterator[Wait]:
    for name, value in headers.items():
        if name in ("ratelimit", "x-ratelimit") and (draft := _DRAFT_RESET.search(value)):
            left = _DRAFT_REMAINING.search(value)
            if left is None or int(left[1]) == 0:
                yield Wait(float(draft[1]), name)
        if not _RESET.fullmatch(name):
            continue
        remaining = _number(headers.get(name.replace("reset", "remaining"), "0"))
        seconds = _until(value, since)
        if seconds is not None and (remaining is None or remaining <= 0):
            yield Wait(seconds, name)


def _until(value: str, since: float) -> float | None:
    seconds = seconds_of(value)
    if seconds is not None:
        return _relative(seconds, since)
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        until = _timestamp(value)
    else:
        until = moment.timestamp() if moment.tzinfo is not None else None
    return None if until is None else max(0.0, until - since)


def _relative(seconds: float, since: float) -> float:
    """Return the seconds from `since` where a number is a time since 1970, in seconds or milliseconds."""
    if seconds >= _MIN_EPOCH_MS and seconds != float("inf"):
        return max(0.0, seconds / 1e3 - since)
    return max(0.0, seconds - since) if _MIN_EPOCH <= seconds < _MIN_EPOCH_MS else seconds


def _from_body(error: ErrorBody, since: float) -> Wait | None:
    delay = error.value("retryDelay", "retry_delay")
    if isinstance(delay, Mapping):  # a protobuf Duration as an object
        delay = _number(delay.get("seconds", 0)) or 0.0
    if (seconds := _seconds(delay)) is not None:
        return Wait(seconds, "retryDelay")
    for names, factor in ((_BODY_MILLISECONDS, 1e-3), (_BODY_SECONDS, 1.0)):
        if (seconds := _seconds(error.value(*names))) is not None:
            return Wait(_relative(seconds * factor, since), "the response body")
    asked = _ASKS.search(error.message)
    seconds = seconds_of(asked[1]) if asked else None
    return None if seconds is None else Wait(seconds, "the response body")


def _seconds(value: Any) -> float | None:
    return seconds_of(value) if isinstance(value, str) else _number(value)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
