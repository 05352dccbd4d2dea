"""The two ends of an answer under a test's hand: the worker that gives tokens, and the sink that hears of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.events import text_event
from qwenserve.router.clients.worker_session import TokenStream
from qwenserve.runtime.errors import ServiceError, Unavailable, WorkerLost
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2


class Submitted(NamedTuple):
    """One submission."""

    stream: TokenStream
    prompt: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    fields: dict[str, Any]


class ScriptedSession:
    """As much of a worker's session as an answer sees. Nothing happens but what a test calls."""

    def __init__(self, name: str = "w", *, counts_from_offset: bool = True) -> None:
        self.name = name
        self.counts_from_offset = counts_from_offset
        self.address = f"{name}:1"
        self.connection = 1
        self.submitted: dict[int, Submitted] = {}
        self.aborted: list[int] = []
        self.forgotten: set[int] = set()

    def submit(
        self, stream: TokenStream, prompt: Sequence[int], sampling: sampling_pb2.SamplingParams, **fields: Any
    ) -> int:
        handle = len(self.submitted) + 1
        self.submitted[handle] = Submitted(stream, list(prompt), sampling, fields)
        return handle

    def abort(self, handle: int) -> None:
        self.aborted.append(handle)

    def forget(self, handle: int) -> None:
        self.forgotten.add(handle)

    def give(self, handle: int, ids: Sequence[int], *, logprobs: bool = False) -> None:
        """Delivers tokens."""
        if handle in self.forgotten:
            return
        stream = self.submitted[handle].stream
        if len(ids) == 1 and not logprobs:
            stream.token(ids[0], time.monotonic())
        else:
            items = [sampling_pb2.TokenLogprob(token_id=token_id, logprob=-0.5) for token_id in ids] if logprobs else ()
            stream.tokens(ids, items, time.monotonic())

    def finish(self, handle: int, reason: int = sampling_pb2.FINISH_REASON_LENGTH, **fields: Any) -> None:
        """Delivers the worker's end of a request."""
        if handle not in self.forgotten:
            self.submitted[handle].stream.finished(finish_of(handle, reason, **fields))

    def end(self, handle: int, ids: Sequence[int], **fields: Any) -> None:
        """Delivers tokens and the worker's end in one message."""
        self.submitted[handle].stream.finishing(finish_of(handle, **fields))
        self.give(handle, ids)
        self.finish(handle, **fields)

    def fail(self, handle: int, error_reason: str) -> None:
        """Delivers a failure."""
        self.finish(handle, sampling_pb2.FINISH_REASON_ABORTED, error_reason=error_reason, error_message="told so")

    def lose(self, handle: int) -> None:
        """Breaks the session, as one of its streams hears of it."""
        self.connection = 0
        if handle not in self.forgotten:
            self.submitted[handle].stream.lost(WorkerLost("gone"))


def finish_of(handle: int, reason: int = sampling_pb2.FINISH_REASON_LENGTH, **fields: Any) -> worker_pb2.Finish:
    """A worker's end of a request."""
    return worker_pb2.Finish(handle=handle, reason=reason, **fields)  # type: ignore[arg-type]


class Workers:
    """Chooses the first session that is connected and has not been tried."""

    def __init__(self, *sessions: ScriptedSession) -> None:
        self.sessions = sessions

    def choose(self, prompt: Sequence[int], tried: frozenset[str]) -> Any:
        for session in self.sessions:
            if session.connection and session.address not in tried:
                return session
        raise Unavailable("no worker is ready")


class Heard:
    """A sink that writes everything down. `raises` makes its methods fail."""

    def __init__(self, *, raises: bool = False) -> None:
        self.seen: list[chat_pb2.ChatEvent] = []
        # Calls that brought something.
        self.calls = 0
        self.error: ServiceError | None = None
        self._raises = raises

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        if self._raises:
            raise RuntimeError("a sink's defect")
        self.calls += 1
        self.seen += events

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        return partial(self._text, choice_index, reasoning)

    def _text(self, choice_index: int, reasoning: bool, text: str) -> None:
        self.events([text_event(choice_index, text, reasoning)])

    def failed(self, error: ServiceError) -> None:
        self.error = error
        if self._raises:
            raise RuntimeError("a sink's defect")

    @property
    def kinds(self) -> list[str | None]:
        """What was heard, in order."""
        return [event.WhichOneof("event") for event in self.seen]

    def content(self, choice: int = 0) -> str:
        """The content of a choice."""
        return "".join(event.content_delta for event in self.seen if event.choice_index == choice)

    def finish(self, choice: int = 0) -> chat_pb2.ChoiceFinish:
        """The one finish of a choice."""
        (finish,) = [e.finish for e in self.seen if e.HasField("finish") and e.choice_index == choice]
        return finish

    @property
    def usage(self) -> sampling_pb2.Usage:
        """The last event, which must be the usage."""
        assert self.kinds[-1] == "usage"
        return self.seen[-1].usage
