"""Templates of the page, and the headers of its responses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from zopo_fast import __version__
from zopo_fast.report.templates import template_environment
from zopo_fast.serve.pages import assets

if TYPE_CHECKING:
    from jinja2 import Environment

HTML = "text/html; charset=utf-8"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # With no-referrer, browsers would send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATE_NAMES = {"new": "not started", "open": "in progress"}


@cache
def _environment() -> Environment:
    filters = {
        "number": lambda value: f"{value:,}",
        "score": lambda value: f"{value:.4g}",
        "money": lambda value: f"{value:,.2f}" if value >= 1 else f"{value:.3g}",
        "when": lambda value: time.strftime("%d %b %Y, %H:%M UTC", time.gmtime(value)),
        "iso": lambda value: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value)),
        "excerpt": _excerpt,
        "state": lambda value: _STATE_NAMES.get(value, value),
    }
    environment = template_environment(Path(__file__).parent / "templates", filters)
    environment.globals |= {"version": __version__, "asset": assets.url}
    return environment


def _excerpt(text: str, size: int = 160) -> str:
    """Return the beginning of a text, in one line."""
    line = " ".join(text[: 4 * size].split())
    return line if len(line) <= size else line[: size - 1] + "…"


def render(
    template: str,
    values: Mapping[str, Any],
    *,
    root: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Render a template as a response.

    Args:
        template: name of the template, without its suffix.
        values: values of its variables.
        root: relative address of the server's root, such as "../../"; a value `root` replaces it, for a part
            that is inserted into another page.
        status: HTTP status code.
        headers: additional headers.
    """
    text = _environment().get_template(f"{template}.html").render({"root": root, **values})
    # A name or prompt can hold a lone surrogate, which UTF-8 cannot encode.
    body = text.encode("utf-8", "backslashreplace")
    given = {"Content-Type": HTML, "Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=body, headers=given)


def plain(title: str, text: str, status: int) -> web.Response:
    """Build a page without templates; the texts are those of this package."""
    body = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><main><h1>{title}</h1><p>{text}</p></main></body></html>"
    )
    return web.Response(status=status, text=body, headers={"Content-Type": HTML})
