"""Metrics: score an answer from 0 to 1 against the accepted outputs of its example.

The built-in metrics compare texts as the instruction-induction benchmark does (see `normalise`) and take the
highest score over the accepted outputs. Other metrics are a function of the caller, or its name
`module:function`, and an LLM as judge (judge.py).
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import string
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast._utils.text import nfc, short_repr
from zopo_fast.errors import ConfigError, MetricError, ZopoError
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from zopo_fast.llm.types import CallKey, ChatModel
    from zopo_fast.tasks.task import Example


class Metric(Protocol):
    """Score of one answer; higher is better, and from 0 to 1 for the built-in metrics."""

    async def __call__(self, answer: str, example: Example, /) -> float:
        """Return the score of one answer."""
        ...

    async def measure(self, answer: str, example: Example, key: CallKey | None = None) -> tuple[float, Usage]:
        """Return the score of one answer and the usage of the calls the metric made for it.

        Args:
            answer: text of the answer.
            example: the example it answers.
            key: key of the answer's call; a metric that asks a model passes it on.
        """
        ...


class _FreeMetric(ABC):
    """Metric that makes no calls."""

    @abstractmethod
    async def __call__(self, answer: str, example: Example, /) -> float: ...

    async def measure(self, answer: str, example: Example, key: CallKey | None = None) -> tuple[float, Usage]:
        return await self(answer, example), Usage()


def normalise(text: str) -> str:
    """Return the first sentence of the first line, in lower case, without punctuation and the word "and".

    As in the instruction-induction benchmark, "Sentence 1:" and "Sentence 2:" are removed and articles stay.
    Unlike there, numbers keep decimal point and sign, and blanks, dashes and accents are unified. Words are
    separated by one blank.
    """
    text = re.sub("[\u2010-\u2015\u2212]", "-", nfc(text))
    text = re.sub(r"(?i)\bsentence [12]:", " ", text).strip()
    text = re.split(r"[\r\n]", text, maxsplit=1)[0]
    text = re.split(r"(?<!\d)\.|\.(?!\d)", text, maxsplit=1)[0].lower()
    text = re.sub(r"((?<!\w)-(?=\d))|-", lambda dash: " -" if dash[1] else " ", text)
    text = text.translate(_NO_PUNCTUATION)
    words = nfc(text).split()
    return " ".join([word for word in words if word != "and"] or words)


class _NoPunctuation(dict[int, "int | None"]):
    """Table of `str.translate` that removes punctuation except "-" and ".", which belong to numbers here."""

    def __missing__(self, code: int) -> int | None:
        c = chr(code)
        is_removed = c not in "-." and (c in string.punctuation or unicodedata.category(c).startswith("P"))
        self[code] = None if is_removed else code
        return self[code]


_NO_PUNCTUATION = _NoPunctuation()


def _both(answer: str, reference: str) -> tuple[str, str]:
    """Return both texts normalised; only stripped where the reference is pure punctuation."""
    wanted = normalise(reference)
    return (normalise(answer), wanted) if wanted else (answer.strip(), reference.strip())


def exact_match(answer: str, reference: str) -> float:
    """Return 1 if the normalised texts are equal, else 0."""
    given, wanted = _both(answer, reference)
    return float(given == wanted)


def exact_set(answer: str, reference: str) -> float:
    """Return 1 if the normalised texts hold the same set of words, else 0."""
    given, wanted = _both(answer, reference)
    return float(set(given.split()) == set(wanted.split()))


def contains(answer: str, reference: str) -> float:
    """Return 1 if the answer contains the reference as whole words, else 0."""
    given, wanted = _both(answer, reference)
    return float(f" {wanted} " in f" {given} ")


def f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the words of both texts, with multiplicity."""
    given, wanted = (Counter(text.split()) for text in _both(answer, reference))
    common = sum((given & wanted).values())
    return 2 * common / (sum(given.values()) + sum(wanted.values())) if common else 0.0


def multiple_choice(answer: str, reference: str) -> float:
    """Return 1 if the answer picks the reference's option, by letter ("(B)", "B.", "Answer: B") or text."""
    letter, text = _option(reference)
    chosen = _chosen(answer)
    if letter and chosen:
        return float(letter == chosen)
    return exact_match(_option(answer)[1] or answer, text) if text else 0.0


def _option(text: str) -> tuple[str, str]:
    """Return letter (lower case or "") and text of an option: "(B) Paris", "B. Paris", "B" or "Paris"."""
    match = re.match(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[).:\]]|([A-Za-z])\s*$)[\s:.\-]*", text)
    if match is None:
        return "", text.strip()
    return match[match.lastindex or 1].lower(), text[match.end() :].strip()


def _chosen(answer: str) -> str:
    """Return the letter an answer picks: the last named, else its label, else the only one in brackets."""
    # A bare letter must be a capital, and "A" or "I" must not begin a phrase.
    letter = r"(?:\(([A-Za-z])\)|\*{0,2}([B-HJ-Z])\b|\*{0,2}([AI])\b(?!\s+[a-z]))"
    named = re.findall(rf"(?i:\b(?:answer|option|choice)\b(?:\s+is)?)[\s:*]*{letter}", answer)
    if named:
        return "".join(named[-1]).lower()
    label = _option(answer.split("\n", 1)[0].strip().strip("*"))[0] if answer.strip() else ""
    bracketed = {found.lower() for found in re.findall(r"\(([A-Za-z])\)", answer)}
    return label or (bracketed.pop() if len(bracketed) == 1 else "")


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": f1,
    "exact_set": exact_set,
    "contains": contains,
    "multiple_choice": multiple_choice,
}
NAMES = (*METRICS, "judge")
BINARY = ("exact_match", "exact_set", "contains", "multiple_choice")


