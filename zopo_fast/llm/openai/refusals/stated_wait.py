"""Wait that a response asks for, in its headers or its body."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from zopo_fast.llm.openai.refusals.error_body import ErrorBody

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+]?[0-9]+)?")
_CLOCK = re.compile(r"(?:([0-9]+)[.:])?([0-9]{1,3}):([0-9]{2}):([0-9]{2}(?:\.[0-9]+)?)")  # d.hh:mm:ss
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
_ISO = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?"
    r"\s*(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2})?"
)
_HTTP_DATE = r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} (?:GMT|UTC)"
_ASKS_UNTIL = re.compile(
    r"(?:try(?:\s+your\s+request)?\s+again|retry(?:ing)?(?:\s+your\s+request)?|wait|resets?|available)"
    r"(?:(?:\s+(?:in|after|at|on|until|for|again))+\s*:?\s*"
    rf"({_ISO}|{_HTTP_DATE}|1[0-9]{{9}}(?:\.[0-9]+|[0-9]{{3}})?(?![0-9]))"
    rf"|(?:\s+(?:in|after|for|at\s+least|again|about|another))+\s+({_CLOCK.pattern})(?![0-9:]))",
    re.IGNORECASE,
)
_MIN_EPOCH = 1.5e9  # a larger number of seconds is a time since 1970
_MAX_CREDIBLE = 31 * 86_400.0  # seconds; a longer wait counts only where nothing else is stated
_RESET = re.compile(r"(?:x-|anthropic-)?ratelimit(?:-.+)?-reset(?:-.+)?")
_DRAFT_RESET = re.compile(r"(?:^|;)\s*(?:t|reset)\s*=\s*([0-9]+)")
_DRAFT_REMAINING = re.compile(r"(?:^|;)\s*(?:r|remaining)\s*=\s*([0-9]+)")
_BODY_SECONDS = ("retry_after", "retryAfter", "retry_after_seconds", "estimated_time", "resets_in_seconds")
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

    The longest credible wait of `Retry-After`, its relatives and the body counts: gateways add a header of 0.
    Without one, the resets of rate limits count: these state the time until a limit is whole again, which can
    be long after the next request is allowed. The resets of a limit with requests or tokens remaining do not
    count.

    Args:
        headers: headers of the response.
        error: error of the response body.
        now: seconds since 1970, for a response without a `Date`.
    """
    lower = _lower(headers)
    date = _timestamp(lower.get("date", ""))
    since = now() if date is None else date
    nested = error.value("headers")  # OpenRouter quotes the headers of its upstream
    quoted = _lower(nested) if isinstance(nested, Mapping) else {}
    stated = [_retry_after(lower, since), _from_body(error, since), _retry_after(quoted, since)]
    longest = _longest(found for found in stated if found is not None)
    return longest or _longest(_resets(lower, since)) or _longest(_resets(quoted, since))


def _lower(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return headers by their names in lower case; a header that is sent twice is joined by a comma."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        key, text = str(name).lower(), str(value).strip()
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _longest(waits: Iterable[Wait]) -> Wait | None:
    """Return the longest credible wait, or the longest of those that are not; None without one."""
    found = [wait for wait in waits if wait.seconds >= 0]  # not NaN
    credible = [wait for wait in found if wait.seconds <= _MAX_CREDIBLE]
    return max(credible or found, key=lambda wait: wait.seconds, default=None)


def seconds_of(value: str) -> float | None:
    """Return the seconds of a duration such as `7m12s`, `6 seconds`, `00:00:42` or `27`; None for others."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    if clock := _CLOCK.fullmatch(value):
        days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return days * 86_400 + hours * 3600 + minutes * 60 + seconds
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
        milliseconds = _number(headers.get(name))
        if milliseconds:  # 0 tells no more than a missing header
            return Wait(milliseconds / 1e3, name)
    seconds = _until(headers.get("retry-after", ""), since)
    return None if seconds is None else Wait(seconds, "Retry-After")


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
    """Return the seconds until a time, or those of a duration; of a list such as `120, 120`, the longest."""
    seconds = _seconds_until(value, since)
    if seconds is None and "," in value:
        parts = [_seconds_until(part, since) for part in value.split(",")]
        known = [part for part in parts if part is not None]
        seconds = max(known, default=None)
    return seconds


def _seconds_until(value: str, since: float) -> float | None:
    seconds = seconds_of(value)
    if seconds is not None:
        return _relative(seconds, since)
    until = _iso(value)
    if until is None:
        until = _timestamp(value)
    return None if until is None else max(0.0, until - since)


def _iso(value: str) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 time, in UTC where it states no zone."""
    try:
        moment = datetime.fromisoformat(
            re.sub(r"\s*(?:Z|UTC)\s*\Z", "+00:00", value.strip(), flags=re.IGNORECASE)
        )
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _relative(seconds: float, since: float) -> float:
    """Return the seconds from `since` where a number is a time since 1970, in seconds down to nanoseconds."""
    for scale in (1.0, 1e3, 1e6, 1e9):
        if _MIN_EPOCH <= seconds / scale < _MIN_EPOCH * 1e3:
            return max(0.0, seconds / scale - since)
    return seconds


def _from_body(error: ErrorBody, since: float) -> Wait | None:
    delay = error.value("retryDelay", "retry_delay")
    if isinstance(delay, Mapping):  # a protobuf Duration as an object
        delay = _number(delay.get("seconds", 0)) or 0.0
    if (seconds := _seconds(delay, since)) is not None:
        return Wait(seconds, "retryDelay")
    for names, factor in ((_BODY_MILLISECONDS, 1e-3), (_BODY_SECONDS, 1.0)):
        if (seconds := _seconds(error.value(*names), since, factor)) is not None:
            return Wait(seconds, "the response body")
    asked = _ASKS.search(error.message)
    seconds = seconds_of(asked[1]) if asked else None
    if seconds is None and (until := _ASKS_UNTIL.search(error.message)):
        seconds = _until(until[1] or until[2], since)
    return None if seconds is None else Wait(seconds, "the response body")


def _seconds(value: Any, since: float, factor: float = 1.0) -> float | None:
    number = _number(value)
    if number is not None:
        return _relative(number * factor, since)
    return _until(value, since) if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):
        return None
