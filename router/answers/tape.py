"""The ids of one choice, from their first to their last, for any number of readers.

A tape stands where a worker's session stands: a generation submits its leg to it and is given ids. It may be complete
already (a kept answer), or still be written (an answer that another request is having generated). Every reader begins
at the beginning. One that joins late, or reads a kept answer, is given what there is in pieces, a turn of the event
loop for each, and then what comes as it comes. All of it is handed on synchronously: a reader's slow socket is its
sink's matter, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Sequence

from qwenserve.router.answers.record import Recording
from qwenserve.router.generation.leg import LegStream
from qwenserve.runtime.errors import ServiceError
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

# Ids given to a reader in one turn of the event loop: enough to be cheap, few enough not to delay others' tokens.
_PIECE = 256


class _Reader:
    __slots__ = ("first", "live", "position", "stopped", "stream")

    def __init__(self, stream: LegStream, *, first: bool) -> None:
        self.stream = stream
        # The request for which it is generated: its usage counts the prompt as computed, that of the others as cached.
        self.first = first
        self.position = 0
        # Has everything so far, and gets what comes as it comes.
        self.live = False
        # Wants no more ids; waits for the end.
        self.stopped = False


class Tape:
    """Ids, log-probabilities and an end. `name` is shown as the worker's; a kept answer is complete from the start."""

    address = ""
    connection = 0
    # An answer here is whole: nothing goes on.
    counts_from_offset = True

    def __init__(self, name: str) -> None:
        self._name = name
        self.ids = array("i")
        self.logprobs: list[sampling_pb2.TokenLogprob] = []
        self.finish: worker_pb2.Finish | None = None
        self._readers: dict[int, _Reader] = {}
        self._next_handle = 1
        self._prompt_tokens = 0

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._name

    @property
    def stopped_early(self) -> bool:
        """Whether a reader is left that has all it wants."""
        return any(reader.stopped for reader in self._readers.values())

    def submit(self, stream: LegStream, prompt_token_ids: Sequence[int], *_: object, **__: object) -> int:
        """Takes a reader; what else is asked is the same for all of them. Returns its handle."""
        handle = self._next_handle
        self._next_handle += 1
        reader = self._readers[handle] = _Reader(stream, first=False)
        self._prompt_tokens = len(prompt_token_ids)
        # In a later turn: the caller of `submit` does not know the handle yet.
        asyncio.get_running_loop().call_soon(self._catch_up, handle, reader)
        return handle

    def follow(self, stream: LegStream, prompt_tokens: int) -> int:
        """Takes a reader that has all ids so far: the one for which they are generated. Returns its handle."""
        handle = self._next_handle
        self._next_handle += 1
        reader = self._readers[handle] = _Reader(stream, first=True)
        reader.position, reader.live = len(self.ids), True
        self._prompt_tokens = prompt_tokens
        return handle

    def abort(self, handle: int) -> None:
        """A reader wants no more ids; its end still follows, unless it is forgotten."""
        reader = self._readers.get(handle)
        if reader is None or reader.stopped:
            return
        reader.stopped = True
        if self.finish is not None:
            asyncio.get_running_loop().call_soon(self._finish_stopped, handle, reader)
        elif all(each.stopped for each in self._readers.values()):
            self._all_stopped()

    def forget(self, handle: int) -> None:
        """A reader has left."""
        if self._readers.pop(handle, None) is not None and not self._readers and self.finish is None:
            self._all_left()

    def write(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        """Adds ids, and gives them to the readers that have all before."""
        self.ids.extend(ids)
        self.logprobs.extend(logprobs)
        position = len(self.ids)
        for reader in list(self._readers.values()):
            if not reader.live or reader.stopped:
                continue
            reader.position = position
            if len(ids) == 1 and not logprobs:
                reader.stream.token(ids[0], now)
            else:
                reader.stream.tokens(ids, logprobs, now)

    def hold(self) -> None:
        """Ids written from now on are held back until the end and delivered together with it."""
        for reader in self._readers.values():
            reader.live = False

    def end(self, finish: worker_pb2.Finish) -> None:
        """Ends the tape; readers hear of it once they have all ids."""
        self.finish = finish
        for handle, reader in list(self._readers.items()):
            if reader.stopped:
                self._finish_stopped(handle, reader)
            else:
                reader.live = False
                self._catch_up(handle, reader)

    def fail(self, error: ServiceError) -> None:
        """Ends the tape for good: nobody can go on with it."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.stream.give_up(error)

    def _all_stopped(self) -> None:
        """Every reader has all it wants, before the end."""

    def _all_left(self) -> None:
        """The last reader has left, before the end."""

    def _catch_up(self, handle: int, reader: _Reader) -> None:
        if self._readers.get(handle) is not reader or reader.live or reader.stopped:
            return
        now = time.monotonic()
        end = min(len(self.ids), reader.position + _PIECE)
        ids = self.ids[reader.position : end]
        logprobs = self.logprobs[reader.position : end]
        reader.position = end
        finish = self.finish if end == len(self.ids) else None
        if finish is not None:
            finish = self._finish_of(handle, reader, finish)
            reader.stream.finishing(finish)
        if ids:
            reader.stream.tokens(ids, logprobs, now)
        if finish is not None:
            self._finish(handle, reader, finish)
        elif end < len(self.ids):
            asyncio.get_running_loop().call_soon(self._catch_up, handle, reader)
        else:
            reader.live = True

    def _finish_stopped(self, handle: int, reader: _Reader) -> None:
        if self._readers.get(handle) is reader and self.finish is not None:
            finish = self._finish_of(handle, reader, self.finish)
            reader.stream.finishing(finish)
            self._finish(handle, reader, finish)

    def _finish(self, handle: int, reader: _Reader, finish: worker_pb2.Finish) -> None:
        # The last ids that it was given may have made it leave.
        if self._readers.pop(handle, None) is reader:
            reader.stream.finished(finish)

    def _finish_of(self, handle: int, reader: _Reader, finish: worker_pb2.Finish) -> worker_pb2.Finish:
        own = worker_pb2.Finish()
        own.CopyFrom(finish)
        own.handle = handle
        if not reader.first and not finish.error_reason:
            # No engine read the prompt for this one.
            own.cached_tokens = self._prompt_tokens
            own.queue_us = 0
        return own


def complete_tape(recording: Recording) -> Tape:
    """Returns the tape of a kept answer."""
    tape = Tape("cache")
    tape.ids.extend(recording.ids)
    tape.logprobs.extend(recording.logprobs)
    tape.finish = recording.finish
    return tape
