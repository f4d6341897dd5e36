"""Authentication: a bearer token, the session of the server's page, or loopback only."""

from __future__ import annotations

import hmac

from aiohttp import web

from zopo_fast.serve.config import ServeConfig, is_loopback
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.session import Sessions, is_foreign, require_same_origin


class Authenticator:
    """Check of every request: its bearer token, or without one configured, that it is local.

    Attributes:
        sessions: session cookies of the server's page; None without a token.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._token = None if config.token is None else config.token.encode()
        self.sessions = None if self._token is None else Sessions(self._token)

    def check(self, request: web.BaseRequest, *, takes_session: bool = False) -> None:
        """Check that a request to the API may be served.

        Args:
            request: the request.
            takes_session: the session cookie replaces the token: for a GET without an effect.

        Raises:
            Problem: 401 for a missing or wrong token; 403 for a request that is not local.
        """
        if self.sessions is None:
            _require_local(request)
            if "Origin" in request.headers:
                raise _not_local()
            return
        if self._has_token(request) or (takes_session and self.sessions.is_valid(request)):
            return
        raise Problem(
            401,
            "Unauthorized",
            "Authorization: the bearer token is missing or wrong; send 'Authorization: Bearer TOKEN'",
            {"WWW-Authenticate": "Bearer"},
        )

    def check_page(self, request: web.BaseRequest) -> bool:
        """Check that a request to the server's page may be served.

        Returns:
            False if the browser must sign in first.

        Raises:
            Problem: 403 for a request that is not local, or a form of another site.
        """
        self.check_sender(request)
        if self.sessions is None:
            return True
        return self._has_token(request) or self.sessions.is_valid(request)

    def check_sender(self, request: web.BaseRequest) -> None:
        """Check that a request comes from the server's own page as far as it has an effect.

        Raises:
            Problem: 403 for a request that is not local, or a form of another site.
        """
        if self.sessions is None:
            _require_local(request)
            if is_foreign(request):
                raise _not_local()
        if request.method != "GET":
            require_same_origin(request)

    def _has_token(self, request: web.BaseRequest) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compare in constant time, so that timing reveals nothing about the token.
        is_equal = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token or b"")
        return scheme.lower() == "bearer" and is_equal


def _require_local(request: web.BaseRequest) -> None:
    # A web page can make the browser on this machine send requests here. Such a request has an Origin header
    # or, after DNS rebinding, the page's own host name.
    host = request.headers.get("Host", "localhost")
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if not is_loopback(name):
        raise _not_local()


def _not_local() -> Problem:
    return Problem(
        403,
        "Forbidden",
        "Host or Origin: a server without a token serves only programs on its own machine; "
        "start the server with --token-file to serve others",
    )
