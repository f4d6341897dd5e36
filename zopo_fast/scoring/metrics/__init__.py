"""Metrics: score an answer from 0 to 1 against the accepted outputs of its example.

A built-in metric takes the highest score over the accepted outputs. Other metrics are a function of the
caller, or its name `module:function`, and an LLM as judge (judge.py). docs/metrics.md shows what each metric
takes as equal.
"""

from zopo_fast.scoring.metrics.comparison import contains, exact_match, exact_set, f1
from zopo_fast.scoring.metrics.functions import finite, from_function
from zopo_fast.scoring.metrics.induction import normalise
from zopo_fast.scoring.metrics.multiple_choice import multiple_choice
from zopo_fast.scoring.metrics.protocol import Metric
from zopo_fast.scoring.metrics.registry import BINARY, METRICS, NAMES, RULES, RULES_1, resolve

__all__ = [
    "BINARY",
    "METRICS",
    "NAMES",
    "RULES",
    "RULES_1",
    "Metric",
    "contains",
    "exact_match",
    "exact_set",
    "f1",
    "finite",
    "from_function",
    "multiple_choice",
    "normalise",
    "resolve",
]
