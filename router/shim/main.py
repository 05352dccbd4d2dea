"""The shim's process: `qwenserve shim [--router HOST:PORT,…] [--config FILE] [--set KEY=VALUE …]`.

It has no model and no worker: it reads HTTP requests, asks routers over gRPC, and writes what they say. Signals are as
for a router: the first one drains, the second ends what is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from qwenserve.router.http.shim import make_shim
from qwenserve.router.http.transport.server import HttpServer
from qwenserve.router.shim.backend import RemoteBackend
from qwenserve.router.shim.routers import Routers
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.grpc_wakeups import poll_as_batch
from qwenserve.runtime.lifecycle import Shutdown, freeze_loaded_objects, use_one_malloc_arena
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.runtime.metrics_port import metrics_port
from qwenserve.runtime.process import run_tier
from qwenserve.runtime.tls import HttpContext, public_certificate

_log = EventLog("shim")

# How often a drain looks whether answers are still under way.
_LOOK_S = 0.05


class Shim:
    """Everything of one shim process. `serving` starts it for a block and drains it at the end."""

    def __init__(self, config: Config, *, share_ports: bool = False) -> None:
        """Raises ConfigError."""
        self._config = config
        self._share_ports = share_ports
        self.metrics = RouterMetrics()
        self.routers = Routers(config)
        resubmitted = self.metrics.counters(
            "qwenserve_shim_resubmits", "Requests that had not begun and were taken to another router.", ()
        )
        self.backend = RemoteBackend(self.routers, resubmitted.labels())
        self.metrics.running.set_function(lambda: self.backend.open)
        self.metrics.ready.set_function(lambda: not self.backend.ready())
        certificate = public_certificate(config.tls)
        self.dispatcher = make_shim(
            self.backend,
            config.http,
            strict=config.router.strict,
            keys=KeyRing.from_config(config.auth),
            metrics=self.metrics,
        )
        self.http = HttpServer(
            self.dispatcher,
            config.http,
            share_port=share_ports,
            tls=HttpContext.of(certificate, config.tls) if certificate is not None else None,
        )

    @property
    def http_port(self) -> int:
        """The HTTP port in use."""
        return self.http.port

    @contextlib.asynccontextmanager
    async def serving(self, shutdown: Shutdown) -> AsyncIterator[None]:
        """Serves inside the block; leaving it drains, bounded in time. Raises ConfigError for a taken port."""
        async with contextlib.AsyncExitStack() as stack:
            # Steps run in reverse order of their registration, each of them even if one before it failed.
            await stack.enter_async_context(
                metrics_port(self._config, self.metrics.registry, share_port=self._share_ports)
            )
            stack.push_async_callback(self.http.close)
            stack.push_async_callback(self.routers.close)
            stack.push_async_callback(self._drain, shutdown)
            self.routers.start()
            try:
                await self.http.start()
            except OSError as error:
                where = f"{self._config.http.host}:{self._config.http.port}"
                raise ConfigError(f"http.port: cannot listen on {where}: {error.strerror or error}") from None
            yield

    async def _drain(self, shutdown: Shutdown) -> None:
        self.backend.drain()
        if shutdown.drain.is_set():
            # Tells load balancers to send no more requests; those that still come are answered.
            await shutdown.notice(self._config.drain_notice_s)
        await self.http.drain()
        if not await shutdown.drained(self._idle(), self._config.drain_timeout_s):
            _log.warning("drain_cut_short")

    async def _idle(self) -> None:
        while self.backend.open:  # noqa: ASYNC110  # a drain happens once; nothing on the way of a token tells of it
            await asyncio.sleep(_LOOK_S)


async def serve(config: Config, *, share_ports: bool = False) -> int:
    """Runs a shim until a signal. Returns the exit code."""
    shutdown = Shutdown()
    with shutdown.on_signals():
        shim = Shim(config, share_ports=share_ports)
        poll_as_batch()
        freeze_loaded_objects()
        async with shim.serving(shutdown):
            _log.info("serving", http_port=shim.http_port, routers=list(config.shim.routers))
            await shutdown.drain.wait()
            _log.info("draining")
    _log.info("stopped")
    return shutdown.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until told to stop; returns the exit code."""
    use_one_malloc_arena()

    async def start(config: Config, arguments: argparse.Namespace) -> int:
        return await serve(config, share_ports=arguments.share_ports)

    return run_tier(
        "shim",
        start,
        argv,
        flags=[("--share-ports", "let other shims listen on the same port")],
        shortcuts=[("--router", "HOST:PORT,…", "shim.routers", "gRPC addresses of the routers to ask")],
    )
