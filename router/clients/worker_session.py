"""One token session to one worker: packed messages both ways, redialled when it breaks.

Requests are plain method calls here: `submit` and `abort` note what to send and return; one writer task sends
whatever has been noted since its last write, one reader task hands every message's tokens to their streams
directly, without waking a task per stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from qwenserve.router.clients.logprobs import unpacked_run
from qwenserve.router.clients.reuse_counts import ReuseCounts
from qwenserve.router.routing.requirements import Capabilities
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.errors import ServiceError, WorkerLost
from qwenserve.runtime.grpc_setup import from_rpc_error, make_channel, raise_status, run_until_one_ends
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.runtime.trust import OPEN, Trust
from qwenserve.type.v1 import guide_pb2, sampling_pb2
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

_log = EventLog("session")

_CONNECT_TIMEOUT_S = 5.0
# Small on purpose: what does not fit waits in the worker, where the tokens of several steps merge into one message.
# With gRPC's own window a busy router gets every step as a message of its own, and pays for each.
_RECEIVE_WINDOW = 4096
# Pauses between attempts to connect. They stay short for half a minute, in which a worker is restarted and answers wait
# for it: one that comes back for a moment only must be found in that moment.
_RETRY_S = (0.1, 0.2, *[0.5] * 60, 1.0, 2.0)
# A connection that held for so long shows that the worker is well.
_HELD_S = 2.0
# Prompt ids in one message, at most 1 MB: many long prompts at once must not make one beyond the transport's limit.
_MESSAGE_IDS = 262_144
# Most bytes of an id of a prompt, with room for what goes with the prompt.
_ID_BYTES = 8
# How often an idle session asks for a load stamp. Stamps come with messages; without messages a router would not
# learn of other routers' requests.
_STAMP_AGE_S = 1.0
_MAX_UINT32 = 0xFFFFFFFF
# How many checks there are in the time after which a worker counts as stalled.
_LOOKS = 8


class TokenStream(Protocol):
    """Receives what a worker does for one request. Called on the event loop; must not raise."""

    @property
    def last_token(self) -> float:
        """When its last token came, on `time.monotonic()`'s clock; 0 before the first."""

    def token(self, token_id: int, now: float) -> None:
        """Takes one new token id that has no log-probabilities: most deliveries. `now` is when its message was read,
        on `time.monotonic()`'s clock.
        """

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        """Takes new token ids, and their log-probabilities if asked for."""

    def finishing(self, finish: worker_pb2.Finish) -> None:
        """The message being read ends the request: `finished` follows, with the same finish, what it brings now."""

    def finished(self, finish: worker_pb2.Finish) -> None:
        """The worker ended the request; nothing follows."""

    def lost(self, error: ServiceError) -> None:
        """The session broke; nothing follows."""


class PromptLogprobStream(Protocol):
    """Receives the log-probabilities of a prompt, before the first token. Called on the event loop."""

    @property
    def top(self) -> int:
        """How many alternatives each has."""

    @property
    def complete(self) -> bool:
        """Whether all have come."""

    def restart(self) -> None:
        """They come again from the beginning."""

    def take(self, run: worker_pb2.PromptLogprobRun) -> None:
        """Takes the next ones. Raises WorkerLost for what breaks the protocol."""


