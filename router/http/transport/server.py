"""The listening side: start, drain, close."""

from __future__ import annotations

import asyncio
import logging
import ssl

from aiohttp import web

from qwenserve.router.http.transport.connection import Server
from qwenserve.router.http.transport.dispatcher import Dispatcher
from qwenserve.router.http.transport.parser_faults import NO_HTTP
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.file_limit import file_limit

# A client that is refused before its body is read keeps sending for a while; its reply must not be lost to a reset.
_LINGER_S = 2.0
_CLOSE_S = 2.0
_BACKLOG = 1024
_LOOK_S = 0.02


class HttpServer:
    """Serves one table of endpoints on one address. `share_port` lets several processes listen on the same port; the
    kernel spreads connections over them.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        config: HttpConfig,
        *,
        share_port: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Without `tls` it speaks plain text."""
        self._tls = tls
        self._dispatcher = dispatcher
        self._config = config
        self._share_port = share_port
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port in use; 0 before `start`."""
        return self._port

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return 0 if self._server is None else len(self._server.connections)

    async def start(self) -> int:
        """Listens; returns the port. Raises OSError where the address cannot be had."""
        self._server = Server(
            self._dispatcher,
            self._dispatcher.errors_elsewhere,
            self._dispatcher.note_unreadable,
            min(self._config.max_connections, file_limit() * 3 // 4),
            handler_cancellation=True,  # a client that goes away ends its request
            access_log=None,  # the dispatcher writes its own line
            logger=_parser_log(),
            keepalive_timeout=self._config.keepalive_timeout_s,
            lingering_time=_LINGER_S,
        )
        self._runner = runner = web.ServerRunner(self._server, shutdown_timeout=_CLOSE_S)
        await runner.setup()
        site = web.TCPSite(
            runner,
            self._config.host,
            self._config.port,
            backlog=_BACKLOG,
            ssl_context=self._tls,
            reuse_port=self._share_port or None,
        )
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._site = site
        self._port = runner.addresses[0][1]
        return self._port

    async def drain(self) -> None:
        """Takes no more connections and closes idle ones. Requests under way go on; their replies are the last."""
        await self.stop_listening()
        self.close_idle()

    async def stop_listening(self) -> None:
        """Takes no more connections; from now on every reply is the last of its connection."""
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        self._dispatcher.drain()

    def close_idle(self) -> None:
        """Closes connections without a request under way."""
        if self._server is not None:
            for connection in self._server.connections:
                if not self._dispatcher.is_busy(connection):
                    connection.force_close()

    @property
    def receiving(self) -> bool:
        """Whether a request for an answer has begun to arrive, and the router does not have it yet."""
        return self._dispatcher.receiving

    async def all_received(self) -> None:
        """Returns when no request for an answer is arriving any more. The caller bounds the wait."""
        while self.receiving:  # noqa: ASYNC110 - requests end in many ways; this is asked in drains only
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Lets replies leave for a moment, ends what still runs, and frees the port."""
        self._site = None
        if self._runner is not None:
            await self._runner.cleanup()


def _parser_log() -> logging.Logger:
    """Returns the logger for aiohttp's own troubles, without the noise of clients that speak no HTTP."""
    logger = logging.getLogger("qwenserve.http.server")
    if not logger.filters:
        logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    fault = record.exc_info[1] if record.exc_info else None
    return not isinstance(fault, NO_HTTP | ConnectionError)