def resolve(
    name: str | Callable[..., Any], *, judge: ChatModel | None = None, rubric: str | None = None
) -> Metric:
    """Return the metric of a name (see NAMES), of `module:function`, or of a function (see `from_function`).

    Args:
        name: name or function.
        judge: model of the metric "judge".
        rubric: message to the judge; None: the default one.

    Raises:
        ConfigError: an unknown name, a missing module or function, or "judge" without a model.
    """
    if not isinstance(name, str):
        return from_function(name)
    if name in METRICS:
        return _BestMatch(METRICS[name])
    if name == "judge":
        from zopo_fast.scoring.judge import DEFAULT_RUBRIC, Judge

        if judge is None:
            raise ConfigError("the metric 'judge' needs a model: pass judge")
        return Judge(judge, rubric=rubric or DEFAULT_RUBRIC)
    if ":" in name:
        return from_function(_load(name))
    raise ConfigError(f"unknown metric {short_repr(name)}: choose {', '.join(NAMES)}, or module:function")


class _BestMatch(_FreeMetric):
    """Highest score of an answer over the accepted outputs."""

    def __init__(self, compare: Callable[[str, str], float]) -> None:
        self._compare = compare

    async def __call__(self, answer: str, example: Example, /) -> float:
        return max(self._compare(answer, output) for output in example.outputs)


def from_function(function: Callable[..., Any]) -> Metric:
    """Return the metric of `f(answer, references)` or `f(answer, references, input)`, sync or async.

    The input is passed to a third parameter without default, or to one named `input`. A sync function runs
    on the event loop and blocks it: make a slow function async. An exception of the function, and a result
    that is not a finite number, becomes a `MetricError`.

    Raises:
        ConfigError: the function does not take these arguments.
    """
    return _FunctionMetric(function)


class _FunctionMetric(_FreeMetric):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._label = str(getattr(function, "__qualname__", type(function).__qualname__))
        self._as_keyword, self._as_third = _wants_input(function, self._label)

    async def __call__(self, answer: str, example: Example, /) -> float:
        third = (example.input,) if self._as_third else ()
        keyword = {"input": example.input} if self._as_keyword else {}
        try:
            result = self._function(answer, list(example.outputs), *third, **keyword)
            if inspect.isawaitable(result):
                result = await result
        except ZopoError:
            raise
        except Exception as error:
            raise MetricError(f"metric {self._label} raised {type(error).__name__}: {error}") from error
        return finite(result, self._label)


def finite(result: Any, label: str) -> float:
    """Return the result of a metric as a float; True is 1, a text is no number.

    Raises:
        MetricError: `result` is no finite number.
    """
    try:
        number = math.nan if isinstance(result, (str, bytes, bytearray)) else float(result)
    except Exception as error:  # __float__ of the caller's object may raise anything
        raise MetricError(f"metric {label} returned {short_repr(result)}, not a number") from error
    if not math.isfinite(number):
        raise MetricError(f"metric {label} returned {short_repr(result)}, not a finite number")
    return number


def _wants_input(function: Callable[..., Any], label: str) -> tuple[bool, bool]:
    """Return whether a function takes the input by the keyword `input`, and whether as third argument."""
    if not callable(function):
        raise ConfigError(f"metric {short_repr(function)} is neither a name nor a function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have no signature
        return False, False
    third = list(signature.parameters.values())[2:3]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    as_third = bool(third) and third[0].kind in positional and third[0].default is inspect.Parameter.empty
    named = signature.parameters.get("input")
    as_keyword = (
        not as_third and named is not None and named.kind in (positional[1], inspect.Parameter.KEYWORD_ONLY)
    )
    try:
        signature.bind("", [], *([""] if as_third else []), **({"input": ""} if as_keyword else {}))
    except TypeError as error:
        raise ConfigError(f"metric {label} must take (answer, references[, input]): {error}") from error
    return as_keyword, as_third


def _load(name: str) -> Callable[..., Any]:
    """Import the function named `module:function`; the current directory comes first on the search path."""
    module_name, _, path = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not path:
        raise ConfigError(f"metric {short_repr(name)}: write module:function, as in my_metrics:score")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be newer than the cached listing of its folder
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "?")
        reason = f"no module {error.name!r}" if missing else f"importing it raised {error!r}"  # type: ignore[attr-defined]
        raise ConfigError(f"metric {name!r}: {reason}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    function: Any = module
    for part in path.split("."):
        if not hasattr(function, part):
            raise ConfigError(f"metric {name!r}: module {module_name!r} has no {path!r}")
        function = getattr(function, part)
    if not callable(function):
        raise ConfigError(f"metric {name!r}: {path!r} is not a function")
    return function  # type: ignore[no-any-return]
