"""Static files of the page: its own, those of the report, and htmx from the package django-htmx."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from aiohttp import web

from zopo_fast.errors import MissingDependencyError

INSTALL = 'pip install "zopo-fast[page]"'
_PACKAGES = {
    "jinja2": "jinja2",
    "altair": "altair",
    "vl_convert": "vl-convert-python",
    "django_htmx": "django-htmx",
}
_OWN = ("page.css", "page.js", "icon.svg")
_REPORT = ("report.css", "report.js", "vega.js")
_HTMX = {"htmx.js": "htmx-2.min.js", "sse.js": "ext/hx-sse-2.min.js"}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
NAMES = (*_OWN, *_HTMX, *_REPORT)


def require() -> None:
    """Check that the packages of the extra `page` are installed.

    Raises:
        MissingDependencyError: names the missing packages and the command that installs them.
    """
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if not missing and not all(_htmx(name).is_file() for name in _HTMX):
        missing = ["a newer django-htmx"]
    if missing:
        raise MissingDependencyError(f"the page needs {', '.join(missing)}: {INSTALL}")


def _htmx(name: str) -> Traversable:
    # The package itself is empty: only its modules load Django.
    return files("django_htmx") / "static" / "django_htmx" / _HTMX[name]


@cache
def _content(name: str) -> tuple[bytes, str]:
    """Return a file and its digest."""
    if name in _OWN:
        data = (Path(__file__).parent / "static" / name).read_bytes()
    elif name in _HTMX:
        data = _htmx(name).read_bytes()
    else:
        from zopo_fast.report.page import static_files

        data = static_files()[name]
    return data, hashlib.sha256(data).hexdigest()[:16]


def url(name: str) -> str:
    """Return the address of a file below the server's root; it changes with the content."""
    return f"static/{name}?v={_content(name)[1]}"


def response(request: web.BaseRequest, name: str) -> web.Response:
    """Respond with a file, or with 304 if the browser has it."""
    data, digest = _content(name)
    is_current = request.rel_url.query.get("v") == digest
    headers = {
        "ETag": f'"{digest}"',
        "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-cache",
    }
    if f'"{digest}"' in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, headers={**headers, "Content-Type": _TYPES[Path(name).suffix]})
