"""Fill the tables of README.md and bench/README.md: python -m zopo_fast.bench.common.table FILE...

Every row is one comparison of one run on one machine. A test compares both pages with the result files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .runner import duration

RESULTS = Path(__file__).parents[1] / "results"


class Line(NamedTuple):
    """A row of the speed table: the comparison, its title and the peers shown."""

    question: str
    what: str
    title: str
    peers: tuple[tuple[str, str], ...]


PUBLISHED, NUMPY, TORCH = "published", "NumPy/SciPy closed form", "PyTorch closed form"
LINES = (
    Line("step", "step, m = 500", "ask + tell, pool of 500", ((PUBLISHED, "published"), (NUMPY, "NumPy"))),
    Line(
        "step", "step, m = 2,000", "ask + tell, pool of 2,000", ((PUBLISHED, "published"), (NUMPY, "NumPy"))
    ),
    Line(
        "gram",
        "gram(X, Y), 500 x 500, 1 thread",
        "Gram matrix, 500 × 500, one thread",
        (("published (vmap(jacrev), float32)", "published"), (TORCH, "PyTorch"), (NUMPY, "NumPy")),
    ),
    Line(
        "cholesky",
        "append, n = 165, 1 thread",
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
)


def table(results: Path = RESULTS) -> str:
    """Return the comparisons as Markdown.

    Raises:
        FileNotFoundError: a result file is missing.
        LookupError: a row of a result file is missing.
    """
    lines = ["| | zopo_fast | others, times as long |", "|---|---|---|"]
    for line in LINES:
        found = {row["who"]: row for row in _load(results, line.question)["rows"] if row["what"] == line.what}
        peers = ", ".join(f"{name} {_ratio(found[who])}" for who, name in line.peers)
        lines.append(f"| {line.title} | {duration(found['zopo_fast']['median'])} | {peers} |")
    return "\n".join(lines)


def limits(results: Path = RESULTS) -> str:
    """Return the reached shares of the machine's limits as Markdown."""
    gram, cores = _load(results, "gram"), _load(results, "gram")["machine"]["cores"]

    def share(name: str) -> str:
        one, all_ = (gram["figures"][f"{name}, threads {n}"]["of_dgemm"] for n in (1, cores))
        return f"{one:.0%} on one thread, {all_:.0%} on {cores}"

    driver, imported = (
        _load(results, "driver")["figures"],
        _load(results, "import_time")["figures"]["zopo_fast"],
    )
    rows = (
        ("`gram(X, Y)`, share of NumPy's dgemm rate on the same threads", share("gram(X, Y)")),
        ("`gram(X)`, on the same count, by symmetry", share("gram(X)")),
        (
            "scan of 1,000,000 × 384 float16, share of read bandwidth",
            f"{_load(results, 'pool')['figures']['of_bandwidth']:.0%}",
        ),
        (
            "a whole run on a model of 200 ms with 32 slots, over calls × latency / slots",
            f"{driver['over_ideal']:.2f}",
        ),
        (
            "`import zopo_fast`, and peak memory of the process",
            f"{duration(imported['seconds'])}, {imported['peak_mb']:.0f} MB",
        ),
    )
    return "\n".join(["| limit | reached |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


# Methods of the search table, their titles in the README, and the board of each.
SEARCHES = (
    ("random, exact", "random search (exact expectation)", "prompts"),
    ("official", "the published loop, in float64", "prompts"),
    ("official, float32", "the published loop, in float32", "prompts"),
    ("NeuralUCB, INSTINCT", "NeuralUCB, as INSTINCT has it", "prompts"),
    ("GP-EI, RBF", "GP, RBF kernel, expected improvement", "prompts"),
    ("TRIPLE, halving", "sequential halving, as TRIPLE has it, same calls", "calls"),
    ("zopo_fast, gradient", 'zopo_fast, `search="gradient"`', "prompts"),
    ("zopo_fast", "zopo_fast", "prompts"),
    ("zopo_fast, racing", "zopo_fast, racing, same calls", "calls"),
)


def searches(results: Path = RESULTS) -> str:
    """Return the final values of the searches by landscape as Markdown."""
    kept = _load(results, "search_quality")
    rows, seeds = kept["rows"], kept["settings"]["seeds"]
    final = {(row["board"], row["method"], row["landscape"]): row["final"] for row in rows}
    places = list(dict.fromkeys(row["landscape"] for row in rows))
    lines = [f"| ends at, mean of {seeds} runs | {' | '.join(places)} |", "|---" * (len(places) + 1) + "|"]
    for method, title, board in SEARCHES:
        cells = " | ".join(f"{final[board, method, place]:.3f}" for place in places)
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


# Methods of the table of real models and their titles; a cell is empty where a source does not suit a method.
REAL = (
    ("random", "random search"),
    ("official", "the published loop, in float64"),
    ("NeuralUCB, INSTINCT", "NeuralUCB, as INSTINCT has it"),
    ("GP-EI, RBF, grid", "GP, RBF kernel, expected improvement"),
    ("APE, best of init", "APE, best of initial candidates"),
    ("TRIPLE, halving", "sequential halving, as TRIPLE has it"),
    ("halving, own order", "halving, every prompt in its own order"),
    ("halving, same order", "halving on common examples"),
    ("HbBoPs-like", "hyperband with a GP, like HbBoPs"),
    ("POES-like", "item response theory, like POES"),
    ("zopo_fast", "zopo_fast"),
    ("zopo_fast, racing", "zopo_fast, racing"),
)
TENTHS = (1.5, 2.5)  # budgets shown, in tenths of a full score a prompt


LEFT_OUT = ("APE, best of init", "TRIPLE, halving", "halving, own order", "halving, same order")
"""Methods that the README does not show."""


def real_in_short(results: Path = RESULTS) -> str:
    """Return the rows of `real` that the README shows."""
    return real(results, tuple(row for row in REAL if row[0] not in LEFT_OUT))


def real(results: Path = RESULTS, methods: Sequence[tuple[str, str]] = REAL) -> str:
    """Return the results on real models by source as Markdown."""
    kept = _load(results, "search_real")
    found = {(row["source"], row["method"]): row for row in kept["rows"]}
    places = [kept["settings"]["tenths"].index(each) for each in TENTHS]
    heads = ["prompts: at 30", "at 50", "mean", *(f"blocks: {each:g}" for each in TENTHS)]
    heads += [f"simulated: {each:g}" for each in TENTHS]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method, title in methods:
        row = found.get(("paraphrases", method))
        cells = ["" if row is None else f"{row[key]:.3f}" for key in ("at_30", "at_50", "mean")]
        for source in ("blocks", "simulation"):
            row = found.get((source, method))
            cells += ["" if row is None else f"{row['curve'][place]:.2f}" for place in places]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def learned(results: Path = RESULTS) -> str:
    """Return the gains from earlier runs with other models as Markdown."""
    rows = [
        row
        for row in _load(results, "search_learned")["rows"]
        if "correlation" in row["group"] or row["group"] == "all"
    ]
    lines = ["| learned from | runs | at 30 | at 50 | mean best so far |", "|---|---|---|---|---|"]
    for row in rows:
        cells = " | ".join(
            f"{row[key]:+.3f} ± {row[f'{key}_error']:.3f}" for key in ("at_30", "at_50", "mean")
        )
        lines.append(f"| {row['method'].split('learned from ')[1]} | {row['group']} | {cells} |")
    return "\n".join(lines)


# Methods of the end-to-end table, and their titles; a method without a run has no line.
OPTIMISERS = (
    ("GEPA", "GEPA"),
    ("CAPO", "CAPO, with demonstrations"),
    ("CAPO, no demonstrations", "CAPO, instructions only"),
    ("EvoPromptGA", "EvoPromptGA"),
    ("OPRO", "OPRO"),
    ("MIPROv2", "MIPROv2, with demonstrations"),
    ("MIPROv2, no demonstrations", "MIPROv2, instructions only"),
    ("zopo_fast, fixed pool", "zopo_fast, 200 prompts, none written"),
    ("zopo_fast", "zopo_fast, growing"),
    ("zopo_fast, demonstrations", "zopo_fast, growing, with demonstrations"),
)


def end_to_end(results: Path = RESULTS) -> str:
    """Return held-out scores at equal completions, and how far zopo_fast is ahead, as Markdown."""
    kept = _load(results, "search_end_to_end")
    places = list(dict.fromkeys((row["track"], row["budget"]) for row in kept["rows"]))
    scores = {(row["method"], row["track"], row["budget"]): row["heldout"] for row in kept["rows"]}
    ahead = {(pair["method"], pair["track"], pair["budget"]): pair for pair in kept["pairs"]}
    heads = [f"{track}, {budget:,}" for track, budget in places]
    lines = [f"| held-out score | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method, title in OPTIMISERS:
        cells = []
        for place in places:
            score, pair = scores.get((method, *place)), ahead.get((method, *place))
            cells.append("" if score is None else f"{score:.3f}{_ahead(pair)}")
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def growth(results: Path = RESULTS) -> str:
    """Return what growing and fixed pools reach on whole products as Markdown."""
    kept = _load(results, "search_growth")
    budgets = kept["settings"]["budgets"]
    found = {(row["budget"], row["product"], row["arm"]): row for row in kept["rows"]}
    heads = [f"{budget} prompts: {what}" for budget in budgets for what in ("half seen", "other half")]
    lines = [f"| product | pool | {' | '.join(heads)} |", "|---" * (2 * len(budgets) + 2) + "|"]
    for product, arm in dict.fromkeys((row["product"], row["arm"]) for row in kept["rows"]):
        cells = []
        for budget in budgets:
            row = found[budget, product, arm]
            cells += [f"{row['selected']:.3f}", f"{row['other']:.3f}{_ahead(row['grown_ahead'])}"]
        lines.append(f"| {product} | {arm} | {' | '.join(cells)} |")
    for row in kept["known"]:
        size = row["prompts"] or "the product"
        cells = ["", f"{row['other']:.3f}"] * len(budgets)
        lines.append(f"| all | best seen of {size}, all scores known | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {
    "real": real,
    "real_in_short": real_in_short,
    "growth": growth,
    "end_to_end": end_to_end,
    "learned": learned,
    "searches": searches,
    "table": table,
    "limits": limits,
}
_PLACE = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path = RESULTS) -> str:
    """Return a page with the tables between its markers replaced by those of the result files.

    Raises:
        LookupError: the page has no marker, or one without a table.
    """
    names = [match[2] for match in _PLACE.finditer(page)]
    if not names or not set(names) <= TABLES.keys():
        raise LookupError(f"expected places for {', '.join(TABLES)}, found {names}")
    return _PLACE.sub(lambda match: f"{match[1]}{TABLES[match[2]](results)}\n{match[3]}", page)


def _load(results: Path, question: str) -> Any:
    return json.loads((results / f"{question}.json").read_text(encoding="utf-8"))


def _ahead(pair: dict[str, Any] | None) -> str:
    """Return a paired difference with its interval in parentheses; "" for none."""
    return "" if pair is None else f" ({pair['mean']:+.3f}, {pair['low']:+.3f} to {pair['high']:+.3f})"


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    return f"{ratio:,.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
