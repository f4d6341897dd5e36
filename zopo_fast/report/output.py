"""Files of a run beside its results: the curve and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zopo_fast.report.charts import curve, scored_prompts
from zopo_fast.runs.folder import CURVE

if TYPE_CHECKING:
    from zopo_fast.runs.result import Result


def write_output(result: Result, folder: Path) -> list[str]:
    """Write curve.png into the folder of a run.

    Returns:
        Files that could not be written, each with the reason.
    """
    try:
        write_curve(result, folder / CURVE)
    except Exception as error:  # a failed plot must not hide the summary of a paid run
        return [f"{CURVE}: {error}"]
    return []


def write_curve(result: Result, path: Path) -> None:
    """Write the curve of a run as a PNG file.

    Raises:
        MissingDependencyError: Altair is not installed.
        OSError: the file cannot be written.
    """
    chart = curve(scored_prompts(result))
    import vl_convert

    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(validate=False), scale=2))
