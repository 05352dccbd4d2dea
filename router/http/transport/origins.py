"""Which web pages may use this service. Pure.

A page in a browser can send requests to any address that the browser reaches, a loopback one too. Where keys are
set it lacks one. Where none are, requests of foreign pages are refused: by the `Origin` that browsers add, and, on a
loopback address, by a `Host` that is no name of this machine, for a page can have its own name point there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from qwenserve.runtime.addresses import is_loopback

ANY = "*"
_PREFLIGHT_AGE_S = 600
# Clients use few names for one service; a client that makes names up must not fill the memory.
_MOST_REMEMBERED = 64


class Origins:
    """`allowed` are origins such as https://example.com, or * for all. `keyed`: callers need a key. `local`: it listens
    on a loopback address.
    """

    def __init__(self, allowed: Sequence[str], *, keyed: bool, local: bool) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._hosts = frozenset(_name(urlsplit(origin).netloc) for origin in self._allowed)
        self._open = keyed or ANY in self._allowed
        self._local = local
        # Values of `Host` that were found to name this machine: parsing an address costs more than all else here.
        self._own_names: set[str] = set()

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Returns why a request is refused; empty where it is not."""
        if self._open:
            return ""
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if origin is None and host in self._own_names:
            return ""
        if self._local and host not in self._own_names:
            name = _name(host)
            if not (is_loopback(name) or _is_ours(name) or name in self._hosts):
                return f"Host {host[:80]!r} is no name of this machine"
            if len(self._own_names) < _MOST_REMEMBERED:
                self._own_names.add(host)
        if origin is None or self._allows(origin) or urlsplit(origin).netloc.lower() == host.lower():
            return ""
        return f"pages of {origin[:80]!r} may not use this service"

    def cors(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Returns the headers that let a page read the reply; empty where it is not one of those allowed."""
        origin = headers.get("Origin")
        if origin is None or not self._allows(origin):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Returns the headers of the reply to a browser that asks before it sends; empty where it is told nothing."""
        cors = self.cors(headers)
        if not cors or "Access-Control-Request-Method" not in headers:
            return {}
        return {
            **cors,
            "Access-Control-Allow-Methods": "GET, POST",
            # Each is listed: a star does not cover `Authorization`.
            "Access-Control-Allow-Headers": headers.get("Access-Control-Request-Headers", "*"),
            "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
        }

    def _allows(self, origin: str) -> bool:
        return ANY in self._allowed or origin.lower() in self._allowed


def _is_ours(name: str) -> bool:
    """Whether no stranger can own a name: it has no dot, or ends in .localhost."""
    return "." not in name or name.endswith(".localhost")


def _name(host: str) -> str:
    """Returns a host without its port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else host.strip().lower()
