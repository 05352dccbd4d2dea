"""The seam between a worker and its engine. Token ids in, token ids out; nothing here knows text.

The life of an engine: construct (cheap), `start` (loads, proves itself, or raises EngineError with the
remedy), any number of `submit` and `abort`, `stop`. All methods are called on the event loop that called
`start`; an engine with threads of its own hands results over with `call_soon_threadsafe`.

Results come through the `deliver` callback given to `start`, one call per engine step with the chunks of all
requests that moved, so that one step becomes one message on each session. After a chunk with `finish` an
engine never mentions that request again; every submitted request gets exactly one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class EngineError(Exception):
    """The engine cannot start or has died. The text says what to do."""


class EngineRefusal(Exception):
    """This request cannot be taken; the engine goes on. `param` is the proto field at fault, or empty."""

    def __init__(self, message: str, *, param: str = "") -> None:
        super().__init__(message)
        self.param = param


class FinishReason(enum.IntEnum):
    """Values equal `qwenserve.type.v1.FinishReason`."""

    STOP = 1
    LENGTH = 2
    ABORTED = 4


@dataclass(frozen=True, slots=True)
class Sampling:
    """Complete sampling parameters; neutral by default. Ranges are those of `qwenserve.type.v1.SamplingParams`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request. `key` is unique among requests that have not ended; the worker chooses it."""

    key: int
    prompt_token_ids: Sequence[int]
    sampling: Sampling
    cache_salt: str = ""


class TokenLogprob(NamedTuple):
    """A generated token's log-probability and `top` alternatives as (id, logprob), most likely first."""

    token_id: int
    logprob: float
    top: Sequence[tuple[int, float]]


class Finish(NamedTuple):
    """How a request ended. `error` is set where the engine failed it."""

    reason: FinishReason
    stop_token_id: int | None = None
    cached_tokens: int = 0
    error: str = ""


class Chunk(NamedTuple):
    """What one step gave one request. The stop token's id, where there is one, is the last of `token_ids`."""

    key: int
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprob] | None = None
    finish: Finish | None = None


class EngineLoad(NamedTuple):
    """What the engine knows of its own load. -1 for KV numbers it does not know."""

    running: int
    free_kv_blocks: int = -1
    total_kv_blocks: int = -1


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do; asked once, after `start`."""

    name: str
    version: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    # Most requests it computes at once: the worker's admission never goes beyond.
    max_running: int
    kv_block_tokens: int = 0
    unsupported_fields: frozenset[str] = frozenset()
    max_top_logprobs: int = 20
    simulated: bool = False


class KvEvent(NamedTuple):
    """A change of the prefix cache. `stored` and `removed` are chained block hashes."""

    sequence: int
    stored: Sequence[int]
    removed: Sequence[int]


Deliver = Callable[[Sequence[Chunk]], None]


class Engine(Protocol):
    """One engine. `on_failure` of `start` is called once if the engine dies after it started."""

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and proves that ids come through. Raises EngineError."""

    def submit(self, request: EngineRequest) -> None:
        """Starts a request. The worker keeps running requests <= `max_running`. Raises EngineRefusal."""

    def abort(self, key: int) -> None:
        """Asks a request to stop; its `finish` chunk (ABORTED, or what came first) still follows. Unknown: no-op."""

    def load(self) -> EngineLoad:
        """Returns the load now; cheap, called with every message."""

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events since the last call; empty where the engine has none."""

    async def stop(self) -> None:
        """Aborts what runs, waits for it, releases the model. Bounded; safe to call twice."""
