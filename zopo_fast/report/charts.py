"""Charts of a run, as Vega-Lite specifications made by Altair.

Colours: viridis for scores, and the palette of Okabe & Ito (2008) for categories. Readers with any common
kind of colour blindness can tell them apart; categories also differ in shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zopo_fast._utils.text import printable
from zopo_fast.errors import MissingDependencyError
from zopo_fast.llm.types import Usage
from zopo_fast.report.projection import project
from zopo_fast.runs.result import Result
from zopo_fast.scoring.intervals import NORMAL_95, score_interval

if TYPE_CHECKING:
    from zopo_fast.report.study import Posterior, Study
    from zopo_fast.runs.cost.front import FrontPoint
    from zopo_fast.runs.result import HeldOut

WIDTH, HEIGHT = 640, 320
SCORED, PARTIAL, BEST = "scored on all examples", "on some examples only", "best so far"
WINNER, INCUMBENT, ASKED, STARTED, WAITING = "winner", "incumbent", "scored", "scored in part", "not scored"
ON_FRONT, BEATEN = "no other is better in both", "another is as good and no longer"
_SIZES = {WINNER: 320, INCUMBENT: 220, ASKED: 70, STARTED: 50, WAITING: 25}  # square pixels
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#8a8a8a"
MAX_TEXT = 100  # characters of a prompt in a tooltip
MAX_WAITING = 1000  # prompts without a score that the map draws
MAX_BELIEVED = 300  # prompts of the chart of beliefs


def altair() -> Any:
    """Import Altair.

    Raises:
        MissingDependencyError: Altair or vl-convert is not installed.
    """
    try:
        import altair
        import vl_convert  # noqa: F401  # images and the scripts of a page without a network
    except ImportError:
        raise MissingDependencyError('needs Altair: pip install "zopo-fast[report]"') from None
    return altair


class Scored(NamedTuple):
    """Score of a prompt, and what the run had spent by then."""

    prompt: str
    score: float
    is_full: bool
    total: Usage


def scored_prompts(run: Study | Result) -> list[Scored]:
    """Return the prompts of a run in the order in which their last scores arrived."""
    if isinstance(run, Result):
        return [Scored(t.prompt, t.score, not t.partial, t.total) for t in run.trials if t.score is not None]
    rows = sorted(run.ranked, key=lambda row: (row.ended, row.total.calls + row.total.cached))
    return [Scored(row.prompt, row.score, row.is_full, row.total) for row in rows if row.score is not None]


def curve(scored: Sequence[Scored], cost: Callable[[Usage], float | None] | None = None) -> Any:
    """Return the chart of the score of each prompt and the best full score so far.

    Args:
        scored: in order of the arrival of the scores.
        cost: returns the cost of a Usage; the x axis can then show money.

    Returns:
        The chart. Its parameter `spent` selects the x axis: "prompts", "calls", "tokens" or "money".

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    points: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for number, (each, best) in enumerate(zip(scored, _best_so_far(scored), strict=True), start=1):
        x = _spent(number, each.total, cost)
        text = _cut(each.prompt)
        points.append({**x, "score": each.score, "kind": SCORED if each.is_full else PARTIAL, "prompt": text})
        if np.isfinite(best):
            steps.append({**x, "score": best, "kind": BEST, "prompt": text})
    kinds = alt.Scale(domain=[SCORED, PARTIAL, BEST], range=[BLUE, GREY, ORANGE])
    color = alt.Color("kind:N", title=None, scale=kinds, legend=alt.Legend(orient="bottom", columns=1))
    shapes = alt.Scale(domain=[SCORED, PARTIAL, BEST], range=["circle", "cross", "stroke"])
    shape = alt.Shape("kind:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom", columns=1))
    x = alt.X("x:Q", title=None, axis=alt.Axis(grid=False, tickMinStep=1))
    y = alt.Y("score:Q", title="train score", scale=alt.Scale(zero=False))
    spent = alt.param(name="spent", value="prompts")
    dots = _chart(alt, points).mark_point(filled=True, size=50)
    tooltip = ["prompt:N", "score:Q", "prompts:Q", "calls:Q", "tokens:Q"]
    dots = dots.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip)
    line = _chart(alt, steps).mark_line(interpolate="step-after", strokeWidth=2).encode(x=x, y=y, color=color)
    # Lines below dots, so that a tooltip finds its dot.
    line, dots = (each.transform_calculate(x="datum[spent]") for each in (line, dots))
    return (line + dots).add_params(spent).properties(width=WIDTH, height=HEIGHT)


