"""Pictures of the page on concepts: searches replayed at build on the scored pools of bench/landscapes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np

import zopo_fast as zf
from zopo_fast.report.projection import project

FOLDER = Path(__file__).parents[2] / "bench" / "landscapes"
BUDGET, ORDERS = 40, 200
INK = "currentColor"  # the colour of the text, in light and dark mode


class Landscape(NamedTuple):
    """Pool with the score of every prompt on every example.

    Attributes:
        prompts: m texts.
        embeddings: (m, d).
        scores: (m, examples), 0 or 1.
    """

    prompts: list[str]
    embeddings: Any
    scores: Any


@cache
def landscape(name: str) -> Landscape:
    """Read a scored pool."""
    stored = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Landscape(
        stored["prompts"], np.load(FOLDER / f"{name}.npy").astype(float), np.array(stored["scores"], float)
    )


def search(name: str) -> tuple[zf.Zopo, list[int]]:
    """Replay a search on a landscape; return it and the indices in order of asking."""
    pool = landscape(name)
    means = pool.scores.mean(axis=1)
    config = zf.ZopoConfig(budget=BUDGET, seed=0)
    found = zf.Zopo(pool.embeddings, config, features=zf.word_features(pool.prompts))
    asked = []
    while not found.done:
        asked.append(found.ask())
        found.tell(asked[-1], means[asked[-1]])
    return found, asked


def pool_map() -> str:
    """Draw the pool in the plane of its two main directions, and the order of asking."""
    pool = landscape("demo")
    plane = project(pool.embeddings)
    order = {index: number for number, index in enumerate(search("demo")[1], 1)}
    means = pool.scores.mean(axis=1)
    rows = [
        {"x": x, "y": y, "score": means[i], "order": order.get(i), "scored": i in order}
        for i, (x, y) in enumerate(plane.tolist())
    ]
    place = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("x:Q", axis=None), y=alt.Y("y:Q", axis=None))
    colors = alt.Scale(scheme=alt.SchemeParams("viridis", extent=[0.15, 1]))  # its dark end is lost at night
    dots = place.mark_circle(size=70, opacity=0.9, stroke=INK, strokeOpacity=0.4, strokeWidth=0.5).encode(
        color=alt.Color("score:Q", scale=colors, title="score")
    )
    scored = place.transform_filter("datum.scored")
    rings = scored.mark_point(size=150, stroke=INK, strokeWidth=1.3)
    numbers = scored.mark_text(dy=-12, fontSize=10, fill=INK).encode(text="order:Q")
    return _figure(
        dots + rings + numbers, 620, 360,
        f"A pool of {len(rows)} prompts, each a dot at its embedding, projected to two dimensions. Rings are "
        f"the {BUDGET} prompts that the search scored, numbered in order; the others cost nothing.",
    )  # fmt: skip


def belief() -> str:
    """Draw predicted against true scores of the prompts that the search did not score."""
    found, asked = search("demo")
    predicted = found.predict()
    assert predicted is not None
    means = landscape("demo").scores.mean(axis=1)
    rows = [
        {"true": means[i], "mean": mean, "low": mean - deviation, "high": mean + deviation}
        for i, mean, deviation in zip(
            predicted.indices.tolist(), predicted.mean.tolist(), np.sqrt(predicted.variance), strict=True
        )
        if i not in asked
    ]
    ends = [{"true": 0.0, "mean": 0.0}, {"true": 0.8, "mean": 0.8}]
    place = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("true:Q", title="score on all examples"), y=alt.Y("mean:Q", title="predicted score")
    )
    bars = place.mark_rule(stroke=INK, opacity=0.18).encode(y="low:Q", y2="high:Q")
    dots = place.mark_circle(size=36, fill="#0f8b8d", opacity=0.8)
    line = alt.Chart(alt.Data(values=ends)).mark_line(stroke=INK, strokeDash=[4, 4], opacity=0.6)
    return _figure(
        bars + dots + line.encode(x="true:Q", y="mean:Q"), 620, 300,
        f"What the model believes after {BUDGET} scores about the {len(rows)} prompts never scored: "
        "mean and standard deviation. On the dashed line a prediction equals the score.",
    )  # fmt: skip


def best_so_far() -> str:
    """Draw the best score so far against the number of scored prompts, over all landscapes."""
    names = sorted(path.stem for path in FOLDER.glob("*.npy"))
    rng = np.random.default_rng(0)
    curves: dict[str, list[Any]] = {"zopo_fast": [], "random order": []}
    for name in names:
        means = landscape(name).scores.mean(axis=1)
        values = (means - means.min()) / (means.max() - means.min())
        curves["zopo_fast"].append(np.maximum.accumulate(values[search(name)[1]]))
        orders = np.array([rng.permutation(len(values))[:BUDGET] for _ in range(ORDERS)])
        curves["random order"].append(np.maximum.accumulate(values[orders], axis=1).mean(axis=0))
    rows = [
        {"method": method, "scored": scored, "best": best}
        for method, runs in curves.items()
        for scored, best in enumerate(np.mean(runs, axis=0).tolist(), 1)
    ]
    chart = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2.5)
    chart = chart.encode(
        x=alt.X("scored:Q", title="prompts scored"),
        y=alt.Y("best:Q", title="best so far (worst prompt 0, best 1)", scale=alt.Scale(zero=False)),
        color=alt.Color(
            "method:N", scale=alt.Scale(domain=list(curves), range=["#0f8b8d", "#d1731c"]), title=None
        ),
        strokeDash=alt.StrokeDash("method:N", scale=alt.Scale(domain=list(curves)), title=None),
    )
    return _figure(
        chart, 620, 260,
        f"Mean over the {len(names)} scored pools of this repository, replayed when this page was built; the "
        f"random order is the mean of {ORDERS} orders. [Benchmarks](benchmarks.md) has larger comparisons.",
    )  # fmt: skip


def race() -> str:
    """Draw which examples each prompt was scored on in a race."""
    pool = landscape("demo")
    examples = list(range(pool.scores.shape[1]))
    calls: list[tuple[int, int]] = []
    numbers = {prompt: i for i, prompt in enumerate(pool.prompts)}

    def score(prompt: str, example: int) -> float:
        calls.append((numbers[prompt], example))
        return float(pool.scores[numbers[prompt], example])

    config = zf.RunConfig(budget=10, score_range=(0, 1), concurrency=1, racing=True)
    zf.optimize_sync(score, zf.Pool.from_texts(pool.prompts), None, config, examples=examples,
                     embeddings=pool.embeddings)  # fmt: skip
    counts = {prompt: 0 for prompt, _ in calls}
    rows = []
    for prompt, example in calls:
        counts[prompt] += 1
        answer = "right" if pool.scores[prompt, example] else "wrong"
        rows.append({"prompt": prompt, "look": counts[prompt], "answer": answer})
    order = sorted(counts, key=lambda prompt: -counts[prompt])
    colors = alt.Scale(domain=["right", "wrong"], range=["#0f8b8d", "#e0b07a"])
    hidden, ticks = alt.Axis(labels=False, ticks=False), alt.Axis(values=[1, 10, 20, 30, 40])
    chart = alt.Chart(alt.Data(values=rows)).mark_rect(stroke="none")
    chart = chart.encode(
        x=alt.X("prompt:O", sort=order, title=f"{len(order)} prompts", axis=hidden),
        y=alt.Y("look:O", sort="descending", title="examples scored", axis=ticks),
        color=alt.Color("answer:N", scale=colors, title="answer"),
    )
    full = sum(count == len(examples) for count in counts.values())
    return _figure(
        chart, 620, 260,
        f"A race of {len(rows)} calls, the price of 10 full scores: {len(order)} prompts were tried, a "
        f"column each, and {full} scored on all {len(examples)} examples.",
    )  # fmt: skip


def _figure(chart: Any, width: int, height: int, caption: str) -> str:
    """Return an inline SVG that takes text and lines from the page's colours, with its caption."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12}
    chart = (
        chart.properties(width=width, height=height)
        .configure(background="transparent", font="inherit")
        .configure_view(stroke=None)
        .configure_axis(**text, gridColor=INK, gridOpacity=0.12, domainColor=INK, tickColor=INK)
        .configure_legend(**text)
    )
    drawn = io.StringIO()
    chart.save(drawn, format="svg")
    svg = drawn.getvalue().replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)
    return f'<figure class="picture" markdown>\n{svg}\n<figcaption markdown>{caption}</figcaption>\n</figure>'


PICTURES: dict[str, Callable[[], str]] = {
    "pool": pool_map, "belief": belief, "best so far": best_so_far, "race": race
}  # fmt: skip
