"""Ports of this machine: which are taken, which are free."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qwenserve.cli.errors import CommandError
from qwenserve.cli.program import program
from qwenserve.cli.state import DeploymentRecord

_LISTENING = "0A"  # the state in /proc/net/tcp

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


def port_of(address: str) -> int:
    """Returns the port of `host:port`."""
    return int(address.rpartition(":")[2])


def claim(endpoint: Endpoint, setting: str, records: Sequence[DeploymentRecord] = ()) -> Endpoint:
    """Returns the endpoint, with a free port in place of 0. Raises CommandError, saying whose a taken port is.

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
                f"{setting}: cannot listen on {endpoint}: {error.strerror}; {_owner(port, records)}, or choose another "
                f"port with --set {setting}=PORT (0 takes a free one)"
            ) from None
        return Endpoint(host, probe.getsockname()[1])


def _owner(port: int, records: Sequence[DeploymentRecord]) -> str:
    """Returns whose a port is, and how to get it."""
    for record in records:
        if port in {port_of(address) for address in (record.http, record.grpc) if address}:
            state = f"{record.shown_state}, pid {record.supervisor.pid}"
            return f"it is the deployment {record.name!r} ({state}): stop it with `{program()} stop {record.name}`"
    listener = listening_process(port)
    if listener is not None:
        return f"it is process {listener.pid} ({listener.command}), none of ours: stop that"
    return f"another program listens there: stop that (`{program()} ps` shows ours)"


class Listener(NamedTuple):
    """A process that listens on a port of this machine."""

    pid: int
    command: str


def listening_process(port: int) -> Listener | None:
    """Returns who listens on a TCP port; None where that cannot be seen (another user's, or no Linux)."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir()):
                return Listener(int(process.name), (process / "comm").read_text().strip())
    return None


def _listening_inodes(table: str, port: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for row in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


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
