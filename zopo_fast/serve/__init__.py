"""`zopo-fast serve`: studies and optimisation jobs over HTTP.

Responses to ask and tell are sent once the change is on disk. The package needs the extra `serve`;
`require` checks for it.

- `server`: the aiohttp application, its start and shutdown
- `http`: routing, authentication, parsing, responses
- `studies`: searches by ask and tell, and the journal that makes them durable
- `jobs`: whole runs of `optimize`
"""

from __future__ import annotations

import importlib.util

from zopo_fast.errors import MissingDependencyError

INSTALL = 'pip install "zopo-fast[serve]"'
_PACKAGES = {
    "msgspec": "msgspec",
    "prometheus_client": "prometheus-client",
    "pythonjsonlogger": "python-json-logger",
}


def require() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        MissingDependencyError: names the missing packages and the command that installs them.
    """
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(f"serve needs {', '.join(missing)}: {INSTALL}")
