"""The README's table, from the result files: `python -m zopo_fast.bench.table` prints it.

Every row is one comparison of one run on one machine; a test holds the README to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from .runner import duration

RESULTS = Path(__file__).parent / "results"


class Line(NamedTuple):
    """A row of the table: which comparison, what it is called here, and which peers to show."""

    question: str
    what: str
    title: str
    peers: tuple[tuple[str, str], ...]


PUBLISHED, NUMPY, TORCH = "published", "NumPy/SciPy closed form", "PyTorch closed form"
LINES = (
    Line("step", "step, m = 500", "ask + tell, pool of 500", ((PUBLISHED, "published"), (NUMPY, "NumPy"))),
    Line("step", "step, m = 2,000", "ask + tell, pool of 2,000", ((PUBLISHED, "published"), (NUMPY, "NumPy"))),
    Line(
        "gram",
        "gram(X, Y), 500 x 500, 1 thread",
        "Gram matrix, 500 × 500, one thread",
        (("published (vmap(jacrev), float32)", "published"), (TORCH, "PyTorch"), (NUMPY, "NumPy")),
    ),
    Line(
        "cholesky",
        "append, n = 165",
        "append an observation, n = 165",
        (("GPyTorch, NTK", "GPyTorch"), (NUMPY, "NumPy")),
    ),
    Line(
        "posterior",
        "one point, n = 165, 1 thread",
        "posterior with gradient and its uncertainty, n = 165",
        ((TORCH, "PyTorch"), (NUMPY, "NumPy")),
    ),
    Line(
        "posterior",
        "mean and variance, 10,000 points, n = 165",
        "mean and variance at 10,000 points",
        (
            ("GPyTorch, RBF, one joint call", "GPyTorch in one call"),
            ("GPyTorch, RBF", "GPyTorch in blocks"),
            ("scikit-learn, RBF", "scikit-learn"),
            (NUMPY, "NumPy"),
        ),
    ),
    Line(
        "pool",
        "nearest of 1,000,000",
        "exact nearest of 1,000,000, float16",
        (("scikit-learn brute", "scikit-learn"), ("NumPy float32", "NumPy")),
    ),
    Line("import", "import", "import", ()),
)


def table(results: Path = RESULTS) -> str:
    """Return the table as Markdown.

    Raises:
        FileNotFoundError, LookupError: a result file, or a row of one, is missing.
    """
    lines = ["| | zopo_fast | times as long |", "|---|---|---|"]
    for line in LINES:
        rows = json.loads((results / f"{line.question}.json").read_text(encoding="utf-8"))["rows"]
        found = {row["who"]: row for row in rows if row["what"] == line.what}
        peers = ", ".join(f"{name} {_ratio(found[who])}" for who, name in line.peers)
        lines.append(f"| {line.title} | {duration(found['zopo_fast']['median'])} | {peers} |")
    return "\n".join(lines)


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    return f"{ratio:,.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×"


if __name__ == "__main__":
    print(table())
