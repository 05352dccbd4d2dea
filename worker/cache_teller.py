"""Tells routers what the prefix cache holds: reads the engine's events and decides when each session hears of them.

Routers are told at intervals and not with each engine step: a step of a busy engine fills a few blocks, and a list of
numbers in every message would cost both sides more than the tokens do. News go with tokens wherever there are some: a
message of their own costs many times what they do. Where there are none they wait longer, and longer still the more
routers there are; at the longest as long as the load stamps that routers ask for anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, block_hashes
from qwenserve.worker.cache_ledger import CacheLedger
from qwenserve.worker.engine_interface import Engine, EngineInfo, EngineRequest
from qwenserve.worker.router_session import Session
from qwenserve.worker.v1 import worker_pb2

# How often the engine is asked while it works. After so many looks in a row that found nothing it is left alone.
_LOOK_S = 0.1
_IDLE_LOOKS = 3
# How long news wait for tokens to go with, for how many routers, and the longest: routers ask for a stamp as often.
_ALONE_S = 0.5
_ALONE_S_PER_ROUTER = 0.01
_MOST_ALONE_S = 1.0
# Blocks that an engine is thought to keep which neither tells its events nor how many blocks it has.
_GUESSED_BLOCKS = 8192


def interval_s(routers: int) -> float:
    """Returns how often each of so many routers is told that gets no tokens meanwhile."""
    return min(_MOST_ALONE_S, max(_ALONE_S, _ALONE_S_PER_ROUTER * routers))


class CacheTeller:
    """One worker's news. `sessions` returns those that are open."""

    def __init__(self, engine: Engine, sessions: Callable[[], Iterable[Session]]) -> None:
        self.ledger = CacheLedger()
        self._engine = engine
        self._sessions = sessions
        self._timer: asyncio.TimerHandle | None = None
        self._idle_looks = 0
        self._told_at = 0.0
        self._block_tokens = DEFAULT_BLOCK_TOKENS
        # Whether prompts are taken for what is cached, because the engine does not tell.
        self.guesses = False

    def started(self, info: EngineInfo) -> None:
        """Learns what the engine tells."""
        self.guesses = not info.tells_kv_events
        self._block_tokens = info.kv_block_tokens or DEFAULT_BLOCK_TOKENS

    def subscribe(self, session: Session) -> None:
        """Tells a session everything, and then what changes. Once more: from the beginning."""
        session.cache = self.ledger.reader()
        session.cache_due = True
        session.changed.set()

    def computed(self, request: EngineRequest) -> None:
        """A prompt has been computed by an engine that does not tell its events."""
        total = self._engine.load().total_kv_blocks
        hashes = block_hashes(request.prompt_token_ids, self._block_tokens, request.cache_salt)
        self.ledger.guess(hashes, total if total > 0 else _GUESSED_BLOCKS)

    def stepped(self) -> None:
        """The engine has made a step."""
        self._idle_looks = 0
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def add_to(self, session: Session, message: worker_pb2.SessionResponse | None) -> worker_pb2.SessionResponse | None:
        """Puts a session's next news into its next message; returns that, or a new one where there was none."""
        news = session.cache.next() if session.cache is not None else None
        if news is None:
            session.cache_due = False
            return message
        message = message or worker_pb2.SessionResponse()
        message.cache.number = news.number
        message.cache.removed.extend(news.removed)
        message.cache.stored.extend(news.stored)
        return message

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self.ledger.take(self._engine.kv_events())
        behind = [s for s in self._sessions() if s.cache is not None and s.cache.behind]
        # A look is never quite on time.
        alone = loop.time() - self._told_at >= interval_s(len(behind)) - _LOOK_S / 2
        for session in behind:
            session.cache_due = True
            if alone:
                session.changed.set()
        if behind and alone:
            self._told_at = loop.time()
        # An engine may tell of a step after its tokens have come.
        self._idle_looks += 1
        waits = bool(behind) or self._idle_looks < _IDLE_LOOKS
        self._timer = loop.call_later(_LOOK_S, self._look) if waits else None
