"""What Prometheus reads: latencies of steps and commits, calls, tokens, retries, budgets left, studies."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import HistogramMetricFamily

from zopo_fast.llm.types import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30)
_ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Observations:
    """One histogram's counts; for one thread, and so a tenth of what the library's own costs, which locks.

    Args:
        bounds: upper ones of the buckets, in order; one without a bound comes last.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def __call__(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum: what the library wants."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True)), self._sum


class _Histograms:
    """Hands the library the counts when it asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All histograms."""
        steps = HistogramMetricFamily(
            "zopo_step_seconds",
            "From a request's arrival to its answer, the commit included.",
            labels=["step"],
        )
        for name, observed in self._metrics.steps.items():
            steps.add_metric([name], *observed.buckets())
        yield steps
        commits, entries = self._metrics.commits, self._metrics.entries
        buckets, total = commits.buckets()
        yield HistogramMetricFamily("zopo_commit_seconds", "One commit of the journal.", buckets, total)
        buckets, total = entries.buckets()
        yield HistogramMetricFamily("zopo_commit_entries", "Requests that one commit wrote.", buckets, total)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.steps = {name: Observations(_SECONDS) for name in ("ask", "tell", "discard", "create")}
        self.commits, self.entries = Observations(_SECONDS), Observations(_ENTRIES)
        registry.register(_Histograms(self))
        self.commit_failures = Counter("zopo_commit_failures", "Commits that failed.", registry=registry)
        self.problems = Counter(
            "zopo_problems", "Requests refused, by status.", ["status"], registry=registry
        )
        self.studies = Gauge("zopo_studies", "Studies kept.", registry=registry)
        self.jobs = Gauge("zopo_jobs", "Jobs by state.", ["state"], registry=registry)
        self.budget_left = Gauge(
            "zopo_job_budget_left", "Prompts a running job may still score.", ["job"], registry=registry
        )
        self._calls = Counter("zopo_calls", "Calls that models answered.", ["model"], registry=registry)
        self._tokens = Counter("zopo_tokens", "Tokens of them.", ["model", "side"], registry=registry)
        self._retries = Counter("zopo_retries", "Attempts that were repeated.", ["model"], registry=registry)

    def committed(self, seconds: float, entries: int) -> None:
        """Count a commit."""
        self.commits(seconds)
        self.entries(entries)

    def used(self, model: str, before: Usage, now: Usage) -> None:
        """Count what a job used between two readings."""
        self._calls.labels(model).inc(max(0, now.calls - before.calls))
        self._retries.labels(model).inc(max(0, now.retries - before.retries))
        self._tokens.labels(model, "prompt").inc(max(0, now.prompt_tokens - before.prompt_tokens))
        self._tokens.labels(model, "completion").inc(max(0, now.completion_tokens - before.completion_tokens))

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self.registry)