def pool_map(study: Study, posterior: Posterior | None = None) -> Any:
    """Return the map of the pool: the first two principal components of the embeddings.

    Scored prompts have the colour of their score and are joined in the order of asking. Prompts outside the
    region that the search considers are faint.

    Args:
        study: with embeddings.
        posterior: belief whose indices are the region; None: the whole pool.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    rows = _places(study, posterior)
    axis = alt.Axis(labels=False, ticks=False, grid=False)
    title = "first principal component of the embeddings"
    x = alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title="second", axis=axis, scale=alt.Scale(zero=False))
    kinds = [WINNER, INCUMBENT, ASKED, STARTED, WAITING]
    shapes = alt.Scale(domain=kinds, range=["diamond", "square", "circle", "cross", "triangle-up"])
    base = (
        _chart(alt, rows)
        .mark_point(filled=True, color=GREY)
        .encode(
            x=x,
            y=y,
            shape=alt.Shape("kind:N", scale=shapes, legend=None),
            size=alt.Size("size:Q", scale=None),
            opacity=alt.condition("datum.region", alt.value(0.9), alt.value(0.2)),
            tooltip=["prompt:N", "number:Q", "score:Q", "asked:Q"],
        )
    )
    waiting = base.transform_filter("!isValid(datum.score)")
    color = alt.Color("score:Q", title="score", scale=alt.Scale(scheme="viridis"))
    scored = base.transform_filter("isValid(datum.score)").encode(color=color)
    path = sorted((row for row in rows if row["asked"] is not None), key=lambda row: row["asked"])
    line = _chart(alt, path).mark_line(strokeWidth=1, opacity=0.35, color=GREY)
    line = line.encode(x=x, y=y, order="asked:Q")
    return (line + waiting + scored.interactive()).properties(width=WIDTH, height=HEIGHT + 80)


def belief(study: Study, posterior: Posterior) -> Any:
    """Return the chart of the posterior mean and its 95 % interval, best prompts first.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    scores = {row.index: row for row in study.ranked}
    order = np.argsort(-posterior.mean, kind="stable")[:MAX_BELIEVED]
    known = [row.score for row in study.ranked if row.score is not None]
    is_share = bool(known) and 0 <= min(known) <= max(known) <= 1  # the normal interval may leave the range
    least, most = (0.0, 1.0) if is_share else (-np.inf, np.inf)
    rows: list[dict[str, Any]] = []
    for rank, k in enumerate(order.tolist(), start=1):
        index, mean = int(posterior.indices[k]), float(posterior.mean[k])
        half = NORMAL_95 * float(posterior.std[k])
        scored = scores.get(index)
        rows.append(
            {
                "rank": rank, "expected": round(mean, 4), "number": index,
                "low": round(max(least, mean - half), 4), "high": round(min(most, mean + half), 4),
                "score": None if scored is None else scored.score,
                "kind": "belief" if scored is None else SCORED if scored.is_full else PARTIAL,
                "prompt": _cut(study.prompts[index]),
            }
        )  # fmt: skip
    x = alt.X("rank:Q", title="prompts, by expected score", axis=alt.Axis(grid=False))
    y = alt.Y("low:Q", title="score")
    base = _chart(alt, rows)
    band = base.mark_rule(color=BLUE, opacity=0.35).encode(x=x, y=y, y2="high:Q")
    means = base.mark_point(filled=True, size=14, color=BLUE).encode(
        x=x, y="expected:Q", tooltip=["prompt:N", "number:Q", "expected:Q", "low:Q", "high:Q", "score:Q"]
    )
    seen = base.transform_filter("isValid(datum.score)").mark_point(size=40).encode(
        x=x, y="score:Q",
        color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="bottom", columns=1), scale=alt.Scale(
            domain=[SCORED, PARTIAL], range=[ORANGE, GREY])),
        shape=alt.Shape("kind:N", title=None, legend=alt.Legend(orient="bottom", columns=1), scale=alt.Scale(
            domain=[SCORED, PARTIAL], range=["circle", "cross"])),
        tooltip=["prompt:N", "number:Q", "score:Q"],
    )  # fmt: skip
    return (band + means + seen).properties(width=WIDTH, height=HEIGHT)


