"""Page of a report: self-contained for a file, or in parts for a server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast import __version__
from zopo_fast._utils.files import default_cache_dir, write_atomic
from zopo_fast._utils.text import printable
from zopo_fast.errors import MissingDependencyError
from zopo_fast.report import charts, facts, growth
from zopo_fast.report.templates import template_environment
from zopo_fast.scoring.intervals import score_interval

if TYPE_CHECKING:
    from jinja2 import Environment

    from zopo_fast.report.study import Study

MAX_BYTES = 3_000_000  # of a page
# Characters of a text: the first that fits into a page is taken.
LENGTHS = (4000, 1500, 600, 250, 100, 40, 15)
MIN_COMPRESSED = 100_000  # bytes of data from which on compression is worth its time in the browser
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_ASSETS = Path(__file__).parent / "assets"


def report_html(studies: Sequence[Study]) -> str:
    """Return the page of a study, or the comparison of several, that needs no other file and no network.

    Its Content-Security-Policy allows its own script and style by their hashes, and no request.

    Raises:
        MissingDependencyError: Jinja2 or Altair is not installed.
    """
    static = {name: content.decode() for name, content in static_files().items()}
    style, scripts = static["report.css"], (static["vega.js"], static["report.js"])
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    around = _environment().get_template("report.html")

    def page(body: str) -> str:
        title = " and ".join(printable(study.name) for study in studies)
        return around.render(title=title, body=body, policy=policy, style=style, scripts=scripts)

    frame = len(page("").encode())
    return page(report_body(studies, MAX_BYTES - frame))


def report_body(studies: Sequence[Study], max_bytes: int = MAX_BYTES) -> str:
    """Return the sections of a report with their data, without scripts and style.

    Args:
        studies: one study, or several to compare.
        max_bytes: size to keep to by cutting long texts.

    Raises:
        MissingDependencyError: Jinja2 or Altair is not installed.
    """
    make = _study_body(studies[0]) if len(studies) == 1 else _comparison_body(studies)
    body = ""
    for length in LENGTHS:
        body = make(length)
        if len(body.encode(errors="replace")) <= max_bytes:
            break
    return body


@cache
def static_files() -> dict[str, bytes]:
    """Return style and scripts of a report by file name.

    Raises:
        MissingDependencyError: vl-convert is not installed.
    """
    own = {name: (_ASSETS / name).read_bytes() for name in ("report.css", "report.js")}
    return {**own, "vega.js": _vega()}


# ---- bodies -----------------------------------------------------------------------------------------


def _study_body(study: Study) -> Callable[[int], str]:
    """Return a function that makes the body of a study with texts of at most a number of characters."""
    posterior = study.posterior()
    drawn: dict[str, Any] = {}
    scored = charts.scored_prompts(study)
    if scored:
        drawn["curve"] = charts.curve(scored, study.cost)
    if study.embeddings is not None and len(study.prompts) > 1:
        drawn["map"] = charts.pool_map(study, posterior)
    if len(study.measured) > 1:
        drawn["front"] = charts.front(study)
    if posterior is not None:
        drawn["belief"] = charts.belief(study, posterior)
    ahead = facts.ahead(study)
    # A row of the winner itself under another role says nothing.
    compared = [row for row in study.heldout if row.role == "winner" or row.prompt != study.heldout[0].prompt]
    if compared:
        drawn["heldout"] = charts.heldout(compared, [study.role(row) for row in compared])
    specifications = {name: _specification(chart) for name, chart in drawn.items()}
    winner, rival = study.winner, facts.rival(study)
    other = None if rival is None else study.prompts[rival[1]]
    changes = [] if winner is None or other is None else facts.changes(other, winner.prompt)
    template = _environment().get_template("study.html")

    def body(length: int) -> str:
        rows, answers = facts.prompt_rows(study, length), facts.answer_rows(study, length)
        data = {
            "charts": specifications,
            "prompts": rows,
            "omitted": len(study.prompts) - len(rows),
            "answers": answers,
            "hasCost": study.prices is not None,
            "rival": None if rival is None else rival[0],
        }
        return template.render(
            study=study,
            winner=winner,
            interval=score_interval(study.heldout[0].scores) if study.heldout else None,
            subtitle=facts.subtitle(study),
            advice=None if ahead is None else facts.advice(ahead),
            counts=facts.count_answers(answers),
            compared=compared,
            rival=rival,
            rival_text=other,
            changes=changes,
            ahead=ahead,
            parts=facts.spending(study),
            rounds=growth.round_rows(study),
            writers=growth.writer_rows(study),
            families=growth.families(study),
            settings=facts.settings(study),
            versions=_versions(study),
            charts=drawn,
            data=_block(data),
            has_answers=bool(answers),
        )

    return body


def _comparison_body(studies: Sequence[Study]) -> Callable[[int], str]:
    drawn = {"best": charts.best_so_far(studies)}
    data = _block({"charts": {name: _specification(chart) for name, chart in drawn.items()}})
    first = next((study.winner.prompt for study in studies if study.winner is not None), "")
    template = _environment().get_template("comparison.html")
    return lambda length: template.render(
        studies=studies,
        facts=facts,
        score_interval=score_interval,
        first=first,
        length=length,
        charts=drawn,
        data=data,
    )


def _specification(chart: Any) -> dict[str, Any]:
    # Validation against the schema takes seconds with thousands of rows, and the charts are our own.
    specification: dict[str, Any] = chart.to_dict(validate=False)
    fonts = {"labelFontSize": 12, "titleFontSize": 12}
    specification["config"] = {"axis": {**fonts, "titleFontWeight": "normal"}, "legend": fonts}
    if "vconcat" not in specification:
        specification |= {"width": "container", "autosize": {"type": "fit", "contains": "padding"}}
    return specification


def _block(data: Any) -> dict[str, str]:
    """Return data as the text of an element that no parser of HTML takes for markup, and its encoding."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=float)
    if len(text) >= MIN_COMPRESSED:
        return {"encoding": "gzip", "text": base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()}
    return {"encoding": "json", "text": text.replace("<", "\\u003c").replace(">", "\\u003e")}


# ---- environment ------------------------------------------------------------------------------------


@cache
def _environment() -> Environment:
    filters: dict[str, Callable[..., Any]] = {
        "plain": printable,
        "figure": _figure,
        "count": _count,
        "signed": _signed,
        "cut": facts.cut,
        "seconds": _seconds,
    }
    return template_environment(_ASSETS, filters)


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\u2212")


def _count(value: int) -> str:
    return f"{value:,}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def _versions(study: Study) -> dict[str, str]:
    """Return the version that made the run, and those that made the page."""
    run = {} if study.version is None else {"zopo_fast of the run": study.version}
    return {
        **run,
        "zopo_fast of this page": __version__,
        "Python of this page": platform.python_version(),
        "system of this page": platform.system(),
    }


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _vega() -> bytes:
    """Return the scripts of Vega, made once for each version and kept in the cache: making them takes 2 s."""
    try:
        import vl_convert
    except ImportError:
        raise MissingDependencyError('needs vl-convert: pip install "zopo-fast[report]"') from None
    path: Path = default_cache_dir() / f"vega-{version('vl-convert-python')}.js"
    try:
        return path.read_bytes()
    except OSError:
        script: bytes = vl_convert.javascript_bundle(_SNIPPET).encode()
    with suppress(OSError):  # a cache that cannot be written costs time, not the report
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, script)
    return script
