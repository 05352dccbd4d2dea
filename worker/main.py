"""The worker's process: `qwenserve worker [--config FILE] [--set KEY=VALUE …]`.

Its life: listen (health says NOT_SERVING), start the engine, serve, and at the first signal say NOT_SERVING again, take
requests for `drain_notice_s` more, and drain: requests under way go on, new ones are refused. The second signal, or
`drain_timeout_s`, ends what is left. When the engine dies, the same steps follow without the waiting, and the exit
code is 1.

With `worker.mpi.ranks` above 1 the same command starts the ranks and waits for them (`mpi.launcher`). Each of those
runs this module again: rank 0 serves, the others compute with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

from qwenserve.runtime.config import Config
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_setup import Health, listen, make_server
from qwenserve.runtime.lifecycle import Shutdown, TaskOwner, freeze_loaded_objects, on_signals
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics_port import metrics_port
from qwenserve.runtime.process import parse_setting, run_tier
from qwenserve.runtime.trust import Trust
from qwenserve.store.opening import open_store
from qwenserve.worker.announce import announced
from qwenserve.worker.dispatch import Dispatcher, DispatchLimits
from qwenserve.worker.engine_choice import BuiltEngine, build_engine, engine_settings, follow_engine, rank_style
from qwenserve.worker.engine_interface import EngineError, EngineInfo
from qwenserve.worker.metrics import WorkerMetrics
from qwenserve.worker.model_check import stored, to_wire
from qwenserve.worker.mpi.command_line import Style
from qwenserve.worker.mpi.launcher import launch_of, run_job, shown
from qwenserve.worker.mpi.rank_watch import RankWatch
from qwenserve.worker.mpi.ranks import Ranks, StartDeadline, is_rank, join, leave
from qwenserve.worker.service import SERVICE_NAME, WorkerIdentity, WorkerService
from qwenserve.worker.stall_watch import StallWatch
from qwenserve.worker.v1 import worker_pb2_grpc

_log = EventLog("worker")

# After the drain: for sessions to send what is left, and for the engine to stop.
_LAST_WORDS_S = 2.0
_ENGINE_STOP_S = 70.0

T = TypeVar("T")


_FLAGS = (("--dry-run", "print the mpirun command line for worker.mpi.ranks, and start nothing"),)
_SHORTCUTS = (
    ("--mpi-np", "N", "worker.mpi.ranks", "compute in N processes started by MPI; sets worker.mpi.ranks"),
    ("--hostfile", "FILE", "worker.mpi.hostfile", "machines to start them on; sets worker.mpi.hostfile"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until told to stop; returns the exit code."""
    joined: list[Ranks] = []
    code = run_tier(
        "worker",
        lambda config, arguments: _run(config, arguments, joined),
        argv,
        flags=_FLAGS,
        shortcuts=_SHORTCUTS,
        engines=engine_settings(),
    )
    for ranks in joined:
        leave(ranks, code)
    return code


async def _run(config: Config, arguments: argparse.Namespace, joined: list[Ranks]) -> int:
    """Runs a worker, starts its ranks, or is one of them."""
    try:
        if config.worker.mpi.ranks == 1:
            if arguments.dry_run:
                raise EngineError("--dry-run shows what starts MPI ranks, and worker.mpi.ranks is 1; add --mpi-np N")
            return await run_worker(config)
        style = rank_style(config)
        if is_rank(os.environ, config.worker.mpi):
            return await _run_rank(config, style, joined)
        launch = launch_of(config, style, arguments.config)
        settings = dict(map(parse_setting, arguments.set))
        if arguments.dry_run:
            sys.stdout.write(shown(launch, settings) + "\n")
            return 0
        return await run_job(launch, settings, config)
    except EngineError as error:
        _log.error("engine_not_started", engine=config.worker.engine, reason=str(error))
        return 1


