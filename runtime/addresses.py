"""Addresses that other machines can use."""

from __future__ import annotations

import ipaddress
import socket

_EVERYWHERE = frozenset({"", "0.0.0.0", "::", "[::]"})


def reachable_address(host: str, port: int, advertised: str = "") -> str:
    """Returns HOST:PORT for others to call what listens on `host`.

    `advertised` is a host, or a host with a port where something in between changes it. Without it, what listens on all
    addresses is reached by this machine's name.
    """
    if advertised:
        name, colon, given = advertised.rpartition(":")
        if colon and given.isdigit() and (":" not in name or name.endswith("]")):
            return advertised
        return _joined(advertised, port)
    return _joined(socket.gethostname() if host in _EVERYWHERE else host, port)


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
