"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from zopo_fast.llm.types import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30)
_ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Metrics of one server, in a registry of their own.

    Attributes:
        ask, tell, discard, create: seconds from the arrival of a request to its response, commit included.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        steps = Histogram(
            "zopo_step_seconds",
            "Seconds from the arrival of a request to its response, commit included.",
            ["step"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.ask, self.tell = steps.labels("ask"), steps.labels("tell")
        self.discard, self.create = steps.labels("discard"), steps.labels("create")
        self._commit_seconds = Histogram(
            "zopo_commit_seconds",
            "Seconds of one commit of the journal.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._commit_entries = Histogram(
            "zopo_commit_entries",
            "Requests in one commit of the journal.",
            buckets=_ENTRIES,
            registry=registry,
        )
        self.commit_failures = Counter(
            "zopo_commit_failures", "Failed commits of the journal.", registry=registry
        )
        self.problems = Counter(
            "zopo_problems", "Requests that failed, by status code.", ["status"], registry=registry
        )
        self.studies = Gauge("zopo_studies", "Studies on disk.", registry=registry)
        self.jobs = Gauge("zopo_jobs", "Jobs by state.", ["state"], registry=registry)
        self.budget_left = Gauge(
            "zopo_job_budget_left", "Prompts that a running job can still score.", ["job"], registry=registry
        )
        self._calls = Counter("zopo_calls", "Successful calls of models.", ["model"], registry=registry)
        self._tokens = Counter("zopo_tokens", "Tokens of these calls.", ["model", "side"], registry=registry)
        self._retries = Counter("zopo_retries", "Retried calls of models.", ["model"], registry=registry)

    def observe_commit(self, seconds: float, entries: int) -> None:
        """Count a commit of the journal."""
        self._commit_seconds.observe(seconds)
        self._commit_entries.observe(entries)

    def count_usage(self, model: str, before: Usage, now: Usage) -> None:
        """Count what a job used between two snapshots of its usage."""
        self._calls.labels(model).inc(max(0, now.calls - before.calls))
        self._retries.labels(model).inc(max(0, now.retries - before.retries))
        self._tokens.labels(model, "prompt").inc(max(0, now.prompt_tokens - before.prompt_tokens))
        self._tokens.labels(model, "completion").inc(max(0, now.completion_tokens - before.completion_tokens))

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
