"""Charts of a run, as Vega-Lite specifications made by Altair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zopo_fast.errors import MissingDependencyError

if TYPE_CHECKING:
    from zopo_fast.runs.result import Trial

WIDTH, HEIGHT = 640, 320
SCORED, PARTIAL, BEST = "score of the prompt", "stopped early: score so far", "best so far"


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


def curve(trials: Sequence[Trial]) -> Any:
    """Return the chart of the score of each trial and the best full score so far.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    alt = altair()
    scored = [trial for trial in trials if trial.score is not None]
    means = np.array([trial.score for trial in scored], dtype=np.float64)
    partial = np.array([trial.partial for trial in scored], dtype=bool)
    best = np.maximum.accumulate(np.where(partial, -np.inf, means))
    points = [
        {"trial": i, "score": float(mean), "kind": PARTIAL if cut else SCORED}
        for i, (mean, cut) in enumerate(zip(means, partial, strict=True), start=1)
    ]
    steps = [
        {"trial": i, "score": float(top), "kind": BEST}
        for i, top in enumerate(best, start=1)
        if np.isfinite(top)
    ]
    x = alt.X("trial:Q", title="prompts scored")
    y = alt.Y("score:Q", title="train score", scale=alt.Scale(zero=False))
    color = alt.Color("kind:N", title=None, legend=alt.Legend(orient="bottom"))
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True).encode(x=x, y=y, color=color)
    line = alt.Chart(alt.Data(values=steps)).mark_line(interpolate="step-after").encode(x=x, y=y, color=color)
    return (dots + line).properties(width=WIDTH, height=HEIGHT)