class WorkerSession:
    """The router's side of one worker's session. `run` keeps it connected until cancelled."""

    def __init__(
        self,
        address: str,
        config: GrpcConfig,
        on_change: Callable[[], None],
        *,
        why_not: Callable[[worker_pb2.WorkerInfo], str] = lambda _: "",
        stall_timeout_s: float = 20.0,
        trust: Trust = OPEN,
        on_cache_news: Callable[[str, worker_pb2.CacheNews], None] | None = None,
        reuse: ReuseCounts | None = None,
    ) -> None:
        """`why_not` says why a worker must not be used, or returns an empty text. A worker that says nothing for
        `stall_timeout_s`, or has work and makes no engine step for as long, is treated as lost. `on_cache_news` gets
        the address and what the prefix cache holds, without gaps, once `follow_cache` was called. `reuse` counts what
        became of what was expected of it.
        """
        self.address = address
        self.info: worker_pb2.WorkerInfo | None = None
        self.capabilities = Capabilities("", 0, 0)
        self.load = worker_pb2.Load()
        # Of prompts that were submitted, and not read by the worker when it made the last load stamp, the tokens that
        # it has to compute: the stamp does not count them.
        self.unread_tokens = 0
        self._unread: deque[tuple[int, int]] = deque()
        self.draining = False
        # Set when no more requests are to come: `run` returns after the last one here has ended.
        self.leaving = False
        # Whether an attempt to connect has succeeded or failed.
        self.tried = False
        # Why it takes no requests, where it is not connected.
        self._error = "not connected yet"
        self._stall_timeout_s = stall_timeout_s
        # Process and step count of a worker that was seen with work and without progress.
        self._stuck: tuple[int, int] | None = None
        self._config = config
        self._trust = trust
        self._on_change = on_change
        self._why_not = why_not
        self._connected = False
        self._connections = 0
        self._streams: dict[int, TokenStream] = {}
        # Of the few requests that asked for their prompts' log-probabilities and have no first token yet.
        self._prompt_streams: dict[int, PromptLogprobStream] = {}
        self._next_handle = 1
        # Messages to write; the last one is being filled.
        self._outbox: list[worker_pb2.SessionRequest] = []
        self._outbox_ids = 0
        self._message_ids = min(_MESSAGE_IDS, config.max_message_bytes // _ID_BYTES)
        self._wake = asyncio.Event()
        self._heard = False
        self._on_cache_news = on_cache_news
        self._follows_cache = False
        # The number that the next news must have; None where none is expected, or a beginning was asked for.
        self._next_news = 0
        self._reuse = reuse
        # Cached tokens that are expected of the submit to come, and of those under way with their prompts' lengths.
        self._expected: int | None = None
        self._expectations: dict[int, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        """The worker's name, or its address while nothing is known of it."""
        return self.info.name if self.info is not None else self.address

    @property
    def ready(self) -> bool:
        """Whether it takes requests now."""
        return self._connected and not self.draining and not self.leaving

    @property
    def why_not_ready(self) -> str:
        """Why it takes no requests; empty where it does."""
        if self.ready:
            return ""
        return self._error if not self._connected else "it drains" if self.draining else "it leaves"

    @property
    def counts_from_offset(self) -> bool:
        """Whether its engine counts penalties of an answer that goes on from where the answer began."""
        return self.info is None or "answer_offset" not in self.info.approximate_fields

    @property
    def unread_requests(self) -> int:
        """Requests that the last load stamp does not count, because the worker had not read them."""
        return len(self._unread)

    @property
    def connection(self) -> int:
        """The number of the connection that stands, from 1; 0 while none does. A new number means that all that the
        worker had of ours was lost."""
        return self._connections if self._connected else 0

    @property
    def connections(self) -> int:
        """Connections so far, the one that stands included."""
        return self._connections

    @property
    def active(self) -> int:
        """Requests of ours that have not ended."""
        return len(self._streams)

    def submit(
        self,
        stream: TokenStream,
        prompt_token_ids: Sequence[int],
        sampling: sampling_pb2.SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        deadline: float | None = None,
        cache_salt: str = "",
        answer_offset: int | None = None,
        prompt_logprobs: PromptLogprobStream | None = None,
        guide: guide_pb2.Guide | None = None,
        guide_offset: int | None = None,
        traceparent: str = "",
    ) -> int:
        """Sends a request; its tokens go to `stream`. Returns the handle. Raises WorkerLost when not connected.

        `answer_offset`: where in the prompt's ids an answer that goes on began; None for one that begins.
        `guide_offset`: where in them what `guide` binds began; None: where the answer did. `traceparent` is for engines
        that trace by themselves.
        """
        if not self._connected:
            raise WorkerLost(f"worker {self.name} is not connected")
        handle = self._next_handle
        self._next_handle = handle % _MAX_UINT32 + 1
        # At least 1: 0 would read as "no deadline".
        left_ms = 0 if deadline is None else max(1, int((deadline - time.monotonic()) * 1000))
        length = len(prompt_token_ids)
        submit = self._message(length).submits.add(
            handle=handle,
            prompt_token_ids=packed_ids(prompt_token_ids),
            sampling=sampling,
            request_id=request_id,
            deadline_ms=min(left_ms, _MAX_UINT32),
        )
        # Few have any of these, and each costs as much to leave unset by name.
        if priority:
            submit.priority = priority
        if cache_salt:
            submit.cache_salt = cache_salt
        if answer_offset is not None:
            submit.answer_offset = answer_offset
        if guide is not None:
            submit.guide.CopyFrom(guide)
        if guide_offset is not None:
            submit.guide_offset = guide_offset
        if traceparent:
            submit.traceparent = traceparent
        if prompt_logprobs is not None:
            submit.prompt_logprobs = prompt_logprobs.top
            self._prompt_streams[handle] = prompt_logprobs
        self._streams[handle] = stream
        expected, self._expected = self._expected, None
        to_compute = length
        if expected is not None and prompt_logprobs is None:  # which saves nothing of what is cached
            self._expectations[handle] = (expected, length)
            if expected:
                submit.expected_cached_tokens = expected
                to_compute -= expected
        self._unread.append((handle, to_compute))
        self.unread_tokens += to_compute
        self._wake.set()
        return handle

    def expect(self, cached_tokens: int) -> None:
        """So many tokens of the prompt that is submitted next are expected to be in the worker's cache."""
        self._expected = cached_tokens

    def follow_cache(self) -> None:
        """Asks to be told what the worker's prefix cache holds, on this connection and all later ones."""
        if self._on_cache_news is not None and not self._follows_cache:
            self._follows_cache = True
            if self._connected:
                self._ask_for_cache()

    def abort(self, handle: int) -> None:
        """Asks the worker to stop; `finished` still follows unless `forget` is called too."""
        if handle in self._streams and self._connected:
            self._message().aborts.append(handle)
            self._wake.set()

    def forget(self, handle: int) -> None:
        """Stops deliveries to a stream."""
        self._streams.pop(handle, None)
        self._prompt_streams.pop(handle, None)
        self._expectations.pop(handle, None)

    async def run(self) -> None:
        """Connects, and again after every break, until cancelled, or until the last request of one that is leaving has
        ended.
        """
        attempt = 0
        while True:
            # A channel keeps the certificate that it was made with.
            version = self._trust.version
            async with make_channel(
                self.address, self._config, receive_window=_RECEIVE_WINDOW, trust=self._trust
            ) as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                while version == self._trust.version:
                    attempt = await self._once(stub, attempt)
                    if self.leaving:
                        return
                    await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                    attempt += 1

    async def _once(self, stub: Any, attempt: int) -> int:
        """Serves one connection until it breaks. Returns how many attempts there were since one that held."""
        began = time.monotonic()
        error = await self._serve_until_broken(stub)
        self.tried = True
        self._error = error.message
        if time.monotonic() - began > _HELD_S:
            attempt = 0
        was_connected = self.info is not None
        if attempt == 0 or self._streams:
            event = "worker_lost" if was_connected else "worker_not_reached"
            _log.warning(event, worker=self.name, address=self.address, error=error.message)
        self._drop(error)
        return attempt

    async def _serve_until_broken(self, stub: Any) -> ServiceError:
        """Returns why the session ended. Raises nothing: a defect must not leave this worker unused for ever."""
        try:
            try:
                await self._serve(stub)
            except grpc.aio.AioRpcError as failure:
                return from_rpc_error(failure)
            return WorkerLost(f"worker {self.name} ended the session")
        except ServiceError as failure:
            return failure
        except Exception as defect:
            _log.error("session_failed", worker=self.name, exc_info=defect)
            return WorkerLost(f"session with worker {self.name} failed")
        finally:
            self._connected = False

    async def _serve(self, stub: Any) -> None:
        metadata = self._trust.metadata
        info = await stub.GetWorkerInfo(
            worker_pb2.GetWorkerInfoRequest(), timeout=_CONNECT_TIMEOUT_S, metadata=metadata
        )
        if reason := self._why_not(info):
            raise WorkerLost(f"worker {info.name} cannot be used: {reason}")
        call = stub.Session(metadata=metadata)
        try:
            # The first answer shows that the session really stands.
            await within(_CONNECT_TIMEOUT_S, call.write(worker_pb2.SessionRequest(ping=True)))
            first = await within(_CONNECT_TIMEOUT_S, call.read())
            if first is grpc.aio.EOF:
                await raise_status(call)
                return
            if (info.pid, first.load.steps) == self._stuck and (first.load.running or first.load.queued):
                raise WorkerLost(f"worker {info.name} has made no engine step since it was given up; restart it")
            self._stuck = None
            self._outbox, self._outbox_ids = [], 0
            self._wake.clear()
            self.info = info
            self.capabilities = _capabilities(info)
            self.draining = info.draining
            self._connected = self.tried = True
            self._connections += 1
            self._next_news = 0
            if self._follows_cache:
                self._ask_for_cache()
            self._dispatch(first)
            _log.info("worker_connected", worker=info.name, address=self.address, engine=info.engine, model=info.model)
            self._on_change()
            work = (self._read(call), self._write(call), self._watch())
            await run_until_one_ends(call, *work, name=f"session {self.address}")
        except asyncio.TimeoutError:
            raise WorkerLost(f"worker at {self.address} did not answer within {_CONNECT_TIMEOUT_S:.0f} s") from None
        finally:
            call.cancel()

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._dispatch(message)

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            messages, self._outbox, self._outbox_ids = self._outbox, [], 0
            for message in messages:
                await call.write(message)

    async def _watch(self) -> None:
        """Keeps the load fresh. Returns when a worker that is leaving has nothing of ours left. Raises WorkerLost for
        one that is stalled.

        Time is counted in checks, not on a clock: if this process itself was held up, the worker did not stand still.
        """
        look_s = min(_STAMP_AGE_S, self._stall_timeout_s / _LOOKS)
        silent_s = standing_s = 0.0
        while True:
            steps = self.load.steps
            self._heard = False
            await asyncio.sleep(look_s)
            if self.leaving and not self._streams:
                return
            busy = bool(self._streams) or self.load.running > 0 or self.load.queued > 0
            silent_s = 0.0 if self._heard else silent_s + look_s
            standing_s = 0.0 if not busy or self.load.steps != steps else standing_s + look_s
            if silent_s >= self._stall_timeout_s:
                raise WorkerLost(f"worker {self.name} has said nothing for {self._stall_timeout_s:g} s")
            if standing_s >= self._stall_timeout_s:
                if self._heard and self.info is not None:
                    self._stuck = (self.info.pid, self.load.steps)
                raise WorkerLost(
                    f"worker {self.name} has requests and made no engine step for {self._stall_timeout_s:g} s"
                )
            if not self._heard:
                self._message().ping = True
                self._wake.set()

    def _ask_for_cache(self) -> None:
        self._next_news = 0
        self._message().cache_news = True
        self._wake.set()

    def _take_cache_news(self, news: worker_pb2.CacheNews) -> None:
        if self._on_cache_news is None or (news.number and news.number != self._next_news):
            # Between a gap and the beginning that was asked for, what still comes is of no use.
            if self._next_news:
                _log.warning("cache_news_missed", worker=self.name, expected=self._next_news, got=news.number)
                self._ask_for_cache()
            return
        self._next_news = news.number + 1
        self._on_cache_news(self.address, news)

    def _message(self, prompt_ids: int = 0) -> worker_pb2.SessionRequest:
        """Returns the message being filled, or a new one where `prompt_ids` more would make it too long."""
        if not self._outbox or self._outbox_ids + prompt_ids > self._message_ids:
            self._outbox.append(worker_pb2.SessionRequest())
            self._outbox_ids = 0
        self._outbox_ids += prompt_ids
        return self._outbox[-1]

    def _dispatch(self, message: worker_pb2.SessionResponse) -> None:
        self._heard = True
        handles, counts, token_ids = message.handles, message.counts, message.token_ids
        if message.prompt_logprobs:
            self._dispatch_prompts(message)
        told = sum(counts) if counts else len(handles)
        if told != len(token_ids) or (counts and len(counts) != len(handles)):
            raise WorkerLost(f"worker {self.name} sent arrays that do not fit together")
        now = time.monotonic()
        streams = self._streams
        finishes = message.finishes
        for finish in finishes:
            stream = streams.get(finish.handle)
            if stream is not None:
                stream.finishing(finish)
        if not counts and not message.logprobs:
            # One token for each request: an engine step on a session that keeps up.
            for handle, token_id in zip(handles, token_ids):  # noqa: B905  # the lengths have been compared
                stream = streams.get(handle)
                if stream is not None:
                    stream.token(token_id, now)
        else:
            self._dispatch_runs(message, now)
        for finish in finishes:
            stream = streams.pop(finish.handle, None)
            if self._prompt_streams:
                self._prompt_streams.pop(finish.handle, None)
            expectation = self._expectations.pop(finish.handle, None)
            if expectation is not None and self._reuse is not None:
                self._reuse.note(*expectation, finish)
            if finish.error_reason == "DRAINING" and not self.draining:
                self.draining = True
                self._on_change()
            if stream is not None:
                stream.finished(finish)
        if message.HasField("cache"):
            self._take_cache_news(message.cache)
        if message.load.sequence >= self.load.sequence:
            self.load = message.load
            if self._unread:
                self._note_read(message.load.read_handle)

    def _note_read(self, read_handle: int) -> None:
        """Drops the submits that the worker has read from those that its stamps do not count yet. Handles are sent, and
        read, in order."""
        unread = self._unread
        if any(handle == read_handle for handle, _ in unread):
            handle = 0
            while handle != read_handle:
                handle, tokens = unread.popleft()
                self.unread_tokens -= tokens

    def _dispatch_prompts(self, message: worker_pb2.SessionResponse) -> None:
        for run in message.prompt_logprobs:
            stream = self._prompt_streams.get(run.handle)
            if stream is not None:
                stream.take(run)
                if stream.complete:
                    del self._prompt_streams[run.handle]

    def _dispatch_runs(self, message: worker_pb2.SessionResponse, now: float) -> None:
        logprobs = {run.handle: run for run in message.logprobs}
        token_ids = message.token_ids
        position = 0
        counts = message.counts or [1] * len(token_ids)
        for handle, count in zip(message.handles, counts):  # noqa: B905  # the lengths have been compared
            end = position + count
            stream = self._streams.get(handle)
            if stream is not None:
                ids, run = token_ids[position:end], logprobs.get(handle)
                stream.tokens(ids, unpacked_run(ids, run) if run is not None else (), now)
            position = end

    def _drop(self, error: ServiceError) -> None:
        # A restarted worker counts its stamps from the beginning.
        self.load = worker_pb2.Load()
        self._unread.clear()
        self.unread_tokens = 0
        streams, self._streams = self._streams, {}
        self._prompt_streams.clear()
        self._expectations.clear()
        self._expected = None
        self._on_change()
        lost = WorkerLost(f"worker {self.name} was lost: {error.message}")
        # Whoever has been silent for longest goes on first. In the order of their submission, the last ones would
        # be the last again where the next worker is lost, too, and might never get a token.
        for stream in sorted(streams.values(), key=_last_token):
            self._lose(stream, lost)

    def _lose(self, stream: TokenStream, lost: ServiceError) -> None:
        try:
            stream.lost(lost)
        except Exception as defect:  # one stream's defect must not keep the others waiting
            _log.error("stream_failed", worker=self.name, exc_info=defect)


def _last_token(stream: TokenStream) -> float:
    return stream.last_token


def _capabilities(info: worker_pb2.WorkerInfo) -> Capabilities:
    return Capabilities(
        info.engine,
        info.max_model_len,
        info.max_top_logprobs,
        frozenset(info.unsupported_fields),
        frozenset(info.guide_kinds),
    )
