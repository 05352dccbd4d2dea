"""Ports of this machine: which are taken, which are free."""

from __future__ import annotations

import socket
from typing import NamedTuple

from qwenserve.cli.errors import CommandError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


class Endpoint(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Endpoint:
        """The same for a caller on this machine, who cannot call an address that means "all of them"."""
        return Endpoint(_ANYWHERE.get(self.host, self.host), self.port)


def claim(endpoint: Endpoint, setting: str) -> Endpoint:
    """Returns the endpoint, with a free port in place of 0. Raises CommandError if the port is taken.

    The port is free again when this returns, so that the process that it is for can take it.
    """
    host, port = endpoint
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without this, a port stays "taken" for a minute after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # Binding with the option above succeeds beside another socket that is bound; listening does not.
            probe.listen(1)
        except OSError as error:
            raise CommandError(
                f"{setting}: cannot listen on {endpoint}: {error.strerror}; stop what listens there (`qwenserve ps` "
                f"shows ours), or choose another port with --set {setting}=PORT (0 takes a free one)"
            ) from None
        return Endpoint(host, probe.getsockname()[1])


def free_endpoints(host: str, count: int) -> list[Endpoint]:
    """Returns endpoints with different free ports."""
    probes: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        for _ in range(count):
            probe = socket.socket(family, socket.SOCK_STREAM)
            probes.append(probe)
            probe.bind((host, 0))
        return [Endpoint(host, probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
