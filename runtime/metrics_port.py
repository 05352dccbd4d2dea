"""`GET /metrics` on a port of its own: for tiers that serve no HTTP, and for routers that share theirs with others.

Open to whoever reaches it, like a router's `/metrics`: it tells numbers and names of workers, never a text.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import prometheus_client
from prometheus_client import CollectorRegistry

from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.tls import HttpContext, metrics_certificate

_CLOSE_S = 1.0


@contextlib.asynccontextmanager
async def metrics_port(whole: Config, registry: CollectorRegistry, *, share_port: bool = False) -> AsyncIterator[int]:
    """Serves the registry inside the block, on the event loop; yields the port, 0 where none is configured.

    Raises ConfigError for a port that is taken, or for TLS without a certificate.
    """
    config = whole.metrics
    if not config.port:
        yield 0
        return
    tls = HttpContext.of(metrics_certificate(whole.tls), whole.tls) if config.tls else None
    # Imported when wanted: a worker has no other use for it.
    from aiohttp import web

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics":
            return web.Response(status=404, text="only /metrics is here\n")
        if request.method != "GET":
            return web.Response(status=405, headers={"Allow": "GET"})
        text = prometheus_client.generate_latest(registry)
        return web.Response(body=text, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=_CLOSE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, ssl_context=tls, reuse_port=share_port or None)
        try:
            await site.start()
        except OSError as error:
            where = f"{config.host}:{config.port}"
            reason = error.strerror or str(error)
            raise ConfigError(f"metrics.port: cannot listen on {where}: {reason}; choose another one") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
