"""Growth of a pool beside fixed pools at equal calls, replayed on products measured in full.

    python -m zopo_fast.bench.search.growth [--seeds 20] [--budget 50] [--products NAME ...]

A product is every composition of the roles, instructions and formats of a task, each scored once by the model
on the same examples (bench/landscapes/products). A run starts from 60 random prompts of it and is `optimize`
as users call it; the model's answers come from the table. The search sees one random half of the examples;
the score of its winner is the mean over the other half, 0 for the worst and 1 for the best prompt of the
product there. Writes <out>/search_growth.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import zopo_fast as zf
from zopo_fast.cli.commands.bench import default_folder
from zopo_fast.errors import ConfigError, ZopoError
from zopo_fast.llm.types import Answer, CallKey, Message, Payer, Usage
from zopo_fast.prompts.pool import normalise
from zopo_fast.runs.growth.config import Growth
from zopo_fast.runs.result import paired_interval

from ..common import machine, runner
from .replay import Array

NAME = "search_growth"
FOLDER = Path(__file__).parents[1] / "landscapes" / "products"
PARTS = Path(__file__).parents[1] / "landscapes" / "tasks"
SMALL, LARGE = 60, 200  # prompts of the fixed pools
SLOTS = 8  # calls in flight
GROWN = "grown from 60"
ARMS: dict[str, tuple[int | None, dict[str, Any]]] = {
    "fixed 60": (SMALL, {"grow": False}),
    "fixed 200": (LARGE, {"grow": False}),
    "fixed, whole product": (None, {"grow": False}),
    "grown, not screened": (SMALL, {"growth": Growth(screen=False)}),
    GROWN: (SMALL, {}),
}


@dataclass(frozen=True)
class Plan:
    """Size of the comparison; budgets in prompts scored in full."""

    seeds: int
    budgets: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """Task whose whole product is scored: prompts, their scores (m, n) of 0 or 1, embeddings (m, d).

    `parts` are its roles, instructions and formats; None for those of `zopo-fast generate`.
    """

    name: str
    prompts: list[str]
    scores: Array
    embeddings: Any
    parts: dict[str, list[str]] | None

    @classmethod
    def load(cls, path: Path) -> Product:
        """Read NAME.json with NAME.npy beside it."""
        document = json.loads(path.read_text("utf-8"))
        scores = np.array(document["scores"], dtype=np.float64)
        lists = PARTS / f"{path.stem}.toml"
        parts = tomllib.loads(lists.read_text("utf-8")) if lists.exists() else None
        return cls(path.stem, document["prompts"], scores, np.load(path.with_suffix(".npy")), parts)


class Replayed:
    """Chat model and embedder that answer from the table of a product.

    Args:
        product: the table.
        examples: indices of the examples that a task has, in its order.
    """

    identity: Mapping[str, Any] | None = None
    description: Mapping[str, Any] = {"model": "replayed"}
    slots = SLOTS
    max_answer_tokens: int | None = 1
    usage = Usage()

    def __init__(self, product: Product, examples: Sequence[int]) -> None:
        self._product, self._examples = product, examples
        self._row = {normalise(prompt): k for k, prompt in enumerate(product.prompts)}

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Return "yes" where the table holds 1."""
        assert key is not None
        is_right = self._product.scores[self._row[key.prompt], self._examples[key.example]] > 0.5
        return Answer("yes" if is_right else "no", Usage(calls=1))

    async def embed(self, texts: Sequence[str]) -> Array:
        """Return the rows of the product's embeddings."""
        rows: Array = np.asarray(self._product.embeddings[[self._row[text] for text in texts]], np.float32)
        return rows


def run(product: Product, arm: str, seed: int, budget: int) -> dict[str, Any]:
    """Run one search; return the value of its winner on either half, the calls and the prompts written."""
    order, seen, unseen = split(product, seed)
    size, settings = ARMS[arm]
    pool = zf.Pool.from_texts([product.prompts[k] for k in order[:size]])
    writers = [] if settings.get("grow") is False or product.parts is None else [zf.PartEditor(product.parts)]
    model = Replayed(product, seen.tolist())
    example = zf.Example("input", ("yes",))
    task = zf.Task("replay", (example,) * len(seen), metric="exact_match")
    config = zf.RunConfig(budget=budget, seed=seed, heldout=False, stop_at_perfect=False, **settings)
    result = asyncio.run(zf.optimize(task, pool, model, config, embedder=model, writers=writers))
    row = model._row[result.best_prompt]
    halves = {"selected": seen, "other": unseen}
    values = {name: float(value(product, half)[row]) for name, half in halves.items()}
    return {**values, "calls": result.usage.calls, "score": float(product.scores[row].mean())}


