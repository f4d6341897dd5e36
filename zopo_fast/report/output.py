"""Files of a run beside its results: the curve and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.files import write_atomic
from zopo_fast.report.charts import curve, scored_prompts
from zopo_fast.report.page import report_html
from zopo_fast.report.study import Study
from zopo_fast.runs.folder import CURVE, REPORT

if TYPE_CHECKING:
    from zopo_fast.runs.result import Result


def write_output(result: Result, folder: Path, study: Path | None = None) -> list[str]:
    """Write curve.png and report.html into the folder of a run.

    Args:
        result: of the run.
        folder: of the run.
        study: file of the study; None: without one there is no report.

    Returns:
        Files that could not be written, each with the reason.
    """

    def report() -> None:
        if study is not None:
            with Study.open(study) as opened:
                write_page([opened], folder / REPORT)

    steps: dict[str, Callable[[], Any]] = {CURVE: lambda: write_curve(result, folder / CURVE), REPORT: report}
    failed = []
    for name, write in steps.items():
        try:
            write()
        except Exception as error:  # a failed plot must not hide the summary of a paid run
            failed.append(f"{name}: {error}")
    return failed


def write_page(studies: Sequence[Study], path: Path) -> int:
    """Write the page of a study, or the comparison of several; return its size in bytes.

    Raises:
        MissingDependencyError: Jinja2 or Altair is not installed.
        OutputError: the file cannot be written.
    """
    # Lone surrogates of a damaged text cannot be encoded.
    content = report_html(studies).encode(errors="replace")
    write_atomic(path, content)
    return len(content)


def write_curve(result: Result, path: Path) -> None:
    """Write the curve of a run as a PNG file.

    Raises:
        MissingDependencyError: Altair is not installed.
        OSError: the file cannot be written.
    """
    chart = curve(scored_prompts(result))
    import vl_convert

    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(validate=False), scale=2))
