"""Instruction counts: which instructions belong to the extension, and when the check fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zopo_fast.bench.micro import instructions

DUMP = """\
version: 1
desc: Trigger: Client Request: gram
positions: line
events: Ir
ob=/lib/python
fn=call
0 500
cob=/pkg/_core.so
cfn=gram
calls=1 0
0 1234
ob=/pkg/_core.so
fn=gram
0 1000
12 30
cob=/lib/libc.so
cfn=memcpy
calls=2 0
12 70
13 4
fn=dot
0 200
ob=/lib/libc.so
fn=memcpy
0 70
summary: 1804
"""
BASELINE = {"gram": 1000, "append": 2000}


def test_only_the_extensions_own_instructions_count() -> None:
    """Instructions of callers and callees do not count, and no call counts twice."""
    assert instructions.own_cost(DUMP, "/pkg/_core.so") == ("gram", 1000 + 30 + 4 + 200)
    assert instructions.own_cost(DUMP, "/lib/libc.so") == ("gram", 70)
    assert instructions.own_cost(DUMP.replace("Client Request", "Program termination"), "")[0] == ""


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ({"gram": 1000, "append": 2000}, 0),
        ({"gram": 1100, "append": 2200}, 0),
        ({"gram": 1101, "append": 2000}, 1),
        ({"gram": 10, "append": 2201}, 1),
        ({"gram": 10, "append": 10}, 0),
        ({"gram": 1000}, 1),
        ({"gram": 1000, "append": 2000, "scan": 1}, 1),
    ],
)
def test_an_increase_by_a_tenth_fails(now: dict[str, int], status: int) -> None:
    assert instructions.check(now, BASELINE) == status


def test_the_table_shows_increases_and_decreases() -> None:
    gram, append, scan, gone = instructions.table(
        {"gram": 1200, "append": 1000, "scan": 5}, {**BASELINE, "solve": 7}
    ).split("\n")[1:]
    assert gram.split() == ["gram", "1,200", "1,000", "+20.0", "%", "TOO", "MANY"]
    assert append.split() == ["append", "1,000", "2,000", "-50.0", "%"]
    assert scan.split() == ["scan", "5", "-", "new"]
    assert gone.split() == ["solve", "gone", "7"]


@pytest.mark.parametrize("ci", ["", "1"])
def test_another_compiler_is_reported_and_passes(
    ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"compiler": "GCC: (Elsewhere 3.4.6) 3.4.6", "instructions": BASELINE}))
    monkeypatch.setattr(instructions, "BASELINE", path)
    monkeypatch.setattr("sys.argv", ["instructions.py", "--check"])
    monkeypatch.setenv("CI", ci)
    assert instructions.main() == 0
    assert "3.4.6" in capsys.readouterr().out


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("1", 1)])
def test_a_missing_valgrind_fails_in_ci_only(
    ci: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(instructions, "major", lambda _: "the same")
    monkeypatch.setattr("sys.argv", ["instructions.py", "--check"])
    monkeypatch.setenv("CI", ci)
    assert instructions.main() == status
    assert "valgrind is not installed" in capsys.readouterr().out


def test_the_major_version_is_compared() -> None:
    assert instructions.major("GCC: (Debian 12.2.0-14+deb12u1) 12.2.0") == "GCC 12"
    assert instructions.major("GCC: (GNU) 13.1.1") == "GCC 13"
    assert instructions.major("clang version 17.0.6") == "clang 17"


def test_the_baseline_is_complete() -> None:
    record = json.loads(instructions.BASELINE.read_text())
    assert record.keys() == {"compiler", "flags", "isa", "instructions"}
    assert min(record["instructions"].values()) > 1000
