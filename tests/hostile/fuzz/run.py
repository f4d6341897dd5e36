"""Run the fuzz targets in turn: python tests/hostile/fuzz/run.py --seconds 60 [--corpus DIR] [TARGET ...]

Prints one line per target; the exit code is 1 if an input made one fail. That input is saved in --out;
`python tests/hostile/fuzz/fuzz_TARGET.py FILE` runs it again. Without atheris: a note, and exit code 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = tuple(sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py")))


def run(target: str, limit: str, corpus: Path, out: Path) -> tuple[str, bool]:
    """Run one target; return its line of the table, and whether it passed.

    `limit` is an option of libFuzzer: "-runs=N" or "-max_total_time=SECONDS".
    """
    found = corpus / target
    found.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, f"fuzz_{target}.py", limit, f"-artifact_prefix={out}/{target}-", "-seed=1"]
    done = subprocess.run(
        [*command, str(found), *(str(folder) for folder in [HERE / "corpus" / target] if folder.is_dir())],
        check=False,
        cwd=HERE,
        capture_output=True,
        text=True,
        errors="replace",
    )
    log = done.stderr + done.stdout
    runs = re.findall(r"Done (\d+) runs|^#(\d+)", log, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", log)
    line = (
        f"{target:10} {max((int(a or b) for a, b in runs), default=0):>9,} runs  "
        f"{covered[-1] if covered else '?':>6} branches  {len(list(found.iterdir())):>5} inputs kept  "
        f"{'held' if done.returncode == 0 else 'BROKEN'}"
    )
    return line if done.returncode == 0 else f"{line}\n{log[-4000:]}", done.returncode == 0


def main() -> int:
    """Run the selected targets; return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the loaders.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, help="inputs for each target, instead of a time")
    parser.add_argument("--corpus", type=Path, help="folder of inputs found, read and added to")
    parser.add_argument("--out", type=Path, help="folder for what breaks something")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing was fuzzed (pip install atheris)")
        return 0
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="zopo-fuzz-corpus-"))
    out = given.out or Path(tempfile.mkdtemp(prefix="zopo-fuzz-found-"))
    out.mkdir(parents=True, exist_ok=True)
    limit = f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}"
    held = True
    for target in given.targets or TARGETS:
        line, one = run(target, limit, corpus.resolve(), out.resolve())
        print(line, flush=True)
        held = held and one
    if not held:
        print(f"what broke them: {out}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
