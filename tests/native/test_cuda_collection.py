"""Collection of device tests: with a device, bench/gpu.sh and tests/native/emulate.sh run all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from time_tools import HANG

ROOT = Path(__file__).parents[2]
FILES = [f"tests/{name}" for name in (ROOT / "tests" / "native" / "devices.txt").read_text().split()]
SCRIPTS = ["bench/gpu.sh", "tests/native/emulate.sh"]
MARKERS = "cuda or emulated or devices"

# Collect as on a machine with an emulated device; print the fields of a Case of each test as a JSON list.
COLLECT = f"""
import json, sys, pytest
from zopo_fast import _core

_core.cuda_device_count = lambda: 1
_core.cuda_status = lambda: "1 CUDA device(s), emulated on the host"

class Plugin:
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        self.items = list(items)

    def pytest_collection_finish(self, session):
        selected = {{item.nodeid for item in session.items}}
        for item in self.items:
            marked = any(item.get_closest_marker(name) for name in {MARKERS.split(" or ")!r})
            device = getattr(item, "callspec", None) and item.callspec.params.get("device")
            print("\\n" + json.dumps([item.nodeid, marked, item.nodeid in selected, device]))

arguments = ["--collect-only", "-qq", "-p", "no:cacheprovider", "-m", {MARKERS!r}, *sys.argv[1:]]
sys.exit(pytest.main(arguments, plugins=[Plugin()]))
"""


class Case(NamedTuple):
    name: str
    is_marked: bool
    is_selected: bool
    device: str | None


@pytest.fixture(scope="module")
def collected() -> list[Case]:
    command = [sys.executable, "-c", COLLECT, *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * HANG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [Case(*json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def test_exactly_the_marked_cases_are_selected(collected: list[Case]) -> None:
    assert [case.name for case in collected if case.is_marked != case.is_selected] == []
    assert sum(case.is_selected for case in collected) > 700
    for file in FILES:
        needed = re.findall(r'^\w+ = pytest\.importorskip\("(\w+)"', (ROOT / file).read_text(), re.MULTILINE)
        if any(find_spec(module) is None for module in needed):
            continue  # the whole file is skipped on this machine
        assert any(case.name.startswith(file) and case.is_selected for case in collected), file


def test_every_case_on_the_cpu_also_runs_on_a_device(collected: list[Case]) -> None:
    names = {case.name for case in collected}
    on_cpu = [case.name for case in collected if case.device == "cpu"]
    assert len(on_cpu) > 200
    assert [name for name in on_cpu if re.sub(r"(?<=[\[-])cpu(?=[-\]])", "cuda", name) not in names] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_selects_the_device_tests(script: str) -> None:
    text = (ROOT / script).read_text()
    assert "tests/native/devices.txt" in text
    assert f'-m "{MARKERS}"' in text


def test_every_file_with_device_tests_is_listed() -> None:
    """A device test takes the fixture `device` or has one of the markers."""
    uses = re.compile(r"^def \w+\([^)]*\bdevice: str|pytest\.mark\.(cuda|emulated|devices)\b", re.MULTILINE)
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if uses.search(path.read_text())]
    assert {str(path.relative_to(ROOT)) for path in found} - {str(Path(__file__).relative_to(ROOT))} <= set(
        FILES
    )
