"""The tutorial: a notebook without outputs, which runs; and the bars of a run in a notebook."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: Any, seconds: int, allow_errors: bool = False) -> list[Any]:
    """Run a notebook in a kernel of its own; return its code cells."""
    where = {"metadata": {"path": str(TUTORIAL.parent)}}
    how = {"timeout": seconds, "kernel_name": "python3", "allow_errors": allow_errors}
    NotebookClient(notebook, resources=where, **how).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def data_of(cells: list[Any]) -> list[Any]:
    return [output.data for cell in cells for output in cell.outputs if "data" in output]


def test_the_tutorial_is_stored_without_outputs() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.execution_count, cell.outputs) == (None, [])
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.model
@pytest.mark.timeout(1200)
def test_the_tutorial_runs() -> None:
    cells = execute(nbformat.read(TUTORIAL, as_version=4), 900)
    shown = data_of(cells)
    assert not [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"]
    assert sum(WIDGET in data for data in shown) == 4  # embedding, search, search again, comparison
    texts = [data.get("text/plain", "") for data in shown]
    assert "('calls', 20)" in texts
    assert any(re.match(r"\('(budget|perfect)', \d+\)", text) for text in texts)
    assert sum("<b>Best prompt</b>" in data.get("text/html", "") for data in shown) == 2
    assert sum('class="dataframe"' in data.get("text/html", "") for data in shown) == 1
    assert sum("vega" in data.get("text/html", "") for data in shown) == 3


BARS = """
import numpy as np, zopo_fast as zf
prompts = [f"<b>prompt</b> {n}" for n in range(12)]
embeddings = np.random.default_rng(0).normal(size=(12, 4))
def score(prompt, example):
    if FAILS and example == 3:
        raise RuntimeError("no")
    return float(len(prompt) > 15 or example % 2)
config = zf.RunConfig(budget=6, score_range=(0, 1))
await zf.optimize(score, prompts, None, config, examples=range(12), embeddings=embeddings, progress=True)
"""


def bars(code: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Run code in a notebook; return the states of its bars, and the texts beside them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    cells = execute(notebook, 120, allow_errors=True)
    assert sum(WIDGET in data for data in data_of(cells)) == 1
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    states = [each["state"] for each in widgets if each["model_name"] == "FloatProgressModel"]
    texts = [each["state"].get("value", "") for each in widgets if each["model_name"] == "HTMLModel"]
    return states, texts


def test_a_notebook_shows_a_bar_with_the_best_prompt() -> None:
    (bar,), texts = bars(BARS.replace("FAILS", "False"))
    assert bar["bar_style"] == "success"
    assert 12 < bar["value"] == bar["max"] < 72  # all prompts are perfect or given up
    shown = " ".join(texts).replace("\u2007", " ")
    assert "Scoring prompts:" in shown
    assert "<b>" not in shown
    assert re.search(r"Best so far 1\.000: <b>prompt</b> 1\d", html.unescape(shown))


def test_a_failed_run_leaves_a_red_bar() -> None:
    (bar,), _ = bars(BARS.replace("FAILS", "True"))
    assert bar["bar_style"] == "danger"
    assert bar["value"] < bar["max"]
