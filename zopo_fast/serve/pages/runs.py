"""Runs of a server, filtered and paged, and the report of each."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from zopo_fast.errors import StoreError
from zopo_fast.search.config import ZopoConfig
from zopo_fast.serve.changes import Changes
from zopo_fast.serve.jobs.job import JobRecord
from zopo_fast.serve.jobs.service import JobService
from zopo_fast.serve.pages.summaries import STUDY_STATES, Summary, job_summary, scores_of, study_summary
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.service import StudyService

PAGE_ROWS = 25
KEPT_REPORTS = 8  # of runs that several browsers look at


class Filter(NamedTuple):
    """Filter of the list: part of the name, state, and page from 1."""

    name: str = ""
    state: str = ""
    page: int = 1


class RunPage(NamedTuple):
    """One page of the list.

    Attributes:
        rows: summaries, active jobs first, then the newest.
        matching: number of runs that match the filter.
        total: number of all runs.
        active: number of jobs queued or running.
        page: number of this page.
        pages: number of pages.
    """

    rows: list[Summary]
    matching: int
    total: int
    active: int
    page: int
    pages: int


class _Report(NamedTuple):
    revision: int
    html: str
    seconds: float


class Runs:
    """Studies and jobs of a server, as its page shows them.

    Args:
        studies: the studies.
        jobs: the jobs.
        changes: their revisions.
    """

    def __init__(self, studies: StudyService, jobs: JobService, changes: Changes) -> None:
        self._studies, self._jobs, self._changes = studies, jobs, changes
        self._summaries: WeakKeyDictionary[StudyRecord, tuple[int, Summary]] = WeakKeyDictionary()
        self._reports: OrderedDict[str, _Report] = OrderedDict()
        self._rendering = asyncio.Lock()  # one at a time: a report takes memory and processor time

    async def list(self, wanted: Filter) -> RunPage:
        """List the runs that match a filter, one page of them."""
        studies, jobs = await self._studies.list_all(), await self._jobs.list_all()
        everything: list[StudyRecord | JobRecord] = [*jobs, *studies]
        found = [run for run in everything if _matches(run, wanted)]
        if wanted.state in STUDY_STATES:  # only the log of a study tells its state
            summaries = [await self.summary(run) for run in found]
            states = dict(zip(map(id, found), summaries, strict=True))
            found = [run for run in found if states[id(run)].state == wanted.state]
        found.sort(key=_order)
        pages = max(1, math.ceil(len(found) / PAGE_ROWS))
        page = min(max(1, wanted.page), pages)
        shown = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        rows = [await self.summary(run) for run in shown]
        active = sum(job.saved.is_active for job in jobs)
        return RunPage(rows, len(found), len(everything), active, page, pages)

    async def summary(self, run: StudyRecord | JobRecord) -> Summary:
        """Summarize a run; a study that cannot be read has its error in the summary."""
        if isinstance(run, JobRecord):
            return job_summary(run, self._jobs.models)
        revision = self._changes.revision(run.id)
        known = self._summaries.get(run)
        if known is not None and known[0] == revision:
            return known[1]
        try:
            summary = await study_summary(run)
        except StoreError as error:
            name, created = run.meta["name"] or "", float(run.meta["created"])
            return Summary("study", run.id, name, "failed", None, None, 0, 0, created, error=str(error))
        self._summaries[run] = revision, summary
        return summary

    def seconds(self, run: str) -> float:
        """Return the seconds that the last report of a run took to render; 0 before the first."""
        known = self._reports.get(run)
        return 0.0 if known is None else known.seconds

    async def report(self, run: StudyRecord | JobRecord) -> str | None:
        """Render the report of a run as HTML; None before the first score.

        Raises:
            StoreError: the study file cannot be read.
        """
        name = run.saved.id if isinstance(run, JobRecord) else run.id
        async with self._rendering:
            revision = self._changes.revision(name)
            known = self._reports.get(name)
            if known is not None and known.revision == revision:
                return known.html
            start = time.perf_counter()
            html = await (self._job_report(run) if isinstance(run, JobRecord) else self._study_report(run))
            if html is not None:
                self._reports[name] = _Report(revision, html, time.perf_counter() - start)
                self._reports.move_to_end(name)
                if len(self._reports) > KEPT_REPORTS:
                    self._reports.popitem(last=False)
            return html

    async def _job_report(self, job: JobRecord) -> str | None:
        if not job.saved.trials:
            return None
        title = job.saved.name or job.saved.id

        def render(path: Path) -> str:
            from zopo_fast.report.page import report_body
            from zopo_fast.report.study import Study

            with Study.open(path) as study:
                study.name = title
                return report_body([study])

        async with self._jobs.read_study(job) as path:
            return None if path is None else await asyncio.to_thread(render, path)

    async def _study_report(self, record: StudyRecord) -> str | None:
        contents = await record.read()
        scores = scores_of(contents.events)
        if not scores.told:
            return None
        name = record.meta["name"] or record.id

        def render() -> str:
            from zopo_fast.report.page import report_body
            from zopo_fast.report.study import Study

            config = ZopoConfig.from_dict(contents.meta["config"])
            prompts, embeddings = contents.prompts, contents.embeddings
            texts = prompts or [f"prompt {i}" for i in range(len(embeddings))]
            order = list(scores.told)
            return report_body([Study.of_search(name, texts, embeddings, scores.told, order, config)])

        return await asyncio.to_thread(render)


def _matches(run: StudyRecord | JobRecord, wanted: Filter) -> bool:
    name = (run.saved.name if isinstance(run, JobRecord) else run.meta["name"]) or ""
    key = run.saved.id if isinstance(run, JobRecord) else run.id
    if wanted.name.casefold() not in f"{name} {key}".casefold():
        return False
    if not wanted.state or (isinstance(run, StudyRecord) and wanted.state in STUDY_STATES):
        return True
    return isinstance(run, JobRecord) and run.saved.state == wanted.state


def _order(run: StudyRecord | JobRecord) -> tuple[bool, float]:
    if isinstance(run, JobRecord):
        return not run.saved.is_active, -run.saved.created
    return True, -float(run.meta["created"])
