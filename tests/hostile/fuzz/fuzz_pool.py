"""Fuzz pool files: text lines and JSONL."""

from __future__ import annotations

from pathlib import Path

from harness import fuzz, in_file, instrumented

with instrumented:
    from zopo_fast.prompts import pool

ENDINGS = (".jsonl", ".txt")


def target(folder: Path, data: bytes) -> None:
    """Load a pool; save it, load it again, and compare."""
    found = pool.Pool.load(in_file(folder, ENDINGS)(data))
    found.save(folder / "saved.jsonl")
    if pool.Pool.load(folder / "saved.jsonl") != found:
        raise AssertionError("the pool changed")


if __name__ == "__main__":
    fuzz(target)
