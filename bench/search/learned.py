"""Gain of a search from earlier runs with other models, and its cost where their scores are unrelated.

    python -m zopo_fast.bench.search.learned --real FOLDER [--seeds 8] [--choose]

Landscapes are those of `paraphrases` (sources.py): a task with several models. A source is an earlier run of
this package with another model on the same task, which scored 50 prompts. As a control, earlier runs have
unrelated scores: those of another model permuted over the prompts, or a random function drawn from the
kernel. With --choose, one family of tasks chooses the variance of the trends and the number of prompts
beside the winners, and the other judges, in both directions. Writes <out>/search_learned.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import zopo_fast as zf
from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.errors import ConfigError, ZopoError
from zopo_fast.search import sources as search_sources, trends
from zopo_fast.search.kernel_scale import kernel_scale
from zopo_fast.search.problem import SearchProblem

from ..common import machine, runner
from .by_source import clustered
from .replay import Array, Landscape, normalised
from .sources import SOURCES, paraphrases

NAME = "search_learned"
PLAIN = "zopo_fast"
CORRELATED = 0.4  # mean correlation of the sources with the landscape, from which they are related
KINDS = ("1 model", "3 models", "1 permuted", "1 random function", "3 permuted", "3 random functions")
CHOICES = tuple(itertools.product((0.1, 0.3, 1.0), (1, 3)))  # variance of the trends, prompts beside winners
BIG_BENCH = (
    "disambiguation_qa",
    "geometric_shapes",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "snarks",
    "sports_understanding",
)


@dataclass(frozen=True)
class Plan:
    """Size of the comparison; budget in prompts, of the searches and of the earlier runs."""

    seeds: int = 8
    budget: int = 50

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.budget < 2:
            raise ConfigError(f"seeds must be at least 1, budget at least 2: {self}")


class Earlier(NamedTuple):
    """Scores of an earlier run: distinct prompts, the score of each, correlation with the landscape."""

    prompts: list[int]
    scores: list[float]
    correlation: float


# ---- earlier runs ----------------------------------------------------------------------------------------


def search(Z: Any, scores: Array, seed: int, budget: int, earlier: Sequence[Earlier] = ()) -> list[int]:
    """Return the prompts that a search with the default settings scores, in order."""
    optimizer = zf.Zopo(Z, zf.ZopoConfig(budget=min(budget, len(Z)), seed=seed))
    for source in earlier:
        optimizer.learn_from(source.prompts, source.scores)
    asked = []
    while not optimizer.done:
        asked.append(optimizer.ask())
        optimizer.tell(asked[-1], float(scores[asked[-1]]))
    return asked


def random_function(Z: Any, rng: np.random.Generator) -> Array:
    """Return values (m,) of a function drawn from the kernel of the search, of mean 0 over the pool."""
    problem = SearchProblem(Z, zf.ZopoConfig(budget=1), None)
    X = (problem.embeddings.astype(np.float64) - problem.mean) / problem.deviation * problem.factor
    K = problem.kernels[0].gram(X) / kernel_scale(problem.kernels, X)
    K = K - K.mean(axis=0) - K.mean(axis=1)[:, None] + K.mean()
    values, vectors = np.linalg.eigh(K)
    drawn: Array = vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=len(K)))
    return drawn


def earlier_runs(
    kind: str, landscape: Landscape, others: Sequence[Landscape], seed: int, plan: Plan
) -> list[Earlier]:
    """Return the earlier runs of a kind for a search; `others` are the landscapes of the other models."""
    # The models are those of a seed, so that kinds with as many sources differ in the scores alone.
    rng = np.random.default_rng([seed, *landscape.name.encode()])
    count = int(kind.split(maxsplit=1)[0])
    own, found = landscape.scores.mean(axis=1), []
    for position in rng.permutation(len(others))[:count]:
        scores = others[position].scores.mean(axis=1)
        if "permuted" in kind:
            scores = rng.permutation(scores)
        elif "random" in kind:
            scores = random_function(landscape.Z, rng)
        prompts = search(landscape.Z, scores, seed + plan.seeds, plan.budget)
        related = float(np.corrcoef(own, scores)[0, 1]) if min(np.ptp(own), np.ptp(scores)) > 0 else 0.0
        found.append(Earlier(prompts, [float(scores[i]) for i in prompts], related))
    return found


# ---- comparison ------------------------------------------------------------------------------------------


class Gains(NamedTuple):
    """Runs with sources less the same runs without, by landscape and seed.

    Args:
        figures: (landscapes, seeds, 3): value at 30 and at the end, and mean from prompt 11.
        related: (landscapes, seeds) correlation of the sources, averaged.
    """

    figures: Array
    related: Array


def figures(asked: Sequence[int], value: Array) -> list[float]:
    """Return the value of the best prompt at 30 and at the end, and its mean from prompt 11."""
    best = np.maximum.accumulate(value[list(asked)])
    return [
        float(best[min(30, len(best)) - 1]),
        float(best[-1]),
        float(best[min(10, len(best) - 1) :].mean()),
    ]


@contextmanager
def settings(variance: float, others: int) -> Iterator[None]:
    """Set the variance of the trends and the number of prompts beside the winners within the context."""
    before = trends.TREND_VARIANCE, search_sources.OTHERS
    trends.TREND_VARIANCE, search_sources.OTHERS = variance, others
    try:
        yield
    finally:
        trends.TREND_VARIANCE, search_sources.OTHERS = before


Sources = dict[tuple[str, int, int], list[Earlier]]  # by kind, landscape and seed


def all_sources(landscapes: Sequence[Landscape], kinds: Sequence[str], plan: Plan) -> Sources:
    """Return the earlier runs of every kind, landscape and seed."""
    found: Sources = {}
    for k, landscape in enumerate(tqdm(landscapes, "earlier runs", disable=None)):
        others = [
            each for each in landscapes if each is not landscape and task_of(each) == task_of(landscape)
        ]
        for kind, seed in itertools.product(kinds, range(plan.seeds)):
            found[kind, k, seed] = earlier_runs(kind, landscape, others, seed, plan)
    return found


def task_of(landscape: Landscape) -> str:
    """Return the task of a landscape "TASK / MODEL"."""
    return landscape.name.split(" / ")[0]


def runs(
    landscapes: Sequence[Landscape], plan: Plan, earlier: Callable[[int, int], Sequence[Earlier]]
) -> Array:
    """Return the figures of searches, (landscapes, seeds, 3), with the earlier runs of (landscape, seed)."""
    found = np.empty((len(landscapes), plan.seeds, 3))
    for k, landscape in enumerate(tqdm(landscapes, "searches", disable=None)):
        scores, value = landscape.scores.mean(axis=1), normalised(landscape.scores)
        for seed in range(plan.seeds):
            asked = search(landscape.Z, scores, seed, plan.budget, earlier(k, seed))
            found[k, seed] = figures(asked, value)
    return found


def gains(landscapes: Sequence[Landscape], plan: Plan, kind: str, known: Sources, plain: Array) -> Gains:
    """Return the gains from one kind of earlier runs."""
    found = runs(landscapes, plan, lambda k, seed: known[kind, k, seed])
    related = [
        [float(np.mean([each.correlation for each in known[kind, k, seed]])) for seed in range(plan.seeds)]
        for k in range(len(landscapes))
    ]
    return Gains(found - plain, np.array(related))


def row(name: str, group: str, gain: Gains, chosen: Array) -> dict[str, Any]:
    """Return mean gains and their standard errors over landscapes, of the chosen runs (landscapes, seeds)."""
    result: dict[str, Any] = {"method": name, "group": group, "runs": int(chosen.sum())}
    used = chosen.any(axis=1)
    result["landscapes"] = int(used.sum())
    for j, key in enumerate(("at_30", "at_50", "mean")):
        by_landscape = np.array([gain.figures[k, chosen[k], j].mean() for k in np.flatnonzero(used)])
        result[key], result[f"{key}_error"] = clustered(by_landscape[:, None])
    return result


def rows(landscapes: Sequence[Landscape], kind: str, gain: Gains) -> list[dict[str, Any]]:
    """Return a row for all runs, for those with correlated sources, and for either family of tasks."""
    everything = np.ones(gain.related.shape, dtype=bool)
    is_big = np.array([task_of(each) in BIG_BENCH for each in landscapes])[:, None] & everything
    groups = {"all": everything}
    if "model" in kind:
        groups |= {f"correlation above {CORRELATED}": gain.related > CORRELATED}
    groups |= {"LMentry": ~is_big, "BIG-bench Hard": is_big}
    name = f"{PLAIN}, learned from {kind}"
    return [row(name, group, gain, chosen) for group, chosen in groups.items() if chosen.any()]


# ---- choice by cross-validation --------------------------------------------------------------------------


def choose(landscapes: Sequence[Landscape], plan: Plan, known: Sources, plain: Array) -> list[dict[str, Any]]:
    """Let each family of tasks choose the settings by the mean gain, and the other judge them."""
    is_big = np.array([task_of(each) in BIG_BENCH for each in landscapes])
    by_choice = {}
    for choice in CHOICES:
        with settings(*choice):
            found = [gains(landscapes, plan, kind, known, plain).figures[..., 2] for kind in KINDS[:2]]
        by_choice[choice] = np.mean(found, axis=0)  # (landscapes, seeds)
    result = []
    for name, chooses in (("LMentry", ~is_big), ("BIG-bench Hard", is_big)):
        by_mean = {choice: float(gain[chooses].mean()) for choice, gain in by_choice.items()}
        best = max(by_mean, key=by_mean.__getitem__)
        judged, error = clustered(by_choice[best][~chooses])
        result.append(
            {"chosen_by": name, "variance": best[0], "others": best[1], "gain": by_mean[best]}
            | {"judged": judged, "judged_error": error}
            | {"all": {f"{v:g}, {n}": round(by_mean[v, n], 4) for v, n in by_mean}}
        )
    return result


# ---- results ---------------------------------------------------------------------------------------------


def table(found: Sequence[dict[str, Any]], choices: Sequence[dict[str, Any]]) -> str:
    """Return plain text: gains over the search without sources, and the choices."""
    lines = [
        f"{'gain over ' + PLAIN:48}{'':24}" + "".join(f"{key:>16}" for key in ("at 30", "at 50", "mean"))
    ]
    for each in found:
        cells = [f"{each[key]:+.4f} {each[f'{key}_error']:.4f}" for key in ("at_30", "at_50", "mean")]
        lines.append(f"{each['method']:48}{each['group']:24}" + "".join(f"{cell:>16}" for cell in cells))
    for each in choices:
        lines.append(
            f"{each['chosen_by']} chooses variance {each['variance']:g} and {each['others']} other prompts "
            f"({each['gain']:+.4f}); the other family gains {each['judged']:+.4f} {each['judged_error']:.4f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True, metavar="FOLDER", help="with paraphrases/")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--seeds", type=int, default=Plan.seeds)
    parser.add_argument("--budget", type=int, default=Plan.budget, help="in prompts scored in full")
    parser.add_argument(
        "--choose", action="store_true", help="cross-validate the settings: three times as long"
    )
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="bench/results")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(False)
    try:
        plan = Plan(options.seeds, options.budget)
        landscapes = paraphrases(options.real)
        runner.prepare(out)
    except ZopoError as error:
        parser.error(str(error))
    about = machine.describe()
    known = all_sources(
        landscapes, [*dict.fromkeys([*options.kinds, *KINDS[:2][: 2 * options.choose]])], plan
    )
    plain = runs(landscapes, plan, lambda k, seed: ())
    found = [
        each
        for kind in options.kinds
        for each in rows(landscapes, kind, gains(landscapes, plan, kind, known, plain))
    ]
    choices = choose(landscapes, plan, known, plain) if options.choose else []
    print(table(found, choices))
    levels = dict(zip(("at_30", "at_50", "mean"), plain.mean(axis=(0, 1)).round(4).tolist(), strict=True))
    origin = {"paraphrases": {"landscapes": len(landscapes), **SOURCES["paraphrases"]._asdict()}}
    path = out / f"{NAME}.json"
    runner.publish(
        path, __doc__, plan, found, {}, machine=about, sources=origin, plain=levels, choices=choices
    )


if __name__ == "__main__":
    main()