async def _run_rank(config: Config, style: Style, joined: list[Ranks]) -> int:
    if style is Style.TRTLLM:
        return await run_worker(config)
    deadline = StartDeadline(config.worker.mpi.start_timeout_s)
    ranks = join(config.worker.mpi, deadline)
    joined.append(ranks)
    if ranks.spoke is not None:
        deadline.met()  # rank 0 has one for all of them, and they end when it does
        # A drain is rank 0's affair, and these are needed in it.
        with on_signals(lambda _: None, signal.SIGTERM, signal.SIGINT):
            return await _follow(config, ranks)
    deadline.stage = "all ranks to load the model"

    def ready(port: int) -> None:
        deadline.met()
        if ranks.job is not None:
            ranks.job.note("ready", port)

    return await run_worker(config, ranks=ranks, on_ready=ready)


async def _follow(config: Config, ranks: Ranks) -> int:
    assert ranks.spoke is not None
    try:
        await _in_thread(lambda: follow_engine(config, ranks))
    except EngineError as error:
        _log.error("rank_failed", rank=ranks.rank, reason=str(error))
        ranks.spoke.answer({"failed": str(error)})
        while ranks.spoke.listen() is not None:  # rank 0 tells why before it ends all
            pass
        return 1
    return 0


async def run_worker(
    config: Config,
    *,
    shutdown: Shutdown | None = None,
    built: BuiltEngine | None = None,
    on_ready: Callable[[int], None] | None = None,
    ranks: Ranks | None = None,
) -> int:
    """Serves until `shutdown` (by default: signals) asks for a drain, or the engine dies. Returns the exit code.

    `built` replaces the configured engine; `on_ready` gets the port once requests are taken; `ranks` are those that
    compute with this process. Without `shutdown` the process is the worker's own, and its memory settled for it.
    """
    if shutdown is not None:
        return await _Worker(config, shutdown, ranks).run(built, on_ready)
    shutdown = Shutdown()
    with shutdown.on_signals():
        return await _Worker(config, shutdown, ranks, settle=freeze_loaded_objects).run(built, on_ready)