def heldout(rows: Sequence[HeldOut], names: Sequence[str]) -> Any:
    """Return the chart of the held-out scores, and of how far the winner is ahead with its 95 % interval.

    Args:
        rows: of the comparison.
        names: one a row.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    values = [
        {
            "role": name, "score": row.score, "prompt": _cut(row.prompt),
            "from": _bound(row, 0), "to": _bound(row, 1),
            "ahead": None if row.winner_ahead is None else row.winner_ahead.mean,
            "low": None if row.winner_ahead is None else row.winner_ahead.low,
            "high": None if row.winner_ahead is None else row.winner_ahead.high,
        }
        for name, row in zip(names, rows, strict=True)
    ]  # fmt: skip
    roles = alt.Y("role:N", title=None, sort=list(names))
    base = _chart(alt, values)
    is_share = all(0 <= score <= 1 for row in rows for score in row.scores)
    scale = alt.Scale(domain=[0, 1]) if is_share else alt.Scale(zero=True)
    bars = base.mark_bar(color=BLUE, height=14).encode(
        x=alt.X("score:Q", title="held-out score (95 % interval)", scale=scale),
        y=roles,
        tooltip=["role:N", "score:Q", "prompt:N"],
    )
    whiskers = base.transform_filter("isValid(datum.from)").mark_rule(strokeWidth=3, color=ORANGE)
    whiskers = whiskers.encode(x=alt.X("from:Q", title="", scale=scale), x2="to:Q", y=roles)
    compared = base.transform_filter("isValid(datum.ahead)")
    rule = compared.mark_rule(color=ORANGE, strokeWidth=3).encode(
        x=alt.X(
            "low:Q", title="winner ahead by (95 % interval; 0: no difference)", scale=alt.Scale(padding=12)
        ),
        x2="high:Q",
        y=roles,
    )
    dot = compared.mark_point(filled=True, size=90, color=ORANGE).encode(
        x="ahead:Q", y=roles, tooltip=["role:N", "ahead:Q", "low:Q", "high:Q"]
    )
    zero = (
        alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3], color=GREY).encode(x="zero:Q")
    )
    size = {"width": WIDTH // 2, "height": 28 * len(rows)}
    return alt.vconcat((bars + whiskers).properties(**size), (zero + rule + dot).properties(**size))


def front(study: Study) -> Any:
    """Return the chart of score against tokens per call, with 95 % intervals of the prompts on the front.

    Args:
        study: with prompts scored in full.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    on_front = {point.index for point in study.front}
    winner = None if study.winner is None else study.winner.index
    rows = [_front_row(point, winner, on_front) for point in study.measured]
    rows.sort(key=lambda row: row["kind"] != BEATEN)  # the front is drawn above the others
    is_text = any(point.estimated for point in study.measured)
    title = "estimated tokens of the prompt's text" if is_text else "tokens per call"
    kinds = [WINNER, ON_FRONT, BEATEN]
    legend = alt.Legend(orient="bottom", columns=1)
    x = alt.X("tokens:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=False))
    y = alt.Y("score:Q", title="train score", scale=alt.Scale(zero=False))
    base = _chart(alt, rows)
    color = alt.Color(
        "kind:N", title=None, legend=legend, scale=alt.Scale(domain=kinds, range=[ORANGE, BLUE, GREY])
    )
    shapes = alt.Scale(domain=kinds, range=["diamond", "circle", "cross"])
    shape = alt.Shape("kind:N", title=None, legend=legend, scale=shapes)
    tooltip = ["prompt:N", "number:Q", "score:Q", "tokens:Q"]
    size = alt.condition(f"datum.kind === '{WINNER}'", alt.value(180), alt.value(70))
    dots = base.mark_point(filled=True, opacity=1).encode(
        x=x, y=y, color=color, shape=shape, size=size, tooltip=tooltip
    )
    whiskers = base.transform_filter("datum.front").mark_rule(opacity=0.4, color=BLUE)
    heights = whiskers.transform_filter("isValid(datum.low)").encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    widths = whiskers.transform_filter("isValid(datum.least)").encode(x=alt.X("least:Q"), x2="most:Q", y=y)
    steps = base.transform_filter("datum.front").mark_line(interpolate="step-after", color=BLUE, opacity=0.6)
    line = steps.encode(x=x, y=y)
    return (heights + widths + line + dots).properties(width=WIDTH, height=HEIGHT)


def best_so_far(studies: Sequence[Study]) -> Any:
    """Return the chart of the best full score of several runs by the number of calls.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    rows = []
    for number, study in enumerate(studies, start=1):
        scored = scored_prompts(study)
        for each, best in zip(scored, _best_so_far(scored), strict=True):
            if np.isfinite(best):
                calls = each.total.calls + each.total.cached
                rows.append({"run": f"{number}. {printable(study.name)}", "calls": calls, "best": best})
    return (
        _chart(alt, rows).mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("calls:Q", title="calls, answers from a cache included", axis=alt.Axis(grid=False)),
            y=alt.Y("best:Q", title="best train score", scale=alt.Scale(zero=False)),
            color=alt.Color("run:N", title=None, legend=alt.Legend(orient="bottom", columns=1)),
            strokeDash=alt.StrokeDash("run:N", title=None, legend=alt.Legend(orient="bottom", columns=1)),
            tooltip=["run:N", "calls:Q", "best:Q"],
        )
        .properties(width=WIDTH, height=HEIGHT)
    )  # fmt: skip


# ---- internals --------------------------------------------------------------------------------------


def _chart(alt: Any, rows: Iterable[Mapping[str, Any]]) -> Any:
    return alt.Chart(alt.Data(values=list(rows)))


def _best_so_far(scored: Sequence[Scored]) -> list[float]:
    """Return the best full score up to each prompt; minus infinity before there is one."""
    full = (each.score if each.is_full else -np.inf for each in scored)
    return list(itertools.accumulate(full, max))


def _spent(number: int, total: Usage, cost: Callable[[Usage], float | None] | None) -> dict[str, Any]:
    # An answer of the cache costs nothing, and is an answer for the search like any other.
    money = None if cost is None else cost(total)
    return {
        "prompts": number, "calls": total.calls + total.cached, "tokens": total.total_tokens, "money": money
    }  # fmt: skip


def _front_row(point: FrontPoint, winner: int | None, on_front: set[int]) -> dict[str, Any]:
    low, high = point.score_interval or (None, None)
    least, most = point.tokens_interval or (None, None)
    kind = WINNER if point.index == winner else ON_FRONT if point.index in on_front else BEATEN
    return {
        "tokens": round(point.tokens, 2), "score": point.score, "number": point.index, "kind": kind,
        "front": point.index in on_front, "low": low, "high": high, "least": least, "most": most,
        "prompt": _cut(point.prompt),
    }  # fmt: skip


def _bound(row: HeldOut, end: int) -> float | None:
    interval = score_interval(row.scores)
    return None if interval is None else interval[end]


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def _places(study: Study, posterior: Posterior | None) -> list[dict[str, Any]]:
    """Return a row for each prompt that the map draws; of many without a score, some at equal distances."""
    if study.embeddings is None:
        return []
    scored = {row.index: row for row in study.ranked}
    waiting = [i for i in range(len(study.prompts)) if i not in scored]
    waiting = waiting[:: max(1, -(-len(waiting) // MAX_WAITING))]
    region = None if posterior is None else set(posterior.indices.tolist())
    winner = None if study.winner is None else study.winner.index
    places = project(study.embeddings)
    rows = []
    for index in (*waiting, *scored):  # scored ones last: they are drawn above the others
        row = scored.get(index)
        kind = WAITING if row is None else ASKED if row.is_full else STARTED
        if index == study.incumbent:
            kind = INCUMBENT
        if index == winner:
            kind = WINNER
        rows.append(
            {
                "x": round(float(places[index, 0]), 4), "y": round(float(places[index, 1]), 4),
                "number": index, "kind": kind, "size": _SIZES[kind],
                "score": None if row is None else row.score, "asked": None if row is None else row.order,
                "region": region is None or index in region, "prompt": _cut(study.prompts[index]),
            }
        )  # fmt: skip
    return rows
