"""`store.url`: where Redis or Valkey is, and in which of its three arrangements. Pure.

    redis://[user[:password]@]host[:port][/db]                          one server
    redis+sentinel://[user[:password]@]host[:port],…/service[/db]       the sentinels that know the primary
    redis+cluster://[user[:password]@]host[:port],…                     some nodes of a cluster
    unix:///path/to/socket[?db=N]                                       one server on this machine

`rediss` in place of `redis` is TLS. `valkey` and `valkeys` mean the same as `redis` and `rediss`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_EXAMPLE = "redis://127.0.0.1:6379"


class BadUrl(Exception):
    """The URL cannot be understood. The text says what is wrong and shows a right one; it never shows the password."""


class Place(NamedTuple):
    """One Redis deployment. `hosts` is empty where `socket` is set; `service` is the sentinels' name for it."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    username: str = ""
    password: str = ""

    def __str__(self) -> str:
        """Names it for logs: without user and password."""
        return self.socket or ",".join(f"{host}:{port}" for host, port in self.hosts)


def parse_url(url: str) -> Place:
    """Returns the place that `url` names. Raises BadUrl."""
    scheme, found, rest = url.partition("://")
    if not found:
        raise BadUrl(f"expected a URL such as {_EXAMPLE}")
    if scheme == "unix":
        return _socket(url)
    base, _, how = scheme.lower().partition("+")
    base = base.replace("valkey", "redis")
    if base not in ("redis", "rediss") or how not in ("", "sentinel", "cluster"):
        raise BadUrl(f"unknown scheme {scheme!r}; use redis, rediss, redis+sentinel, redis+cluster or unix")
    login, _, where = rest.rpartition("@")
    username, _, password = login.partition(":")
    hosts_text, _, path = where.partition("/")
    kind: Literal["single", "sentinel", "cluster"] = (
        "sentinel" if how == "sentinel" else "cluster" if how == "cluster" else "single"
    )
    hosts = tuple(_host(text, _PORTS[kind]) for text in hosts_text.split(","))
    if kind == "single" and len(hosts) > 1:
        raise BadUrl("several hosts need redis+sentinel:// or redis+cluster://")
    parts = [part for part in path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not parts:
            raise BadUrl("a sentinel URL ends in the service's name: redis+sentinel://host:26379/mymaster")
        service = unquote(parts.pop(0))
    if len(parts) > (0 if kind == "cluster" else 1):
        raise BadUrl(f"nothing is known by /{path}; the path is the number of the database, as in {_EXAMPLE}/0")
    return Place(
        kind,
        hosts,
        service=service,
        db=_number(parts[0]) if parts else 0,
        tls=base == "rediss",
        username=unquote(username),
        password=unquote(password),
    )


def without_login(url: str) -> str:
    """Returns the URL without user and password, for people and packages."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def _socket(url: str) -> Place:
    parts = urlsplit(url)
    if not parts.path:
        raise BadUrl("a socket URL has three slashes: unix:///run/redis.sock")
    db = parse_qs(parts.query).get("db", ["0"])[0]
    return Place(
        "single",
        socket=unquote(parts.path),
        db=_number(db),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed:
            raise BadUrl("an IPv6 address stands in brackets: redis://[::1]:6379")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise BadUrl(f"a host is missing; expected a URL such as {_EXAMPLE}")
    number = _number(port) if port else default_port
    if not 1 <= number <= 65535:
        raise BadUrl(f"port {number} is not one; ports are 1 to 65535")
    return host, number


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise BadUrl(f"expected a number, got {text!r}")
    return int(text)
