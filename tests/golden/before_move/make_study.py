"""Study file of commit cb1422c, before the package was split into folders: an interrupted run and its end.

    PYTHONPATH=CHECKOUT_OF_cb1422c python make_study.py

writes `study.sqlite3`, the study of a process that ended in the middle of a race, and `study.json`: the log
and the result of the same code when it resumes a copy of that study. Only public names of the package are
used here, so the test that resumes the study with the present code imports its task, pool and settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import zopo_fast as zf

HERE = Path(__file__).parent
STUDY, EXPECTED = HERE / "study.sqlite3", HERE / "study.json"
CALLS_BEFORE_EXIT = 48
REFUSED = "Do it in way number 13."

PROMPTS = [f"Do it in way number {i}." for i in range(24)]
POOL = zf.Pool.from_texts([*PROMPTS, PROMPTS[5]], {3: 0.25, 20: 0.5})
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(PROMPTS), 4)).astype(np.float32)


def half_for_maybe(answer: str, references: list[str]) -> float:
    """Score of an answer by a metric that is a function."""
    return 0.5 if answer == "maybe" else float(answer in references)


TASK = zf.Task(
    "toy",
    tuple(zf.Example(f"question {i}", ("yes", "Yes")) for i in range(12)),
    tuple(zf.Example(f"question {i}", ("yes",)) for i in range(12, 16)),
    metric=half_for_maybe,  # type: ignore[arg-type, unused-ignore]
    demonstrations=(zf.Example("question 99", ("yes",)),),
)
CONFIG = zf.RunConfig(
    budget=10,
    initial=4,
    seed=3,
    concurrency=1,  # one call at a time: the log depends on nothing but the code under test
    incumbent=PROMPTS[2],
    racing=True,
    score_range=(0.0, 1.0),
    stop_at_perfect=False,
    limits=zf.Limits(calls=400),
)


class Model:
    """Deterministic model function that records its calls; `before_call` receives their number so far."""

    def __init__(self, before_call: Callable[[int], None] = lambda _: None) -> None:
        self.calls: list[list[int]] = []
        self._before_call = before_call

    async def __call__(self, messages: Any) -> str:
        content = messages[-1]["content"]
        self._before_call(len(self.calls))
        prompt, question = (
            int(found) for found in re.findall(r"number (\d+).*question (\d+)", content, re.S)[0]
        )
        self.calls.append([prompt, question])
        if REFUSED in content:
            raise zf.RequestRejectedError("refused by a filter")
        return ("no", "maybe", "yes")[min(2, (question * 7 + prompt * 5) % 24 * (prompt + 4) // 160)]


def run(path: Path, model: Model) -> zf.Result:
    """Run the study at `path`, or resume it."""
    return zf.optimize_sync(TASK, POOL, model, CONFIG, embeddings=EMBEDDINGS, store=path)


def comparable(result: zf.Result, log: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Log and result as JSON values, without what depends on the clock."""

    def untimed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in ("at", "seconds")}

    document = {
        "log": [[kind, untimed(data)] for kind, data in log],
        "trials": [untimed(asdict(trial)) for trial in result.trials],
        "result": untimed(result.to_dict()),
    }
    return dict(json.loads(json.dumps(document)))


def _interrupted(path: Path) -> None:
    def leave(calls: int) -> None:
        if calls == CALLS_BEFORE_EXIT:
            os._exit(9)  # as kill -9: nothing is closed

    run(path, Model(leave))


def main() -> None:
    """Write both files."""
    if sys.argv[1:]:
        _interrupted(Path(sys.argv[1]))
        return
    from zopo_fast.store import Store  # type: ignore[import-not-found, unused-ignore]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite3"
        ended = subprocess.run([sys.executable, __file__, str(path)], check=False)
        assert ended.returncode == 9
        with closing(sqlite3.connect(path)) as connection:  # moves the write-ahead log into the file
            connection.execute("SELECT * FROM study").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, STUDY)
        model = Model()
        result = run(path, model)
        with Store.open(path) as store:
            document = comparable(result, [(event.kind, event.data) for event in store.events()])
    EXPECTED.write_text(json.dumps({"calls": model.calls, **document}) + "\n")


if __name__ == "__main__":
    main()
