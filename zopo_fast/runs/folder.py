"""Folder of a run: best prompt, result, trials and study."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from zopo_fast._utils.files import error_reason, exists, write_atomic
from zopo_fast._utils.text import json_line
from zopo_fast.errors import OutputError
from zopo_fast.prompts.pool import Pool
from zopo_fast.runs.result import Result, Trial
from zopo_fast.storage.file import is_absent
from zopo_fast.storage.store import STUDY

_log = logging.getLogger(__name__)

TRIALS, RESULT, BEST, POOL = "trials.jsonl", "result.json", "best_prompt.txt", "pool.jsonl"
CURVE, REPORT = "curve.png", "report.html"


class RunFolder:
    """Folder of one run, created before the first call so that no paid answer is lost.

    Args:
        path: of the folder.
        resume: the folder holds a run to resume; `rewrite_trials` replaces its trials.

    Raises:
        OutputError: the folder cannot be written, or already holds a run.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.finished = False
        try:
            self._is_new = not exists(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            names = (STUDY, TRIALS, RESULT, BEST, CURVE, REPORT, POOL)
            held = [name for name in names if exists(self.path / name)]
            if held == [STUDY] and is_absent(self.path / STUDY):  # empty: left by a full disk
                held = []
            if held == [TRIALS] and not (self.path / TRIALS).stat().st_size:
                (self.path / TRIALS).unlink()  # left by a run that was killed before its first call
                held = []
            if held and not resume:
                more = f", or resume the run: --resume {self.path}" if held[0] == STUDY else ""
                raise OutputError(f"{self.path}: already holds a run ({held[0]}); give another folder{more}")
            self._trials: IO[str] = (self.path / TRIALS).open("a" if resume else "x", encoding="utf-8")
        except OutputError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path}: cannot be written: {error_reason(error)}") from error

    def add(self, trial: Trial) -> None:
        """Append a trial to trials.jsonl and flush the file."""
        self._write(self._line(trial))

    def rewrite_trials(self, trials: Sequence[Trial]) -> None:
        """Replace trials.jsonl atomically by the trials of a resumed run."""
        self._trials.close()
        lines = "".join(self._line(trial) for trial in trials)
        write_atomic(self.path / TRIALS, lines.encode(errors="replace"))
        try:
            self._trials = (self.path / TRIALS).open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path / TRIALS}: cannot be written: {error}") from error

    @staticmethod
    def _line(trial: Trial) -> str:
        row = asdict(trial)
        for redundant in ("best_score", "total"):
            del row[redundant]
        return json_line(row)

    def _write(self, line: str) -> None:
        try:
            self._trials.write(line)
            self._trials.flush()
        except (OSError, UnicodeError) as error:
            raise OutputError(f"{self.path / TRIALS}: cannot be written: {error}") from error

    def finish(self, result: Result, settings: dict[str, Any]) -> None:
        """Write best_prompt.txt and result.json.

        Raises:
            OutputError: best_prompt.txt or result.json cannot be written.
        """
        self.finished = True
        self._trials.close()
        document = {**result.to_dict(), "settings": settings}
        try:
            (self.path / BEST).write_text(result.best_prompt + "\n", encoding="utf-8", errors="replace")
            text = json.dumps(document, ensure_ascii=False, indent=2, default=str)
            (self.path / RESULT).write_text(text + "\n", encoding="utf-8", errors="replace")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def save_pool(self, pool: Pool) -> None:
        """Write pool.jsonl, so that prompts written by a model are kept even if the run fails later."""
        pool.save(self.path / POOL)

    def close(self, remove: bool = False) -> None:
        """Close trials.jsonl.

        Args:
            remove: delete trials.jsonl, the study, and the folder if this object created it, unless the run
                is finished. For runs without any answer, whose folder would block another try.
        """
        self._trials.close()
        if remove and not self.finished:
            with suppress(OSError):
                for name in (TRIALS, STUDY, STUDY + "-wal"):
                    (self.path / name).unlink(missing_ok=True)
                if self._is_new:
                    self.path.rmdir()


def has_results(folder: Path) -> bool:
    """Return True if a folder holds the best prompt and the result of a run."""
    return exists(folder / BEST) and exists(folder / RESULT)


def set_aside(folder: Path) -> None:
    """Rename the files of a run whose study is an empty file, so that another run can start in the folder.

    Raises:
        OutputError: a file cannot be renamed.
    """
    if not exists(folder / STUDY) or not is_absent(folder / STUDY):
        return
    held = [name for name in (TRIALS, RESULT, BEST, CURVE, REPORT, POOL) if exists(folder / name)]
    try:
        for name in held:
            (folder / name).replace(folder / f"{name}.old")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error_reason(error)}") from error
    kept = f"; {', '.join(held)} renamed to *.old" if held else ""
    _log.warning("%s: the study is an empty file, so a new run starts%s", folder / STUDY, kept)
