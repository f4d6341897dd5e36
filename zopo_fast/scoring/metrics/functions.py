"""Metrics given as a function of the caller, or by its name `module:function`."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, MetricError, ZopoError
from zopo_fast.scoring.metrics.protocol import FreeMetric

if TYPE_CHECKING:
    from collections.abc import Callable

    from zopo_fast.scoring.metrics.protocol import Metric
    from zopo_fast.tasks.task import Example


def from_function(function: Callable[..., Any]) -> Metric:
    """Return the metric of `f(answer, references)` or `f(answer, references, input)`, sync or async.

    The input is passed to a third parameter without default, or to one named `input`. A sync function runs
    on the event loop and blocks it: make a slow function async. An exception of the function, and a result
    that is not a finite number, becomes a `MetricError`.

    Raises:
        ConfigError: the function does not take these arguments.
    """
    return _FunctionMetric(function)


class _FunctionMetric(FreeMetric):
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


def load_function(name: str) -> Callable[..., Any]:
    """Import the function named `module:function`; the current directory comes first on the search path.

    Raises:
        ConfigError: the module or the function is missing, or the name is malformed.
    """
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