def split(product: Product, seed: int) -> tuple[Any, Any, Any]:
    """Return the order in which prompts are drawn, the examples that a run sees, and the others."""
    rng = np.random.default_rng([seed, 7])
    m, n = product.scores.shape
    order = rng.permutation(m)
    seen, unseen = np.split(rng.permutation(n), [n // 2])
    return order, seen, unseen


def value(product: Product, half: Any) -> Array:
    """Return the values of all prompts (m,) on some examples: 0 for the worst and 1 for the best."""
    means: Array = product.scores[:, half].mean(axis=1)
    values: Array = (means - means.min()) / (means.max() - means.min())
    return values


def known(products: Sequence[Product], seeds: int) -> list[dict[str, Any]]:
    """Return the value on the other half of the best prompt on the half seen, if all scores were known."""
    rows = []
    for size in (SMALL, LARGE, None):
        found = []
        for product, seed in itertools.product(products, range(seeds)):
            order, seen, unseen = split(product, seed)
            here = value(product, seen)[order[:size]]
            found.append(float(value(product, unseen)[order[:size]][here == here.max()].mean()))
        rows.append({"prompts": size, "other": float(np.mean(found))})
    return rows


def compare(products: Sequence[Product], seeds: int, budget: int) -> list[dict[str, Any]]:
    """Return a row for each product and arm, and for all products together."""
    arms = list(ARMS)
    found = {
        (product.name, arm): [run(product, arm, seed, budget) for seed in range(seeds)]
        for product in tqdm(products, desc=f"budget {budget}")
        for arm in tqdm(arms, leave=False)
    }
    rows = []
    for name in [product.name for product in products] + ["all"]:
        names = [product.name for product in products] if name == "all" else [name]
        for arm in arms:
            runs = [each for one in names for each in found[one, arm]]
            ours = [each["other"] for one in names for each in found[one, GROWN]]
            other = [each["other"] for each in runs]
            ahead = None if arm == GROWN else paired_interval(ours, other)._asdict()
            rows.append(
                {
                    "product": name,
                    "arm": arm,
                    "budget": budget,
                    "runs": len(runs),
                    "selected": float(np.mean([each["selected"] for each in runs])),
                    "other": float(np.mean(other)),
                    "score": float(np.mean([each["score"] for each in runs])),
                    "calls": float(np.mean([each["calls"] for each in runs])),
                    "grown_ahead": ahead,
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return plain text: value of the winner on both halves, and how far the grown pool is ahead."""
    lines = [f"{'product':12}{'arm':24}{'prompts':>8}{'selected':>10}{'other':>8}  grown is ahead by (95 %)"]
    for row in rows:
        ahead = row["grown_ahead"]
        text = "" if ahead is None else f"{ahead['mean']:+.3f} [{ahead['low']:+.3f}, {ahead['high']:+.3f}]"
        figures = f"{row['budget']:8}{row['selected']:10.3f}{row['other']:8.3f}"
        lines.append(f"{row['product']:12}{row['arm']:24}{figures}  {text}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", nargs="+", metavar="NAME", help="default: all of the folder")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, nargs="+", default=[20, 50], help="in prompts scored in full")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the products")
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="bench/results")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(False)
    paths = sorted(options.folder.glob("*.json"))
    chosen = [path for path in paths if not options.products or path.stem in options.products]
    try:
        if not chosen:
            raise ConfigError(f"{options.folder}: no such product; there are {[p.stem for p in paths]}")
        runner.prepare(out)
    except ZopoError as error:
        parser.error(str(error))
    about = machine.describe()
    products = [Product.load(path) for path in chosen]
    rows = [row for budget in options.budget for row in compare(products, options.seeds, budget)]
    print(table(rows))
    plan = Plan(options.seeds, tuple(options.budget))
    sizes = {product.name: list(product.scores.shape) for product in products}
    runner.publish(
        out / f"{NAME}.json",
        __doc__,
        plan,
        rows,
        {},
        machine=about,
        products=sizes,
        known=known(products, options.seeds),
    )


if __name__ == "__main__":
    main()
