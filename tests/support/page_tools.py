"""Visitor of the server's page without a browser: forms, cookies and links."""

from __future__ import annotations

import http.client
import re
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from serve_tools import SECONDS

LINKS = ("href", "src", "action", "hx-get", "hx-post", "sse-connect")


class Element(NamedTuple):
    """Element of a page with its attributes."""

    tag: str
    attributes: dict[str, str]


class Visit(NamedTuple):
    """Response to a visitor."""

    status: int
    headers: dict[str, str]
    text: str

    def elements(self, tag: str = "") -> list[Element]:
        """List the elements of the page, or those with a tag."""
        parser = _Parser()
        parser.feed(self.text)
        return [each for each in parser.found if tag in ("", each.tag)]

    def words(self) -> str:
        """Return the text of the page without its markup, in one line."""
        parser = _Parser()
        parser.feed(self.text)
        return " ".join("".join(parser.words).split())

    def links(self) -> set[str]:
        """List the addresses in the page, as it has them."""
        found = [each.attributes.get(name) for each in self.elements() for name in LINKS]
        return {one for one in found if one is not None}


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Element] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class Visitor:
    """Client that sends what a browser sends: cookies, Origin, and forms.

    Args:
        url: address of the server's root, without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url, parts = url, urlsplit(url)
        self.host, self.prefix = parts.netloc, parts.path
        self.cookie: str | None = None

    def get(self, path: str, **headers: str) -> Visit:
        """Get a path below the root; in header names, _ stands for -."""
        return self._send("GET", path, None, headers)

    def post(
        self,
        path: str,
        fields: dict[str, str],
        files: dict[str, tuple[str, bytes]] | None = None,
        **headers: str,
    ) -> Visit:
        """Send a form, multipart where it has files (name of the field: name and content)."""
        headers = {"Origin": f"http://{self.host}", **headers}
        if files is None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return self._send("POST", path, urlencode(fields).encode(), headers)
        lines = [
            b'--edge\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v.encode())
            for n, v in fields.items()
        ]
        lines += [
            b'--edge\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
            % (n.encode(), file.encode(), data)
            for n, (file, data) in files.items()
        ]
        headers["Content-Type"] = "multipart/form-data; boundary=edge"
        return self._send("POST", path, b"".join(lines) + b"--edge--\r\n", headers)

    def sign_in(self, token: str, **fields: str) -> Visit:
        """Sign in and keep the cookie."""
        return self.post("/sign-in", {"token": token, "next": "", **fields})

    def target(self, path: str, link: str) -> str:
        """Resolve a link of a page to a path below the root."""
        absolute = urljoin(self.url + path, link)
        assert absolute.startswith(self.url + "/"), f"{path}: {link} leaves {self.url}"
        return absolute.removeprefix(self.url)

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Visit:
        connection = http.client.HTTPConnection(self.host, timeout=SECONDS)
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value}
        if self.cookie:
            sent.setdefault("Cookie", self.cookie)
        try:
            connection.request(method, self.prefix + path, body, sent)
            response = connection.getresponse()
            text = response.read().decode("utf-8")
        finally:
            connection.close()
        received = dict(response.getheaders())
        if given := received.get("Set-Cookie"):
            pair = given.partition(";")[0]
            self.cookie = None if re.search(r'="?"?$', pair) else pair
        return Visit(response.status, received, text)
