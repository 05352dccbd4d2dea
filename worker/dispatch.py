"""Between sessions and the engine: which session asked for what, what runs, and why each request ends.

Everything here is synchronous and runs on the event loop that started the engine. A request is a `Flight` from its
submit to the engine's final chunk. Its session is told of the end at once (abort, deadline, drain, a dead engine); the
flight itself stays, without a session, until the engine has finished with it, because until then it holds a slot.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.runtime.deadlines import within
from qwenserve.runtime.drain_rate import DrainRate
from qwenserve.runtime.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidRequest,
    QueueFull,
    ServiceError,
    SlowReader,
    Unsupported,
    WorkerLost,
)
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.admission import Admission, Ticket, Verdict
from qwenserve.worker.cache_teller import CacheTeller
from qwenserve.worker.convert import Limits, failure_to_wire, finish_to_wire, request_from
from qwenserve.worker.engine_interface import (
    Chunk,
    Engine,
    EngineError,
    EngineInfo,
    EngineRefusal,
    EngineRequest,
    Finish,
)
from qwenserve.worker.load import LoadMeter
from qwenserve.worker.metrics import WorkerMetrics
from qwenserve.worker.router_session import Flight, Session
from qwenserve.worker.v1 import worker_pb2

_log = EventLog("worker")

# An engine whose steps take no time may be this many steps ahead of the writers; more would only merge messages.
_LEAD_STEPS = 4
_ROOM_LIMIT_S = 0.01
# Ends, refusals among them, that a caller may leave unread before the worker stops reading what it submits.
_UNREAD_ENDS = 4096


class DispatchLimits(NamedTuple):
    """Sizes of one worker.

    `max_queued_tokens` are of prompts that wait, 0 any number. `request_buffer_bytes` is what may wait for a slow
    reader of one request, `session_buffer_bytes` of all requests of a session; `write_limit_s` is how long one message
    may wait to be taken, however little is waiting behind it.
    """

    max_running: int
    max_queued: int
    max_queued_tokens: int = 0
    request_buffer_bytes: int = 4 << 20
    session_buffer_bytes: int = 64 << 20
    write_limit_s: float = 30.0


class Dispatcher:
    """Owns admission and the engine's requests. `deliver` and `fail` are what the engine is started with."""

    def __init__(self, engine: Engine, limits: DispatchLimits, metrics: WorkerMetrics | None = None) -> None:
        self._engine = engine
        self._limits = limits
        self._metrics = metrics or WorkerMetrics("")
        self._admission = Admission(limits.max_running, limits.max_queued, limits.max_queued_tokens)
        self._drain_rate = DrainRate()
        self.load = LoadMeter(engine, self._admission)
        self._request_limits: Limits | None = None
        self._flights: dict[int, Flight] = {}
        self._sessions: dict[int, Session] = {}
        self.cache = CacheTeller(engine, self._sessions.values)
        self._numbers = itertools.count(1)
        self._closed: ServiceError | None = None
        # The reason why no requests are accepted for now, if there is one.
        self._stalled: ServiceError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._progress = asyncio.Event()
        self.failed: EngineError | None = None

    def started(self, info: EngineInfo) -> None:
        """Takes requests from now on, within the engine's limits."""
        self._request_limits = Limits.of(info)
        self.cache.started(info)
        self._admission.max_running = min(self._limits.max_running, info.max_running)

    @property
    def max_running(self) -> int:
        """Most requests computed at a time."""
        return self._admission.max_running

    @property
    def write_limit_s(self) -> float:
        """How long one message may wait to be taken."""
        return self._limits.write_limit_s

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._closed is not None

    @property
    def serving(self) -> bool:
        """Whether requests are taken now."""
        return self._closed is None and self._stalled is None

    @property
    def open_sessions(self) -> int:
        """Callers that are connected."""
        return len(self._sessions)

    def load_now(self) -> worker_pb2.Load:
        """Returns the load without counting it as a stamp."""
        return self.load.now()

    def open_session(self) -> Session:
        """Returns a new session. Raises Unavailable when no requests are taken."""
        self._check_open()
        session = Session(next(self._numbers), self._limits.request_buffer_bytes)
        self._sessions[session.number] = session
        return session

    def close_session(self, session: Session) -> None:
        """Aborts everything that the session submitted and forgets it."""
        self._sessions.pop(session.number, None)
        for flight in list(session.flights.values()):
            self._detach(flight)
        self._start_waiting()
        self._progress.set()

    def submit(self, session: Session, submit: worker_pb2.Submit) -> None:
        """Takes, queues or rejects a request; a rejection is a finish. Raises InvalidRequest for a bad handle."""
        if session.failure is not None:
            return
        handle = submit.handle
        if not handle or handle in session.flights:
            what = "is in use" if handle else "must be 1 or more"
            raise InvalidRequest(f"submits.handle: {handle} {what}", param="submits.handle")
        session.read_handle = handle
        try:
            request = self._checked(submit)
        except ServiceError as error:
            self._reject(session, handle, error)
            return
        now = asyncio.get_running_loop().time()
        flight = Flight(request, session, handle, submit.request_id, now)
        deadline = now + submit.deadline_ms / 1000 if submit.deadline_ms else None
        ticket = Ticket(request.key, session.number, submit.priority, len(request.prompt_token_ids), deadline, now)
        offered = self._admission.offer(ticket)
        if offered.displaced is not None:
            self._give_up(self._flights[offered.displaced.key], self._queue_full())
        if offered.verdict is Verdict.REFUSE:
            self._reject(session, handle, self._queue_full())
            return
        self._flights[request.key] = flight
        session.flights[handle] = flight
        if submit.expected_cached_tokens:
            flight.expected_cached = min(submit.expected_cached_tokens, len(request.prompt_token_ids) - 1)
            self.load.expected_cached_tokens += flight.expected_cached
        self._idle.clear()
        if offered.verdict is Verdict.START:
            self._start(flight, now)
        if deadline is not None:
            self._set_timer()

    def abort(self, session: Session, handle: int) -> None:
        """Ends a request at its caller's wish. Unknown handles are ignored: the abort crossed a finish."""
        flight = session.flights.get(handle)
        if flight is not None:
            # What has not been sent yet is no longer wanted.
            session.packer.drop(handle)
            self._give_up(flight, None)
            self._start_waiting()

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """Takes one engine step's chunks: the hot path, once per token."""
        self.load.deliveries += 1
        self.cache.stepped()
        flights = self._flights
        touched: dict[Session, dict[int, Sequence[int]]] = {}
        last: Session | None = None
        ended = False
        for key, token_ids, logprobs, finish, prompt_logprobs in chunks:
            flight = flights.get(key)
            if flight is None:
                continue
            session = flight.session
            if session is not None:
                if session is not last:  # most workers have few sessions, and their requests lie together
                    last, plain = session, touched.setdefault(session, {})
                if prompt_logprobs:
                    session.packer.prompt_logprobs(flight.handle, prompt_logprobs)
                if token_ids:
                    if flight.prefilling:
                        self._prefill_done(flight)
                        if self.cache.guesses:
                            self.cache.computed(flight.request)
                        session.packer.first(flight.handle)
                    if logprobs is None:
                        plain[flight.handle] = token_ids
                    else:
                        session.packer.tokens(flight.handle, token_ids, logprobs)
            if finish is not None:
                self._finished(flight, finish)
                ended = True
        for session, plain in touched.items():
            session.steps += 1
            session.changed.set()
            packer = session.packer
            packer.step(plain)
            if packer.overfull or packer.waiting_bytes > self._limits.session_buffer_bytes:
                self._relieve(session)
        if ended:
            self._start_waiting()

    def fail(self, error: EngineError) -> None:
        """The engine is dead: ends every request and takes no more."""
        if self.failed is not None:
            return
        self.failed = error
        lost = WorkerLost(f"the engine died: {error}")
        self._closed = lost
        _log.error("engine_died", error=str(error), requests=len(self._flights))
        for flight in list(self._flights.values()):
            self._report(flight, lost)
            self._forget(flight)

    @property
    def computing(self) -> bool:
        """Whether the engine has something to do."""
        return self._admission.running > 0

    def stall(self, error: ServiceError) -> None:
        """The engine makes no steps: ends every session, so that routers use other workers, and accepts no requests."""
        self._stalled = error
        for session in list(self._sessions.values()):
            session.end(_fresh(error))

    def resume(self) -> None:
        """The engine makes steps again: requests are taken."""
        self._stalled = None

    def drain(self) -> None:
        """Takes no more requests; those here go on."""
        if self._closed is None:
            self._closed = Draining("the worker is draining; another one can take the request")

    def abort_all(self) -> None:
        """Ends every request that is left when the time to drain is over."""
        error = Draining("the worker stopped before the request ended; another one can continue it")
        for flight in list(self._flights.values()):
            self._give_up(flight, error)

    def end_sessions(self) -> None:
        """Ends every session, after what is waiting for it."""
        error = self._closed or Draining("the worker is stopping")
        for session in list(self._sessions.values()):
            session.end(_fresh(error))

    async def idle(self) -> None:
        """Returns when no request is left. The caller bounds the wait."""
        await self._idle.wait()

    async def sessions_closed(self) -> None:
        """Returns when every session has ended. The caller bounds the wait."""
        while self._sessions:
            self._progress.clear()
            await self._progress.wait()

    async def room(self) -> None:
        """Waits, for a bounded time, until no session lags far behind the engine's steps."""
        if all(session.steps <= _LEAD_STEPS for session in self._sessions.values()):
            return
        self._progress.clear()
        try:
            await within(_ROOM_LIMIT_S, self._progress.wait())
        except asyncio.TimeoutError:
            return

    async def fewer_ends(self, session: Session) -> None:
        """Waits while the caller has left so many ends unread that it must not submit more."""
        while session.packer.waiting_finishes > _UNREAD_ENDS and session.failure is None:
            self._progress.clear()
            await self._progress.wait()

    def take(self, session: Session) -> worker_pb2.SessionResponse | None:
        """Returns the session's next message, with the load of this moment, or None."""
        message = session.packer.take()
        if session.cache_due:
            message = self.cache.add_to(session, message)
        if message is None:
            return None
        session.steps = 0
        self._metrics.generated_tokens.inc(len(message.token_ids))
        self._progress.set()
        self.load.stamp(message.load, session.read_handle)
        return message

    def _check_open(self) -> None:
        if self._stalled is not None:
            raise _fresh(self._stalled)
        if self._closed is not None:
            raise _fresh(self._closed)

    def _checked(self, submit: worker_pb2.Submit) -> EngineRequest:
        self._check_open()
        limits = self._request_limits
        if limits is None:
            raise InternalError("the engine has not started")
        return request_from(submit, next(self._numbers), limits)

    def _queue_full(self) -> QueueFull:
        queued = self._admission.queued
        return QueueFull(
            f"{queued} requests with {self._admission.queued_prompt_tokens} prompt tokens are waiting, the most this"
            " worker takes",
            retry_after_s=self._drain_rate.wait_s(queued, asyncio.get_running_loop().time()),
        )

    def _reject(self, session: Session, handle: int, error: ServiceError) -> None:
        _log.debug("request_rejected", session=session.number, reason=error.reason)
        self._tell_end(session, failure_to_wire(handle, error))
        session.changed.set()

    def _tell_end(self, session: Session, finish: worker_pb2.Finish) -> None:
        self._metrics.ended(finish)
        session.packer.finish(finish)

    def _start(self, flight: Flight, now: float) -> None:
        flight.queue_us = int((now - flight.offered_at) * 1e6)
        try:
            self._engine.submit(flight.request)
        except EngineRefusal as refusal:
            kind = InvalidRequest if refusal.param else Unsupported
            self._give_up(flight, kind(str(refusal), param=refusal.param or None))
            return
        except Exception as defect:  # the engine's; it must not end the session too, or the engine's own step
            _log.error("submit_failed", request_id=flight.request_id, exc_info=defect)
            self._give_up(flight, InternalError("the engine could not take the request; the worker's log says why"))
            return
        flight.started = flight.prefilling = True
        self._metrics.queue.observe(flight.queue_us / 1e6)
        self._metrics.prompt_tokens.inc(len(flight.request.prompt_token_ids))
        self.load.prefill_tokens += len(flight.request.prompt_token_ids)

    def _start_waiting(self) -> None:
        if self.failed is not None:
            return
        now = asyncio.get_running_loop().time()
        while (ticket := self._admission.next_to_start(now)) is not None:
            self._drain_rate.started(now)
            flight = self._flights[ticket.key]
            if ticket.deadline is not None and ticket.deadline <= now:
                # Its deadline has passed, though the timer has not fired yet: nobody waits for its answer any more.
                self._give_up(flight, DeadlineExceeded("the request's deadline passed while it waited"))
            else:
                self._start(flight, now)

    def _finished(self, flight: Flight, finish: Finish) -> None:
        if finish.error:
            _log.warning("request_failed", request_id=flight.request_id, error=finish.error)
        else:
            _log.debug("request_ended", request_id=flight.request_id, reason=finish.reason.name)
        if flight.session is not None:
            self._tell_end(flight.session, finish_to_wire(flight.handle, finish, flight.queue_us))
        self._forget(flight)

    def _give_up(self, flight: Flight, error: ServiceError | None) -> None:
        """Ends a request from this side: its session hears of it now, the engine is asked to stop."""
        self._report(flight, error)
        self._detach(flight)

    def _report(self, flight: Flight, error: ServiceError | None) -> None:
        if flight.session is not None:
            self._tell_end(flight.session, failure_to_wire(flight.handle, error, flight.queue_us))
            flight.session.changed.set()

    def _detach(self, flight: Flight) -> None:
        """Takes a request from its session. One that has started stays here until the engine has finished with it."""
        if flight.session is not None:
            del flight.session.flights[flight.handle]
            flight.session = None
            if flight.started:
                self._engine.abort(flight.request.key)
        if not flight.started:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        key = flight.request.key
        if self._flights.pop(key, None) is None:
            return
        self._admission.remove(key)
        if flight.session is not None:
            del flight.session.flights[flight.handle]
            flight.session = None
        self._prefill_done(flight)
        self.load.expected_cached_tokens -= flight.expected_cached
        if not self._flights:
            self._idle.set()

    def _prefill_done(self, flight: Flight) -> None:
        if flight.prefilling:
            flight.prefilling = False
            self.load.prefill_tokens -= len(flight.request.prompt_token_ids)
            self.load.expected_cached_tokens -= flight.expected_cached
            flight.expected_cached = 0

    def _relieve(self, session: Session) -> None:
        """Ends the requests that have too much waiting, each alone; then, while the session as a whole has too much,
        those with the most.
        """
        packer, limits = session.packer, self._limits
        for handle in list(packer.overfull):
            self._end_unread(session, handle, limits.request_buffer_bytes)
        while packer.waiting_bytes > limits.session_buffer_bytes and (largest := packer.largest()) is not None:
            self._end_unread(session, largest, limits.session_buffer_bytes)

    def _end_unread(self, session: Session, handle: int, limit: int) -> None:
        flight = session.flights.get(handle)
        request_id = flight.request_id if flight is not None else ""
        _log.warning("slow_reader", session=session.number, request_id=request_id, limit_bytes=limit)
        error = SlowReader(f"more than {limit} bytes were waiting to be read")
        session.packer.drop(handle)
        if flight is not None:
            self._give_up(flight, error)
        else:
            self._tell_end(session, failure_to_wire(handle, error))

    def _set_timer(self) -> None:
        deadline = self._admission.next_deadline()
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        error = DeadlineExceeded("the request's deadline passed")
        for ticket in self._admission.expired(asyncio.get_running_loop().time()):
            self._give_up(self._flights[ticket.key], error)
        self._start_waiting()
        self._set_timer()


def _fresh(error: ServiceError) -> ServiceError:
    """Returns an equal error: one object raised for many callers would collect all their tracebacks."""
    return type(error)(error.message)
