"""`zopo-fast serve`: studies and optimize jobs over HTTP, for programs in any language.

Asks and tells are answered once they are on disk: `journal` groups the commits of all studies, `studies`
keeps the searches, `jobs` runs whole optimisations, `routes` says what there is, `app` listens. The packages
of the extra `serve` are needed; `require` says so.
"""

from __future__ import annotations

import importlib.util

from zopo_fast.errors import MissingDependencyError

INSTALL = 'pip install "zopo-fast[serve]"'
_NEEDED = {
    "msgspec": "msgspec",
    "prometheus_client": "prometheus-client",
    "pythonjsonlogger": "python-json-logger",
}


def require() -> None:
    """Raise MissingDependencyError where a package is missing, with the command that installs it."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(f"serve needs {', '.join(missing)}: {INSTALL}")
