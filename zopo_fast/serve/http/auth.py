"""Authentication: a bearer token, or loopback only."""

from __future__ import annotations

import hmac

from aiohttp import web

from zopo_fast.serve.config import ServeConfig, is_loopback
from zopo_fast.serve.http.problems import Problem


class Authenticator:
    """Check of every request: its bearer token, or without one configured, that it is local."""

    def __init__(self, config: ServeConfig) -> None:
        self._token = None if config.token is None else config.token.encode()

    def check(self, request: web.BaseRequest) -> None:
        """Check that a request may be served.

        Raises:
            Problem: 401 for a missing or wrong token; 403 for a request that is not local.
        """
        if self._token is None:
            self._require_local(request)
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compare in constant time, so that timing reveals nothing about the token.
        is_equal = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not is_equal:
            raise Problem(
                401,
                "Unauthorized",
                "Authorization: the bearer token is missing or wrong; send 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )

    def _require_local(self, request: web.BaseRequest) -> None:
        # A web page can make the browser on this machine send requests here. Such a request has an Origin
        # header or, after DNS rebinding, the page's own host name.
        host = request.headers.get("Host", "localhost")
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
        if "Origin" in request.headers or not is_loopback(name):
            raise Problem(
                403,
                "Forbidden",
                "Host or Origin: a server without a token serves only programs on its own machine; "
                "start the server with --token-file to serve others",
            )
