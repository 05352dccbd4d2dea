"""The router's process: `qwenserve router [--config FILE] [--set KEY=VALUE …]`.

At the first signal it says over every readiness check that it is leaving, still takes requests for `drain_notice_s`,
and then drains: new requests are refused, running ones go on. The second signal, or `drain_timeout_s`, ends what is
left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.announce import announced
from qwenserve.router.answers.cache import AnswerCache
from qwenserve.router.chat.answer import AnswerOutcome
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.chat.service import ChatCore
from qwenserve.router.clients.directory import Expectation, WorkerDirectory
from qwenserve.router.clients.store_source import StoreWorkers
from qwenserve.router.clients.text_service import LocalTextService, RemoteTextService, TextService
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.clients.worker_source import StaticWorkers, WorkerSource
from qwenserve.router.grpc_api.chat_servicer import ChatServicer, ModelServicer
from qwenserve.router.grpc_api.tokenizer_servicer import TokenizerServicer
from qwenserve.router.http.shim import make_shim
from qwenserve.router.http.transport.server import HttpServer
from qwenserve.router.limits.limiter import Limiter
from qwenserve.router.limits.usage import UsageRecorder
from qwenserve.router.outcomes import OutcomeRecorder
from qwenserve.router.tracing.otlp import OtlpSpans
from qwenserve.router.tracing.tracing import Tracing
from qwenserve.router.worker_metrics import TokenizerCollector, WorkerCollector
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import CacheConfig, Config, ConfigError
from qwenserve.runtime.grpc_setup import Health, listen, make_server
from qwenserve.runtime.grpc_wakeups import poll_as_batch
from qwenserve.runtime.lifecycle import Shutdown, TaskOwner, freeze_loaded_objects, use_one_malloc_arena
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.runtime.metrics_port import metrics_port
from qwenserve.runtime.process import run_tier
from qwenserve.runtime.tls import HttpContext, public_certificate
from qwenserve.runtime.trust import Trust
from qwenserve.store.opening import open_store
from qwenserve.store.shared import SharedStore
from qwenserve.text.assets import AssetError
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc

if TYPE_CHECKING:
    from qwenserve.router.answers.similar import SimilarPrompts

_log = EventLog("router")

# After the drain: for gRPC replies that are still being sent.
_LAST_WORDS_S = 1.0
# Once the ports are closed: for requests that are on their way, or have come and are still being read.
_ARRIVING_S = 0.25

SERVICES = (
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    chat_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
    tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name,
)


# A health check by this name says whether every worker can be used, and not only one.
ALL_WORKERS = "all-workers"


class Router:
    """Everything of one router process. `serving` starts it for a block and drains it at the end."""

    def __init__(self, config: Config, model: ServedModel, *, share_ports: bool = False) -> None:
        keys = KeyRing.from_config(config.auth)
        trust = Trust.from_config(config)
        self._certificate = public_certificate(config.tls)
        self.metrics = RouterMetrics()
        self._config = config
        self._share_ports = share_ports
        expected = Expectation(model.name, model.assets.tokenizer.vocab_size, model.fingerprint)
        self._store = open_store(config.store)
        self._workers = WorkerDirectory(
            self._worker_source(model.name),
            config.grpc,
            config.router.policy,
            expected,
            stall_timeout_s=config.router.stall_timeout_s,
            return_wait_s=config.router.worker_wait_s,
            trust=trust,
            index_blocks=config.router.prefix_index_blocks,
        )
        self.metrics.registry.register(WorkerCollector(self._workers))
        for counters in (self._workers.reuse.tokens, self._workers.reuse.requests):
            self.metrics.registry.register(counters)
        self._text: TextService = (
            RemoteTextService(
                config.router.tokenizers,
                model.name,
                config.grpc,
                silence_limit_s=config.router.stall_timeout_s / 4,
                trust=trust,
            )
            if config.router.tokenizers
            else LocalTextService(model.assets, guard=config.template.special_tokens_in_content == "plain")
        )
        self.metrics.registry.register(TokenizerCollector(self._text))
        similar = _similar_prompts(self._store, config.cache)
        self._answers = AnswerCache(self._store, config.cache, model.assets.tokenizer.vocab_size, similar)
        answers = self._answers
        for counters in (
            self._store.calls,
            self._store.bad_values,
            answers.results,
            answers.reused,
            answers.known.unasked,
        ):
            self.metrics.registry.register(counters)
        self._outcomes = OutcomeRecorder(self.metrics)
        self._usage = UsageRecorder(config.auth, self.metrics, model.name)
        self._limiter = Limiter(
            keys, self._store, without_store=config.auth.without_store, lease_s=config.store.lease_s
        )
        self._spans = OtlpSpans(config.tracing) if config.tracing.endpoint else None
        self._tracing = Tracing(model.name, config.tracing.share, self._spans) if self._spans is not None else None
        self.core = ChatCore(
            model,
            self._workers,
            self._text,
            config.router,
            self.metrics,
            self._answers,
            config.cache,
            self._record,
            self._tracing,
            self._limiter,
            keys,
        )
        self._server = make_server(config.grpc, keys=keys, share_port=share_ports)
        chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(self.core, keys, config.grpc), self._server)
        chat_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(self.core), self._server)
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerServicer(self.core, keys), self._server)
        self._health = Health(self._server, SERVICES)
        self._http = (
            HttpServer(
                make_shim(
                    self.core,
                    config.http,
                    strict=config.router.strict,
                    keys=keys,
                    metrics=self.metrics,
                    limits=self._limiter.headers,
                ),
                config.http,
                share_port=share_ports,
                tls=HttpContext.of(self._certificate, config.tls) if self._certificate is not None else None,
            )
            if config.http.enabled
            else None
        )
        self.grpc_port = 0

    def _record(self, outcome: AnswerOutcome) -> None:
        self._outcomes(outcome)
        self._usage(outcome)
        if self._tracing is not None:
            self._tracing.end(outcome)

    def _worker_source(self, model: str) -> WorkerSource:
        addresses = self._config.worker_addresses
        if not self._store.shared:
            return StaticWorkers(addresses)
        return StoreWorkers(
            self._store,
            model,
            lease_s=self._config.store.lease_s,
            connected=lambda address: any(each.address == address and each.ready for each in self.sessions),
            fixed=addresses,
        )

    @property
    def http_port(self) -> int:
        """The HTTP port in use; 0 without HTTP."""
        return self._http.port if self._http is not None else 0

    @property
    def sessions(self) -> Sequence[WorkerSession]:
        """The sessions to its workers."""
        return self._workers.sessions

    @contextlib.asynccontextmanager
    async def serving(self, shutdown: Shutdown) -> AsyncIterator[None]:
        """Serves inside the block; leaving it drains, bounded in time. Raises ConfigError for a taken port."""
        tasks = TaskOwner()
        address = f"{self._config.router.host}:{self._config.router.port}"
        try:
            self.grpc_port = listen(self._server, address, self._certificate)
        except RuntimeError:
            raise ConfigError(f"router.port: {address} is taken; choose another with --set router.port=…") from None
        if health_port := self._config.health_port:
            try:
                self._server.add_insecure_port(f"127.0.0.1:{health_port}")
            except RuntimeError:
                raise ConfigError(f"health_port: {health_port} is taken; choose another one") from None
        async with contextlib.AsyncExitStack() as stack:
            # Steps run in reverse order of their registration, each of them even if one before it failed.
            await stack.enter_async_context(
                metrics_port(self._config, self.metrics.registry, share_port=self._share_ports)
            )
            if self._spans is not None:
                stack.push_async_callback(self._spans.close)
            if self._http is not None:
                stack.push_async_callback(self._http.close)
            stack.push_async_callback(self._server.stop, _LAST_WORDS_S)
            stack.push_async_callback(self._store.close)
            stack.push_async_callback(self._limiter.close)
            stack.push_async_callback(self._answers.close)
            stack.push_async_callback(self._text.close)
            stack.push_async_callback(self._workers.close)
            stack.push_async_callback(tasks.close)
            stack.push_async_callback(self._drain, shutdown)
            await self._health.set(False)
            self._workers.start()
            await self._server.start()
            if self._http is not None:
                await self._start_http(self._http)
            tasks.start(self._follow_health(), name="health")
            async with announced(self._store, self._config, self.grpc_port, self.http_port, self.core.ready):
                yield

    async def _start_http(self, http: HttpServer) -> None:
        try:
            await http.start()
        except OSError as error:
            where = f"{self._config.http.host}:{self._config.http.port}"
            raise ConfigError(f"http.port: cannot listen on {where}: {error.strerror or error}") from None

    async def _follow_health(self) -> None:
        was = False
        while True:
            now = self.core.ready() == ""
            if now != was:
                await self._health.set(now)
                _log.info("ready" if now else "not_ready", reason=self.core.ready())
            was = now
            await self._health.set_one(ALL_WORKERS, all(session.ready for session in self._workers.sessions))
            await self._workers.changed()

    async def _drain(self, shutdown: Shutdown) -> None:
        self.core.announce_drain()
        await self._health.set(False)
        if shutdown.drain.is_set():
            # Tells load balancers to send no more requests; those that still come are answered.
            await shutdown.notice(self._config.drain_notice_s)
        if self._http is not None:
            await self._http.stop_listening()
        # Tells gRPC clients to send their next calls elsewhere; running calls go on.
        stopping = asyncio.ensure_future(self._server.stop(self._config.drain_timeout_s))
        try:
            if shutdown.drain.is_set():
                # A request that is on its way over a connection kept open is answered, not cut off.
                await shutdown.notice(_ARRIVING_S)
            if self._http is not None:
                self._http.close_idle()
            if not await shutdown.drained(self._all_answered(), self._config.drain_timeout_s):
                _log.warning("drain_cut_short")
                self.core.drain()
                self.core.cancel_all()
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _all_answered(self) -> None:
        """Returns when every request that had come is answered; refuses new ones once no more of those are arriving."""
        if self._http is not None:
            await self._http.all_received()
        self.core.drain()
        await self.core.wait_idle()


def _similar_prompts(store: SharedStore, config: CacheConfig) -> SimilarPrompts | None:
    """Raises ConfigError."""
    if config.similar.embedder == "none" and config.similar.mode == "off":
        return None
    # They bring numpy, with its threads and memory, which other routers do without.
    from qwenserve.router.answers.embedders import open_embedder
    from qwenserve.router.answers.similar import SimilarPrompts

    embedder = open_embedder(config.similar)
    return None if embedder is None else SimilarPrompts(store, embedder, config)


async def serve(config: Config, model_path: Path, *, share_ports: bool = False) -> int:
    """Runs a router until a signal. Returns the exit code."""
    shutdown = Shutdown()
    with shutdown.on_signals():
        model = await asyncio.to_thread(ServedModel.load, model_path, config)
        router = Router(config, model, share_ports=share_ports)
        poll_as_batch()
        freeze_loaded_objects()
        async with router.serving(shutdown):
            _log.info(
                "serving",
                http_port=router.http_port,
                grpc_port=router.grpc_port,
                model=config.model_name,
                workers=list(config.worker_addresses),
                store=bool(config.store.url),
            )
            await shutdown.drain.wait()
            _log.info("draining")
    _log.info("stopped")
    return shutdown.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until told to stop; returns the exit code."""

    use_one_malloc_arena()

    async def start(config: Config, arguments: argparse.Namespace) -> int:
        path = Path(config.model.reference).expanduser()
        try:
            return await serve(config, path, share_ports=arguments.share_ports)
        except AssetError as error:
            raise ConfigError(f"model.reference: {error}") from None

    share = ("--share-ports", "let other routers listen on the same ports")
    return run_tier("router", start, argv, flags=[share])
