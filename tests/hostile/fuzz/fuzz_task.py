"""Fuzz task files: JSONL, CSV, TSV, instruction-induction JSON, gzip, Parquet and Arrow."""

from __future__ import annotations

from pathlib import Path

from harness import fuzz, in_file, instrumented

with instrumented:
    from zopo_fast.tasks import task

ENDINGS = (".jsonl", ".csv", ".tsv", ".json", ".csv.gz", ".parquet", ".arrow")


def target(folder: Path, data: bytes) -> None:
    """Load a task; check that its inputs are not empty."""
    found = task.Task.load(in_file(folder, ENDINGS)(data), examples=None)
    for example in found.train:
        if not example.input.strip():
            raise AssertionError("an empty input was accepted")


if __name__ == "__main__":
    fuzz(target)
