"""Charts of runs for notebooks: `zf.plot`.

Each function returns an Altair chart, which a notebook shows. Its `save` writes PNG, SVG or HTML. The extra
`zopo-fast[report]` is needed.

    study = zf.Study.open("runs/rhymes")
    zf.plot.curve(study).save("curve.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zopo_fast.errors import InputError
from zopo_fast.report import charts
from zopo_fast.runs.result import Result

if TYPE_CHECKING:
    from zopo_fast.report.study import Study

__all__ = ["belief", "curve", "front", "heldout", "map"]


def curve(run: Study | Result) -> Any:
    """Plot the score of each trial and the best score so far.

    Args:
        run: a study, or the result of a run.

    Returns:
        An altair.LayerChart.

    Raises:
        MissingDependencyError: Altair is not installed.
    """
    return charts.curve(charts.scored_prompts(run), None if isinstance(run, Result) else run.cost)


def map(study: Study) -> Any:
    """Plot the pool by the first two principal components of its embeddings, coloured by score.

    Args:
        study: a study whose pool is embedded.

    Returns:
        An altair.LayerChart.

    Raises:
        InputError: the study has no embeddings.
        MissingDependencyError: Altair is not installed.
    """
    if study.embeddings is None:
        raise InputError(f"map: the study {study.name!r} has no embeddings yet; wait until its search begins")
    return charts.pool_map(study, study.posterior())


def belief(study: Study) -> Any:
    """Plot the posterior mean of the scores with its 95 % interval.

    Args:
        study: a study with scores.

    Returns:
        An altair.LayerChart.

    Raises:
        InputError: the study has no model of its scores.
        MissingDependencyError: Altair is not installed.
    """
    posterior = study.posterior()
    if posterior is None:
        raise InputError(
            f"belief: the study {study.name!r} has no score yet, or its search has no model of the scores"
        )
    return charts.belief(study, posterior)


def front(study: Study) -> Any:
    """Plot score against tokens per call of the prompts scored in full, with 95 % intervals on the front.

    Args:
        study: a study with a prompt scored in full.

    Returns:
        An altair.LayerChart.

    Raises:
        InputError: the study has no prompt that is scored in full and whose tokens are known.
        MissingDependencyError: Altair is not installed.
    """
    if not study.measured:
        raise InputError(
            f"front: the study {study.name!r} has no prompt that is scored in full with known tokens"
        )
    return charts.front(study)


def heldout(run: Study | Result) -> Any:
    """Plot the held-out scores, and how far the winner is ahead with its 95 % interval.

    Args:
        run: a study, or the result of a run.

    Returns:
        An altair.VConcatChart.

    Raises:
        InputError: the run has no held-out comparison.
        MissingDependencyError: Altair is not installed.
    """
    if not run.heldout:
        raise InputError("heldout: the run has no held-out comparison")
    roles = [row.role if isinstance(run, Result) else run.role(row) for row in run.heldout]
    return charts.heldout(run.heldout, roles)
