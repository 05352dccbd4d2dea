"""This process as one rank of several: joining the others, and leaving them in a bounded time whatever they do.

MPI starts the ranks, numbers them, hands round where rank 0's link listens, and ends all of them when one gives up.
What they compute with (gloo, NCCL) meets at `Ranks.meeting_point`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from qwenserve.runtime.config import MpiConfig
from qwenserve.runtime.logs import EventLog, flush_logs
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.mpi.command_line import JOB_VARIABLE
from qwenserve.worker.mpi.job import JobDirectory
from qwenserve.worker.mpi.link import Hub, Patience, RankLost, Spoke

_log = EventLog("mpi")

_LOOPBACK = "127.0.0.1"
# From a rank's loss to the end of this process, whatever is in its way.
_LAST_RESORT_S = 5.0
# For MPI to come to an end with all ranks, or to end them.
_FINALIZE_S = 5.0
_ABORT_S = 2.0


def is_rank(environment: Mapping[str, str], config: MpiConfig) -> bool:
    """Whether this process is a rank already, and not the one that starts them."""
    return JOB_VARIABLE in environment or config.launcher == "none"


class Ranks(NamedTuple):
    """This rank and its link: `hub` at rank 0, `spoke` elsewhere. `local_rank` counts on this machine."""

    rank: int
    size: int
    local_rank: int
    meeting_point: tuple[str, int]
    job: JobDirectory | None
    hub: Hub | None
    spoke: Spoke | None
    world: Any


class StartDeadline:
    """Ends this process where the start takes too long, with what it was waiting for."""

    def __init__(self, seconds: float) -> None:
        self.stage = "MPI to come up"
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """The start is over."""
        self._timer.cancel()

    def _expire(self) -> None:
        remedy = "look at the other ranks' log lines, or raise worker.mpi.start_timeout_s"
        _log.error("ranks_not_started", waited_s=self._seconds, waiting_for=self.stage, remedy=remedy)
        leave_at_once(1)


def join(config: MpiConfig, deadline: StartDeadline) -> Ranks:
    """Becomes a rank. Blocks. Raises EngineError."""
    path = _job_path()
    job = JobDirectory(path) if path is not None else None
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # `leave` does it, in a bounded time
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise EngineError(
            f"worker.mpi.ranks needs mpi4py and an MPI library: install qwenserve[mpi] ({error})"
        ) from None
    world = MPI.COMM_WORLD
    if world.size != config.ranks:
        raise EngineError(f"{world.size} ranks were started, worker.mpi.ranks says {config.ranks}; make them the same")
    if world.rank == 0 and job is not None:
        job.note("pid", os.getpid())
    deadline.stage = "the other ranks' first words"
    patience = Patience(config.silence_timeout_s, config.loss_timeout_s)
    machines = world.allgather(MPI.Get_processor_name())
    local_rank = machines[: world.rank].count(machines[world.rank])
    one_machine = len(set(machines)) == 1
    host = _LOOPBACK if one_machine else ""
    if world.rank == 0:
        secret = secrets.token_bytes(32)
        hub = Hub(world.size, secret, patience, host)
        reachable = host or socket.gethostname()
        meeting_point = (reachable, _free_port(host))
        world.bcast((reachable, hub.port, secret, meeting_point), root=0)
        deadline.stage = "every rank's connection"
        try:
            hub.wait_for_all(config.start_timeout_s)
        except RankLost as lost:
            raise EngineError(str(lost)) from None
        return Ranks(0, world.size, local_rank, meeting_point, job, hub, None, world)
    reachable, port, secret, meeting_point = world.bcast(None, root=0)
    spoke = Spoke((reachable, port), world.rank, secret, patience)
    spoke.on_lost = _follow_to_the_end
    return Ranks(world.rank, world.size, local_rank, meeting_point, job, None, spoke, world)


def _job_path() -> Path | None:
    path = os.environ.get(JOB_VARIABLE, "")
    return Path(path) if path.startswith("/") else None


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _follow_to_the_end(reason: str) -> None:
    _log.error("rank_ends", reason=reason)
    leave_at_once(1)


def last_resort() -> None:
    """Sees to it that this process ends soon, even if what it waits for never comes."""
    timer = threading.Timer(_LAST_RESORT_S, leave_at_once, (1,))
    timer.daemon = True
    timer.start()


def leave(ranks: Ranks, code: int) -> NoReturn:
    """Ends this process, all ranks together: in order where `code` is 0, by force otherwise."""
    if ranks.hub is not None:
        ranks.hub.close(farewell=code == 0)
        if ranks.hub.lost:
            code = code or 1
    if ranks.spoke is not None:
        ranks.spoke.close()
    with _at_most(_FINALIZE_S if code == 0 else _ABORT_S, ranks, code or 1):
        if code == 0:
            from mpi4py import MPI

            MPI.Finalize()
            _note_code(ranks, 0)
        else:
            _note_code(ranks, code)
            ranks.world.Abort(code)
    leave_at_once(code)


@contextlib.contextmanager
def _at_most(seconds: float, ranks: Ranks, code: int) -> Iterator[None]:
    def give_up() -> None:
        _note_code(ranks, code)
        leave_at_once(code)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


def _note_code(ranks: Ranks, code: int) -> None:
    if ranks.rank == 0 and ranks.job is not None:
        ranks.job.note("code", code)


def leave_at_once(code: int) -> NoReturn:
    """Ends this process without waiting for anything."""
    with contextlib.suppress(Exception):
        flush_logs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
