"""Session cookie of the server's page: signed with the bearer token, and stored nowhere."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from urllib.parse import urlsplit

from aiohttp import web

from zopo_fast.serve.http.problems import Problem

SESSION_SECONDS = 12 * 3600
FAILURE_SECONDS = 1.0  # delay of a failed sign-in; failures wait for each other
MAX_WAITING = 10  # failed sign-ins that wait at a time


class Sessions:
    """Issues and checks session cookies.

    The value of a cookie is `expiry.nonce.signature`, the signature HMAC-SHA256 under a key derived from the
    token. Another token therefore ends all sessions.

    Args:
        token: bearer token of the server.

    Attributes:
        cookie: name of the cookie, different for each token: servers on different ports share their cookies.
    """

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._key = hmac.digest(token, b"zopo-fast session", hashlib.sha256)
        self.cookie = "zopo_session_" + hmac.digest(token, b"zopo-fast cookie", hashlib.sha256).hex()[:8]
        self._failing = asyncio.Lock()
        self._waiting = 0

    async def sign_in(self, given: str) -> bool:
        """Compare a token; a wrong one takes a second, and no two fail in the same second.

        Raises:
            Problem: 429, too many failed attempts are waiting.
        """
        if hmac.compare_digest(given.strip().encode("utf-8", "surrogatepass"), self._token):
            return True
        if self._waiting >= MAX_WAITING:
            raise Problem(
                429,
                "TooManySignIns",
                "sign-in: too many failed attempts; wait a minute",
                {"Retry-After": "60"},
            )
        self._waiting += 1
        try:
            async with self._failing:
                await asyncio.sleep(FAILURE_SECONDS)
        finally:
            self._waiting -= 1
        return False

    def issue(self) -> str:
        """Return the value of a new cookie."""
        signed = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{signed}.{self._sign(signed)}"

    def is_valid(self, request: web.BaseRequest) -> bool:
        """Return whether a request has a cookie that this server issued and that has not expired."""
        signed, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self._sign(signed).encode()):
            return False
        return int(signed.partition(".")[0]) > time.time()

    def _sign(self, signed: str) -> str:
        return hmac.digest(self._key, signed.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def require_same_origin(request: web.BaseRequest) -> None:
    """Refuse a form that another site sent.

    Raises:
        Problem: 403, neither Sec-Fetch-Site nor Origin says that a page of this server sent the request.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    # A proxy may replace Host. Then the browser's own verdict counts, which scripts cannot set.
    is_same = site == "same-origin" if site is not None else _is_own(origin, request)
    if not is_same:
        raise Problem(
            403,
            "Forbidden",
            "Origin: a form must come from the page itself; a proxy must pass the Host header on",
        )


def _is_own(origin: str | None, request: web.BaseRequest) -> bool:
    return origin is not None and urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()


def is_foreign(request: web.BaseRequest) -> bool:
    """Return whether a request names an origin other than its own host."""
    origin = request.headers.get("Origin")
    return origin is not None and not _is_own(origin, request)


def is_encrypted(request: web.BaseRequest) -> bool:
    """Return whether the browser uses TLS, which a proxy may end."""
    return (
        request.secure
        or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        or request.headers.get("Origin", "").lower().startswith("https:")
    )
