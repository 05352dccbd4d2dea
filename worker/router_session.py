"""What a worker keeps for one caller: its requests, and what is waiting to be written to it. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qwenserve.runtime.errors import ServiceError
from qwenserve.worker.cache_ledger import CacheReader
from qwenserve.worker.engine_interface import EngineRequest
from qwenserve.worker.packing import Packer


class Flight:
    """One request between its submit and the engine's final chunk.

    `session` is None once its caller has been told of the end, or has gone; the engine may still hold it.
    """

    __slots__ = (
        "expected_cached",
        "handle",
        "offered_at",
        "prefilling",
        "queue_us",
        "request",
        "request_id",
        "session",
        "started",
    )

    def __init__(self, request: EngineRequest, session: Session, handle: int, request_id: str, now: float) -> None:
        self.request = request
        self.session: Session | None = session
        self.handle = handle
        self.request_id = request_id
        self.offered_at = now
        self.queue_us = 0
        self.started = False
        self.prefilling = False
        # Prompt tokens that the caller expects to be cached, until the prompt is computed.
        self.expected_cached = 0


class Session:
    """One caller. `changed` is set when there is something to write, or the session has to end."""

    def __init__(self, number: int, request_bytes: int) -> None:
        """`request_bytes`: see `Packer`."""
        self.number = number
        self.changed = asyncio.Event()
        self.failure: ServiceError | None = None
        # Engine steps since the last message was taken.
        self.steps = 0
        # Of the last submit that was read.
        self.read_handle = 0
        # By handle.
        self.flights: dict[int, Flight] = {}
        self.packer = Packer(request_bytes)
        # Its place in what the prefix cache holds, where it asked; and whether it is to be told now.
        self.cache: CacheReader | None = None
        self.cache_due = False
        self._on_cut_off: Callable[[], object] = _nothing

    def when_cut_off(self, callback: Callable[[], object]) -> None:
        """Sets the function that `cut_off` calls, which cancels a write that waits for the caller."""
        self._on_cut_off = callback

    def end(self, error: ServiceError) -> None:
        """Ends the session with an error once what is waiting has been written."""
        if self.failure is None:
            self.failure = error
            self.changed.set()

    def cut_off(self, error: ServiceError) -> None:
        """Ends the session with an error now; what was waiting is lost."""
        self.failure = error
        self.packer.clear()
        self.changed.set()
        self._on_cut_off()


def _nothing() -> None:
    """The default until `when_cut_off`: does nothing."""
