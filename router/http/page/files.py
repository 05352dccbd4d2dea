"""Serves the chat page. It is open without a key: it holds nothing of the deployment's, and its own calls need one.

The files are read once, when the first of them is asked for. Each has an entity tag, so that a browser asks again and
gets 304 until the installation changes.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.errors import NotFound

# No foreign resources, no inline scripts, no frames; markup becomes nodes only through DOMPurify's policy.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_START = "index.html"


class _File(NamedTuple):
    body: bytes
    content_type: str
    tag: str


class ChatPage:
    """The page's endpoints."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def start(self, exchange: Exchange) -> Reply:
        """The page itself."""
        return self._reply(exchange, _START)

    async def file(self, exchange: Exchange) -> Reply:
        """A file of the chat page."""
        return self._reply(exchange, exchange.name)

    def _reply(self, exchange: Exchange, name: str) -> Reply:
        self._files = self._files or _read()
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"the chat page has no file {name[:200]!r}")
        headers = {**exchange.headers(file.content_type), **_HEADERS, "ETag": file.tag}
        if exchange.request.headers.get("If-None-Match") == file.tag:
            return Reply(304, headers)
        return Reply(200, headers, file.body)


def wants_page(accept: str | None) -> bool:
    """Whether a client that asks for `/` is a browser in search of a page, by its `Accept` header."""
    return accept is not None and "text/html" in accept


def _read() -> dict[str, _File]:
    static = resources.files(__package__) / "static"
    found: dict[str, _File] = {}
    folders = [("", static)]
    while folders:
        prefix, folder = folders.pop()
        for entry in folder.iterdir():
            name = prefix + entry.name
            if entry.is_dir():
                folders.append((f"{name}/", entry))
            else:
                body = entry.read_bytes()
                kind = _TYPES.get(name[name.rfind(".") :], "text/plain; charset=utf-8")
                found[name] = _File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return found
