"""The tables of docs/metrics.md: every cell is the score that the metric gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from zopo_fast.scoring import metrics
from zopo_fast.serve.jobs.schemas import MetricName
from zopo_fast.tasks.task import Task

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
HEADER = re.compile(r"^\| answer \| reference \|(.*)\|$", re.MULTILINE)


def shown(cell: str) -> str:
    """Return the text that a cell of the table stands for."""
    text = cell.strip()
    if text == "(empty)":
        return ""
    text = text[3:-3] if text.startswith("`` ") else text[1:-1]
    return text.replace("⏎", "\n")


def rows() -> list[tuple[str, str, dict[str, float]]]:
    found = []
    names: list[str] = []
    for line in PAGE.split("## Examples")[1].splitlines():
        if match := HEADER.match(line):
            names = match[1].replace(" ", "").split("|")
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            scores = [0.0 if cell.strip(" |") == "-" else float(cell.strip(" |")) for cell in cells[2:]]
            found.append((shown(cells[0]), shown(cells[1]), dict(zip(names, scores, strict=True))))
    return found


@pytest.mark.parametrize(("answer", "reference", "scores"), rows())
def test_a_row(answer: str, reference: str, scores: dict[str, float]) -> None:
    for name, score in scores.items():
        assert metrics.METRICS[name](answer, reference) == pytest.approx(score, abs=0.005), name


def test_every_metric_has_its_place() -> None:
    assert len(rows()) > 40
    assert all(f"`{name}`" in PAGE for name in metrics.NAMES)
    assert get_args(MetricName) == metrics.NAMES
    assert set(metrics.BINARY) < set(metrics.METRICS)


def test_a_list_of_examples_is_no_file_of_the_benchmark(tmp_path: Path) -> None:
    rows = [{"input": str(i), "output": "U.S."} for i in range(4)]
    for name, document, metric in [
        ("list", rows, "exact_match"),
        ("wrapped", {"examples": rows}, "exact_match"),
        ("numbered", {"examples": {str(i): row for i, row in enumerate(rows)}}, "induction_match"),
        ("synonyms", {"examples": rows}, "induction_contains"),
    ]:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        assert Task.load(path, examples=None).metric == metric