class _Worker:
    def __init__(
        self, config: Config, shutdown: Shutdown, ranks: Ranks | None, settle: Callable[[], object] | None = None
    ) -> None:
        """`settle` is called when the model is loaded, before the first request."""
        self._ranks = ranks
        self._settle = settle
        self._config = config
        self._shutdown = shutdown
        self._trust = trust = Trust.from_config(config)
        trust.check_listening(config.worker.host, "worker.host")
        self._service = WorkerService()
        self._server: grpc.aio.Server = make_server(config.grpc, trust=trust)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self._service, self._server)
        self._health = Health(self._server, [SERVICE_NAME])
        self._metrics = WorkerMetrics(config.worker.name)
        # A store that only this process sees needs no announcement.
        self._store = open_store(config.store) if config.store.url else None
        self._log = _log.bind(worker=config.worker.name)

    async def run(self, built: BuiltEngine | None, on_ready: Callable[[int], None] | None) -> int:
        settings = self._config.worker
        address = f"{settings.host}:{settings.port}"
        try:
            port = listen(self._server, address, self._trust.certificate)
        except RuntimeError:
            self._log.error("port_taken", address=address, remedy="stop what listens there, or set worker.port")
            return 1
        await self._health.set(False)
        await self._server.start()
        try:
            async with (
                self._health.apart(self._config.health_port),
                metrics_port(self._config, self._metrics.registry),
            ):
                return await self._with_engine(built, port, on_ready)
        except EngineError as error:
            self._log.error("engine_not_started", engine=settings.engine, reason=str(error))
            return 1
        finally:
            await self._server.stop(None)
            if self._store is not None:
                await self._store.close()

    async def _with_engine(self, built: BuiltEngine | None, port: int, on_ready: Callable[[int], None] | None) -> int:
        settings = self._config.worker
        limits = DispatchLimits(
            settings.max_running,
            settings.max_queued,
            settings.max_queued_tokens,
            settings.request_buffer_bytes,
            settings.session_buffer_bytes,
        )
        dispatcher: Dispatcher | None = None

        def died(error: EngineError) -> None:
            if dispatcher is not None:
                dispatcher.fail(error)
            else:
                self._log.error("engine_died", error=str(error))
            self._shutdown.fail(1)

        # From the beginning: a rank that is lost ends the loading too.
        watch = RankWatch(self._ranks.hub, self._ranks.job, died) if self._ranks and self._ranks.hub else None
        tasks = TaskOwner()
        if watch is not None:
            tasks.start(watch.run(), name="rank watch")
        try:
            if built is None:
                built = await self._unless_told_to_stop(_in_thread(lambda: build_engine(self._config, self._ranks)))
                if built is None:
                    return self._shutdown.exit_code
            dispatcher = Dispatcher(built.engine, limits, self._metrics)
            self._metrics.watch(dispatcher)
            built.engine.pace_with(dispatcher.room)
            try:
                info = await self._unless_told_to_stop(built.engine.start(dispatcher.deliver, died))
                if info is not None:
                    if watch is not None:
                        watch.serve(dispatcher, self._health.set)
                    await self._serve(dispatcher, info, built.model_fingerprint, port, on_ready)
            finally:
                await self._stop_engine(built)
        finally:
            await tasks.close()
        return self._shutdown.exit_code

    async def _serve(
        self,
        dispatcher: Dispatcher,
        info: EngineInfo,
        fingerprint: str,
        port: int,
        on_ready: Callable[[int], None] | None,
    ) -> None:
        settings = self._config.worker
        dispatcher.started(info)
        found = stored(Path(self._config.model.reference).expanduser(), fingerprint) if fingerprint else None
        check = to_wire(found) if found is not None else None
        identity = WorkerIdentity(
            settings.name,
            self._config.model_name,
            fingerprint,
            settings.max_queued,
            check,
            settings.engine_settings.get(settings.engine, {}),
        )
        self._service.ready(dispatcher, info, identity)
        if self._settle is not None:
            self._settle()
        await self._health.set(True)
        self._log.info("ready", host=settings.host, port=port, engine=info.name, simulated=info.simulated)
        if on_ready is not None:
            on_ready(port)
        tasks = TaskOwner()
        tasks.start(StallWatch(dispatcher, settings.stall_timeout_s, self._health.set).run(), name="stall watch")
        async with announced(self._store, self._config, port, self._service.describe) as told_anew:
            await self._shutdown.drain.wait()
            await tasks.close()
            await self._health.set(False)
            if not dispatcher.draining:  # an engine that died takes nothing more anyway
                await self._shutdown.notice(self._config.drain_notice_s)
            dispatcher.drain()
            told_anew()
            drained = await self._shutdown.drained(dispatcher.idle(), self._config.drain_timeout_s)
        if not drained:
            self._log.warning("drain_cut_short")
            dispatcher.abort_all()
        dispatcher.end_sessions()
        await self._shutdown.drained(dispatcher.sessions_closed(), _LAST_WORDS_S)
        await self._server.stop(_LAST_WORDS_S)
        self._log.info("stopped", drained=drained)

    async def _unless_told_to_stop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Returns the result of `work`, or None when a signal came first."""
        task = asyncio.ensure_future(work)
        told = asyncio.ensure_future(self._shutdown.drain.wait())
        try:
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            told.cancel()
            await asyncio.wait({task, told})

    async def _stop_engine(self, built: BuiltEngine) -> None:
        try:
            await within(_ENGINE_STOP_S, built.engine.stop())
        except asyncio.TimeoutError:
            self._log.error("engine_not_stopped", waited_s=_ENGINE_STOP_S)
            self._shutdown.exit_code = self._shutdown.exit_code or 1


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread, which is not joined at exit: a download must not delay a stop."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def hand_over(value: T | None, error: Exception | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(cast(T, value))

    def thread() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(hand_over, value, error)

    threading.Thread(target=thread, name="build-engine", daemon=True).start()
    return await result
