"""Who may call: those with the token; without one, programs on this machine, but no page in its browser."""

from __future__ import annotations

import hmac

from aiohttp import web

from zopo_fast.serve.config import ServeConfig, is_loopback
from zopo_fast.serve.http.problems import Problem


class Guard:
    """Admits requests or raises a Problem."""

    def __init__(self, config: ServeConfig) -> None:
        self._token = None if config.token is None else config.token.encode()

    def admit(self, request: web.BaseRequest) -> None:
        """Raise a Problem (401, 403) unless the request may pass."""
        if self._token is None:
            self._from_here(request)
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compared in a time that does not tell how much of it was right.
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise Problem(
                401, "Unauthorized", "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"}
            )

    def _from_here(self, request: web.BaseRequest) -> None:
        # A web page can have the browser call this machine: it says where it is from, or, where it had its
        # own name point here, calls us by that name.
        host = request.headers.get("Host", "localhost")
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        if "Origin" in request.headers or not is_loopback(name):
            raise Problem(403, "Forbidden", "without a token this server is for programs on its own machine")
