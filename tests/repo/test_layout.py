"""Rules of the layout: short files, and folders whose listing is a map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES, MAX_ENTRIES = 450, 16
SOURCES = {".py", ".pyi", ".sh", ".hpp", ".cpp", ".h", ".inl", ".cu", ".cuh"}


def entries(folder: Path) -> list[Path]:
    """List a folder without products of builds and of Python, and without marker and stub of typing.

    Public modules named after the package that they serve do not count: their names are fixed.
    """
    named = {"torch.py", "optuna.py", "litellm.py"}
    made = {"__pycache__", "build", ".hypothesis", "py.typed", "_core.pyi", *named}
    found = [path for path in folder.iterdir() if path.name not in made and not path.is_symlink()]
    return [path for path in found if path.suffix not in {".so", ".pyd"}]


def folders(folder: Path) -> list[Path]:
    below = [path for path in entries(folder) if path.is_dir()]
    return [folder, *(each for path in below for each in folders(path))]


@pytest.mark.parametrize("name", ["zopo_fast", "csrc", "tests", "bench", "examples"])
def test_no_file_is_longer_than_450_lines(name: str) -> None:
    files = [path for folder in folders(ROOT / name) for path in entries(folder) if path.suffix in SOURCES]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("name", ["zopo_fast", "csrc"])
def test_no_folder_has_more_than_16_entries(name: str) -> None:
    numbers = {str(folder.relative_to(ROOT)): len(entries(folder)) for folder in folders(ROOT / name)}
    assert {folder: number for folder, number in numbers.items() if number > MAX_ENTRIES} == {}


@pytest.mark.parametrize("script", ["native/sanitize.sh", "repo/lower_bounds.sh"])
def test_every_test_file_named_in_a_script_exists(script: str) -> None:
    lists = re.findall(r"^ *tests=\(([\w/\s]+)\)", (ROOT / "tests" / script).read_text(), re.MULTILINE)
    names = " ".join(lists).split()
    assert names
    missing = [
        name
        for name in names
        if not (ROOT / "tests" / name.replace("/", "/test_")).with_suffix(".py").exists()
    ]
    assert missing == []
