"""Audit of the dependencies: it fails on findings, and reports a service that cannot be reached."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import audit
import pytest

CLEAN = {"name": "numpy", "version": "1.24.0", "vulns": []}
FLAWED = {"name": "aiohttp", "version": "3.9.0", "vulns": [{"id": "X-1", "fix_versions": ["3.9.4"]}]}
PASSED_OVER = {"name": "tqdm", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ([CLEAN], 0, "1 packages audited, 0 with known"),
        ([CLEAN, FLAWED], 1, "aiohttp 3.9.0: X-1, fixed in 3.9.4"),
        ([CLEAN, PASSED_OVER], 0, "passed over: tqdm"),
        ([PASSED_OVER], 0, "COULD NOT RUN"),
        (None, 0, "COULD NOT RUN: 32 packages were not audited: no route to host"),
        ("not a list of packages", 0, "COULD NOT RUN"),
    ],
)
def test_the_exit_code_of_an_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: Any, code: int, says: str
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if isinstance(answer, list):
            Path(command[-1]).write_text(json.dumps({"dependencies": answer}), encoding="utf-8")
        elif answer is not None:
            Path(command[-1]).write_text(answer, encoding="utf-8")
        return subprocess.CompletedProcess(command, 1, "", "no route to host\n")

    versions = {f"package{number}": "1.0" for number in range(32)}
    monkeypatch.setattr(audit, "installed", lambda _: (versions, []))
    monkeypatch.setattr(audit.subprocess, "run", run)
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr("sys.argv", ["audit.py"])
    assert audit.main() == code
    assert says in capsys.readouterr().out


def test_every_dependency_is_audited() -> None:
    versions, missing = audit.installed(audit.declared([]))
    assert {"numpy", "aiohttp", "yarl", "click", "tqdm", "multidict", "idna"} <= {
        *versions,
        *missing,
    }
    assert "torch" not in versions
