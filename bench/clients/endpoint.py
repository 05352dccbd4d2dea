"""The seam between a run and the server under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Sample


class EndpointError(Exception):
    """The server cannot be measured at all: unreachable, no such model. The text says what to do."""


class Generation(NamedTuple):
    """How every request of a run is generated. `exact_lengths`: answers run to their limit (ignore_eos)."""

    model: str = ""
    exact_lengths: bool = True
    temperature: float | None = 0.0
    thinking: bool | None = None
    stream: bool = True


class Endpoint(Protocol):
    """One server, one way to call it."""

    # What is called, for the method line.
    description: str

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> Any:
        """Returns what `send` takes; done before the clock runs where the sample allows it. Raises EndpointError."""

    async def send(self, prepared: Any, record: Record, *, keep_text: bool = False) -> None:
        """Sends one request and waits for its end. A failure is noted in `record.error`, never raised."""

    async def close(self) -> None:
        """Ends all connections."""
