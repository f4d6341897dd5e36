"""Built-in metrics by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.scoring.metrics.comparison import contains, exact_match, exact_set, f1
from zopo_fast.scoring.metrics.functions import from_function, load_function
from zopo_fast.scoring.metrics.induction import (
    induction_contains,
    induction_f1,
    induction_match,
    induction_set,
)
from zopo_fast.scoring.metrics.multiple_choice import multiple_choice
from zopo_fast.scoring.metrics.protocol import FreeMetric

if TYPE_CHECKING:
    from collections.abc import Callable

    from zopo_fast.llm.types import ChatModel
    from zopo_fast.scoring.metrics.protocol import Metric
    from zopo_fast.tasks.task import Example

METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": f1,
    "exact_set": exact_set,
    "contains": contains,
    "multiple_choice": multiple_choice,
    "induction_match": induction_match,
    "induction_f1": induction_f1,
    "induction_set": induction_set,
    "induction_contains": induction_contains,
}
NAMES = (*METRICS, "judge")
RULES = 2
"""Version of the rules of the built-in metrics; a study keeps those that it was begun with."""
RULES_1 = {
    "exact_match": "induction_match",
    "f1": "induction_f1",
    "exact_set": "induction_set",
    "contains": "induction_contains",
}
"""Present name of each metric whose rules differed in version 1."""
BINARY = tuple(name for name in METRICS if name not in ("f1", "induction_f1"))


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
        return from_function(load_function(name))
    raise ConfigError(f"unknown metric {short_repr(name)}: choose {', '.join(NAMES)}, or module:function")


class _BestMatch(FreeMetric):
    """Highest score of an answer over the accepted outputs."""

    def __init__(self, compare: Callable[[str, str], float]) -> None:
        self._compare = compare

    async def __call__(self, answer: str, example: Example, /) -> float:
        return max(self._compare(answer, output) for output in example.outputs)
