#!/usr/bin/env python3
"""Use an installed zopo_fast with nothing but its own dependencies, and fail where it does not work.

    python tests/repo/smoke.py

Covers the native module, a search by ask and tell, optimize() with a function, the command line, and the
list of installed files.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import files, version
from pathlib import Path

import numpy as np

import zopo_fast as zf

PACKAGE = Path(zf.__file__).parent
SOURCES = Path(__file__).parents[2]
UNWANTED = ("tests", "csrc", "results", "landscapes", "golden", "packaging", "gpu.sh")


def check_search() -> None:
    """Run a search to its end, and resume it from its state."""
    embeddings = np.random.default_rng(0).normal(size=(30, 16))
    search = zf.Zopo(embeddings, zf.ZopoConfig(budget=20, initial=5, seed=0))
    scores: dict[int, float] = {}
    while not search.done:
        index = search.ask()
        scores[index] = -float(np.sum((embeddings[index] - embeddings[7]) ** 2))
        search.tell(index, scores[index])
    assert len(scores) == 20
    assert search.best == max(scores.items(), key=lambda item: item[1])
    assert zf.Zopo.from_state(embeddings, search.state_dict()).done


def check_optimize() -> None:
    """Optimise a function of the prompt, without a model."""
    prompts = [f"Answer in {n} words." for n in range(1, 31)]
    embeddings = np.random.default_rng(1).normal(size=(30, 8))
    config = zf.RunConfig(budget=8, initial=4, seed=0)
    result = zf.optimize_sync(len, prompts, config=config, embeddings=embeddings)
    assert result.best_prompt in prompts
    assert len(result.trials) == 8, result


def check_command() -> None:
    """Start the command that the package installs."""
    command = Path(sys.executable).with_name("zopo-fast")
    shown = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert version("zopo-fast") in shown, shown
    subprocess.run([command, "optimize", "--help"], capture_output=True, check=True, timeout=60)


def check_files() -> None:
    """Check that the distribution has installed every file of the package and of bench, and no other."""
    installed = {path.as_posix() for path in files("zopo-fast") or () if path.suffix != ".pyc"}
    for top, prefix in (("zopo_fast", "zopo_fast"), ("bench", "zopo_fast/bench")):
        for path in (SOURCES / top).rglob("*"):
            name = path.relative_to(SOURCES / top).as_posix()
            is_source = (
                path.is_file() and path.suffix not in {".so", ".pyc"} and not name.startswith("bench/")
            )
            if is_source and not set(Path(name).parts) & set(UNWANTED):
                assert f"{prefix}/{name}" in installed, name
                assert (PACKAGE.parent / prefix / name).is_file(), name
    for wanted in ("zopo_fast/py.typed", "zopo_fast/_core.pyi", "zopo_fast/serve/pages/static/page.css"):
        assert wanted in installed, wanted
    for name in installed:
        assert not set(Path(name).parts) & set(UNWANTED), name


if __name__ == "__main__":
    check_search()
    check_optimize()
    check_command()
    check_files()
    python = ".".join(map(str, sys.version_info[:3]))
    print(
        f"zopo-fast {version('zopo-fast')} works, Python {python}, NumPy {np.__version__}; {zf.cuda_status()}"
    )
