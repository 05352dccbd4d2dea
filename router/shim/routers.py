"""The routers that a shim knows: which of them are ready, what each has to do, and the sessions to them.

A router is asked for its health once a second, over the same channel that its sessions use. Readiness follows the
answers; one that leaves a question unanswered for `router.stall_timeout_s` is given up with all that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.chat.v1 import chat_pb2_grpc
from qwenserve.router.shim.session import RouterSession
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import Config, ConfigError, ShimConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.errors import QueueFull, RouterLost, ServiceError
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.secret import Secret
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc

_log = EventLog("shim")

# Between two questions to a router that is ready, and to one that is not.
_LOOK_S = 1.0
_LOOK_AGAIN_S = 0.1
# Keys that have a session to one router at a time.
_MOST_SESSIONS = 256


class RouterLink:
    """One router. `ready`: it would take a request now; `state` is another number each time that it becomes so."""

    def __init__(
        self, address: str, config: Config, tls: ClientTls | None, tasks: TaskOwner, on_change: Callable[[], None]
    ) -> None:
        """Dials in plain text without `tls`, whose files have been found to be usable."""
        self.address = address
        self.ready = False
        self.state = 0
        self._silence_s = config.router.stall_timeout_s
        self._config = config.grpc
        self._tls = tls
        self._dial()
        self._tasks = tasks
        self._on_change = on_change
        self._look = asyncio.Event()
        self._sessions: OrderedDict[Secret, tuple[RouterSession, asyncio.Task[None]]] = OrderedDict()

    def _dial(self) -> None:
        credentials = None
        if self._tls is not None:
            self._stamp = self._tls.stamp()
            pair = self._tls.pair() or ()
            credentials = grpc.ssl_channel_credentials(self._tls.believed().encode() or None, *pair)
        self._channel = make_channel(self.address, self._config, credentials=credentials)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self.chats = chat_pb2_grpc.ChatServiceStub(self._channel)
        self.models = chat_pb2_grpc.ModelServiceStub(self._channel)
        self.tokenizer = tokenizer_pb2_grpc.TokenizerServiceStub(self._channel)

    @property
    def open(self) -> int:
        """Chats under way there, of this shim."""
        return sum(session.open for session, _ in self._sessions.values())

    def session(self, authorization: Secret) -> RouterSession:
        """Returns the session for a key. Raises QueueFull where too many keys have chats under way."""
        known = self._sessions.get(authorization)
        if known is not None:
            self._sessions.move_to_end(authorization)
            return known[0]
        if len(self._sessions) >= _MOST_SESSIONS:
            self._drop_idle_session()
        session = RouterSession(self.address, self.chats, authorization, self._session_ended)
        self._sessions[authorization] = session, self._tasks.start(session.run(), name=f"session {self.address}")
        return session

    async def follow(self) -> None:
        """Keeps `ready` true to the router, for good."""
        while True:
            self._look.clear()
            self._set(await self._asked())
            if not (self.ready or self.open):
                await self._take_new_certificates()
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_LOOK_S if self.ready else _LOOK_AGAIN_S, self._look.wait())

    async def close(self) -> None:
        """Closes the channel; the sessions belong to the owner of tasks."""
        await self._channel.close()

    async def _take_new_certificates(self) -> None:
        """Dials anew with files that have changed: a channel keeps those that it was made with."""
        if self._tls is None or self._tls.stamp() == self._stamp:
            return
        old = self._channel
        try:
            self._tls.context()  # half written, or the key of another certificate
            self._dial()
        except (ConfigError, OSError) as error:
            _log.warning("certificate_not_taken", reason=str(error))
        else:
            await old.close()

    async def _asked(self) -> bool:
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=self._silence_s)
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._give_up()
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _give_up(self) -> None:
        error = RouterLost(
            f"the router at {self.address} has said nothing for {self._silence_s:g} s", retry_after_s=1.0
        )
        for session, task in self._sessions.values():
            session.why_lost(error)
            task.cancel()

    def _set(self, ready: bool) -> None:
        if ready == self.ready:
            return
        self.ready = ready
        self.state += ready
        _log.info("router_ready" if ready else "router_not_ready", router=self.address)
        self._on_change()

    def _session_ended(self, session: RouterSession, error: ServiceError) -> None:
        known = self._sessions.get(session.authorization)
        if known is not None and known[0] is session:
            del self._sessions[session.authorization]
        if isinstance(error, RouterLost):
            # Whether it is there is asked at once; meanwhile others are taken.
            self._set(False)
            self._look.set()

    def _drop_idle_session(self) -> None:
        for authorization, (session, task) in self._sessions.items():
            if not session.open:
                del self._sessions[authorization]
                task.cancel()
                return
        raise QueueFull(f"{_MOST_SESSIONS} keys have chats under way here, the most at a time", retry_after_s=1.0)


class Routers:
    """All routers of a shim."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError for settings that cannot be used."""
        if not config.shim.routers:
            raise ConfigError("shim.routers: name one router or more, such as --router 127.0.0.1:50051")
        self._tasks = TaskOwner()
        self._wait_s = config.shim.router_wait_s
        self._changed = asyncio.Event()
        self._turn = 0
        tls = _tls(config.shim)
        self.links: Sequence[RouterLink] = [
            RouterLink(address, config, tls, self._tasks, self._note_change)
            for address in dict.fromkeys(config.shim.routers)
        ]

    @property
    def open(self) -> int:
        """Chats under way."""
        return sum(link.open for link in self.links)

    @property
    def ready(self) -> bool:
        """Whether a router would take a request."""
        return any(link.ready for link in self.links)

    def start(self) -> None:
        """Begins to follow the routers."""
        for link in self.links:
            self._tasks.start(link.follow(), name=f"router {link.address}")

    async def close(self) -> None:
        """Ends all sessions and channels."""
        await self._tasks.close()
        for link in self.links:
            await link.close()

    def choose(self, tried: frozenset[tuple[str, int]]) -> RouterLink | None:
        """Returns the ready router with the fewest chats under way, those with equally many in turn. `tried` are
        addresses and states of those that will not do; None: there is no other.
        """
        among = [link for link in self.links if link.ready and (link.address, link.state) not in tried]
        if not among:
            return None
        self._turn += 1
        least = min(link.open for link in among)
        free = [link for link in among if link.open == least]
        return free[self._turn % len(free)]

    async def until_other(self, tried: frozenset[tuple[str, int]], limit_s: float | None) -> RouterLink | None:
        """Waits for a router that has not been tried, as long as the configuration and `limit_s` allow."""

        async def look() -> RouterLink:
            while (link := self.choose(tried)) is None:
                changed = self._changed
                await changed.wait()
            return link

        wait_s = self._wait_s if limit_s is None else min(self._wait_s, limit_s)
        try:
            return await within(wait_s, look())
        except asyncio.TimeoutError:
            return None

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


Ask = Callable[[RouterLink], Callable[..., Awaitable[Any]]]


def _tls(config: ShimConfig) -> ClientTls | None:
    if not config.ca_file:
        if config.cert_file:
            raise ConfigError("shim.ca_file: is needed beside shim.cert_file: what routers show must come from it")
        return None
    tls = ClientTls(config.ca_file, config.cert_file, config.key_file)
    try:
        tls.context()
    except ConfigError as error:
        raise ConfigError(f"shim.ca_file, shim.cert_file, shim.key_file: {error}") from None
    return tls
