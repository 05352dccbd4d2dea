"""The simulated engine's timing model: a pure step function. No clock, no I/O, no tasks: `now` is handed in.

How time passes. The engine works in steps, one at a time. A step takes

    step_s + step_s_per_request * (n - 1) + p / prefill_tokens_per_s      (the first two only if n > 0)

where n is the number of requests that get a token at its end and p the number of uncached prompt tokens computed
in it: at most `prefill_chunk_tokens`, first come first served. A request whose prompt is complete in a step gets its
first token at that step's end. With `step_s` 0 every step takes no time at all.

How room runs out. A request holds one block per `kv_block_tokens` ids. The queue is first in, first out; its head
waits while there is no slot or no room. When a running request needs a block and there is none, the youngest one gives
up its blocks and goes back to the head of the queue; its ids are computed again later, and nobody sees it but for time.

What is answered, so that it can be worked out by hand. With n the ids of prompt and answer so far:

    "cycle"  id = answer_first_id + (seed + n + S) % answer_ids, S the sum of those ids that are not themselves in
             [answer_first_id, answer_first_id + answer_ids). So an answer counts through the range, starts where
             the prompt says, and goes on unchanged when its first part is sent back as the end of a prompt. The
             default range is the letters a to z of Qwen's byte-level vocabulary. It has no end of its own.
    "echo"   the prompt's ids, then the end token.
    (a, b…)  these ids, then the end token. A prompt that ends with the first ids of the answer is taken for one to be
             continued, and the answer starts after them.

A request with an `answer_offset` goes on after as many ids of its answer as its prompt holds from there on; what is
echoed is the prompt before it.

Where the end is ignored (`ignore_eos`) an answer starts again after its end token. The place of an end or stop token
that `min_tokens` forbids is taken by the next id of the answer that is allowed. How likely that id is, and what
sampling parameters make of it, is told in `choice`: without bias, penalties, allowed ids, or a temperature above 1, it
is what is generated. Where a guide does not allow it, an end token comes if one may, else the next of the 31 ids after
it that may, else the lowest one. A prompt's log-probabilities are those of an answer that had come to each of its ids;
a prompt whose log-probabilities are asked for is computed whole.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from qwenserve.runtime.block_hash import block_hash, block_hashes, salt_hash
from qwenserve.worker.engine_interface import (
    Chunk,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    KvEvent,
    TokenLogprob,
)
from qwenserve.worker.engines.simulated.choice import NEIGHBOURS, Seen, choose, is_certain, logprob
from qwenserve.worker.engines.simulated.kv_blocks import KvBlocks
from qwenserve.worker.guides.matcher import GuideMatcher

# A driver that was delayed by more than this does not catch up: time starts again from now.
_MAX_LAG_S = 1.0

# Most cache events that wait to be read. The oldest are dropped; the gap in the numbers tells readers to start over.
_MAX_KV_EVENTS = 10_000

_NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Faults:
    """Failures on demand. Counts start when the fault is set; None is off."""

    die_after_steps: int | None = None
    stall_after_steps: int | None = None
    refuse_after_requests: int | None = None
    slow_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class SimulatedConfig:
    """A timing model. Times in seconds; see the module's text for what they mean."""

    vocab_size: int = 151_936
    max_model_len: int = 40_960
    eos_token_ids: tuple[int, ...] = (151_645, 151_643)
    max_running: int = 256
    kv_blocks: int = 8192
    kv_block_tokens: int = 16
    prefill_tokens_per_s: float = 20_000.0
    prefill_chunk_tokens: int = 512
    step_s: float = 0.010
    step_s_per_request: float = 0.0
    answer: Literal["cycle", "echo"] | tuple[int, ...] = "cycle"
    answer_first_id: int = 64
    answer_ids: int = 26
    seed: int = 0
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        highest = max((*self.eos_token_ids, self.answer_first_id + self.answer_ids - 1))
        if isinstance(self.answer, tuple):
            if not self.answer:
                raise ValueError("answer: at least one id is needed")
            highest = max(highest, *self.answer)
        if highest >= self.vocab_size:
            raise ValueError(f"id {highest} is outside the vocabulary of {self.vocab_size}")
        if not self.eos_token_ids:
            raise ValueError("eos_token_ids: at least one id is needed")

    @property
    def window(self) -> int:
        """Most ids of prompt and answer together: one request alone always finds room for them."""
        return min(self.max_model_len, self.kv_blocks * self.kv_block_tokens)


class StepResult(NamedTuple):
    """Chunks that are due, and when to call again; None: not before something is submitted or aborted."""

    chunks: Sequence[Chunk]
    next_wake: float | None
    died: str = ""


class _Request:
    """One request: its ids so far, the blocks it holds, and how much of its prompt is still to compute."""

    __slots__ = (
        "cached",
        "certain",
        "chain",
        "ends",
        "guide",
        "hashes",
        "ids",
        "key",
        "opened",
        "origin",
        "prompt_len",
        "prompt_logprobs",
        "salt",
        "sampling",
        "script",
        "seen_everywhere",
        "seen_in_answer",
        "todo",
    )

    def __init__(
        self,
        request: EngineRequest,
        eos: frozenset[int],
        script: Sequence[int],
        origin: int,
        guide: GuideMatcher | None,
    ) -> None:
        self.guide = guide
        self.key = request.key
        self.sampling = request.sampling
        self.ids = list(request.prompt_token_ids)
        self.prompt_len = len(self.ids)
        self.salt = request.cache_salt
        stops = self.sampling.stop_token_ids
        self.ends = stops if self.sampling.ignore_eos else stops | eos
        # Hashes of the prefix that may be reused, kept while the request waits; None: not worked out yet.
        self.chain: Sequence[int] | None = None
        self.script = script
        self.origin = origin
        self.hashes: list[int] = []
        self.opened = 0
        self.todo = 0
        self.cached: int | None = None
        # How many alternatives for each id of the prompt, until they have been given; None: not asked for.
        self.prompt_logprobs = request.prompt_logprobs
        self.certain = is_certain(self.sampling)
        if not self.certain:
            self.seen_everywhere = set(self.ids) if self.sampling.repetition_penalty != 1 else set()
            self.seen_in_answer = Counter(self.ids[request.answer_start :])

    def seen(self) -> Seen:
        """What penalties look at."""
        return Seen(self.seen_everywhere, self.seen_in_answer)

    def add(self, token: int) -> None:
        """Appends a generated id."""
        self.ids.append(token)
        if not self.certain:
            if self.sampling.repetition_penalty != 1:
                self.seen_everywhere.add(token)
            self.seen_in_answer[token] += 1


class SimulatedState:
    """All of the engine but its clock. `step` must be called when its last `next_wake` comes, and after changes."""

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        self._blocks = KvBlocks(config.kv_blocks)
        self._eos = frozenset(config.eos_token_ids)
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._due: list[Chunk] = []
        # The step under way: when it ends and who gets a token then.
        self._step_end: float | None = None
        self._step_tokens: list[_Request] = []
        self._events: deque[KvEvent] = deque(maxlen=_MAX_KV_EVENTS)
        self._event_sequence = 0
        self.steps = 0
        self.inject(config.faults)

    def inject(self, faults: Faults) -> None:
        """Sets the failures to show from now on."""
        self._faults = faults
        self._fault_steps = 0
        self._fault_requests = 0

    def check(self, request: EngineRequest) -> None:
        """Raises EngineRefusal for a request that cannot be taken."""
        config = self.config
        limit = self._faults.refuse_after_requests
        if limit is not None and self._fault_requests >= limit:
            raise EngineRefusal("refused on demand (simulated fault)")
        self._fault_requests += 1
        prompt = request.prompt_token_ids
        if not prompt or len(prompt) >= config.window:
            raise EngineRefusal(f"{len(prompt)} ids do not fit into 1 to {config.window - 1}", param="prompt_token_ids")

    def submit(self, request: EngineRequest, guide: GuideMatcher | None = None) -> None:
        """Queues a request; it is looked at when the next step begins. `guide` is where its guide stands, as far as its
        prompt has come in it; such a request has been checked before the guide was compiled. Raises EngineRefusal.
        """
        if guide is None:
            self.check(request)
        config, prompt = self.config, request.prompt_token_ids
        script: Sequence[int] = ()
        origin = 0
        if config.answer == "cycle":
            low, high = config.answer_first_id, config.answer_first_id + config.answer_ids
            origin = config.seed + sum(value for value in prompt if not low <= value < high)
        else:
            offset = request.answer_offset
            script = (*(prompt[:offset] if config.answer == "echo" else config.answer), config.eos_token_ids[0])
            if offset is not None:
                origin = len(prompt) - offset
            elif config.answer != "echo":
                origin = _overlap(prompt, config.answer)
        self._waiting.append(_Request(request, self._eos, script, origin, guide))

    def abort(self, key: int) -> None:
        """Ends a request; its last chunk comes with the next `step`. Unknown keys are ignored."""
        request = self._running.get(key)
        if request is None:
            request = next((waiting for waiting in self._waiting if waiting.key == key), None)
            if request is None:
                return
            self._waiting.remove(request)
        self._end(request)
        self._due.append(Chunk(key, (), None, Finish(FinishReason.ABORTED, None, request.cached or 0)))

    def end_early(self, last: Chunk) -> None:
        """Gives a request that was never submitted its last chunk."""
        self._due.append(last)

    def abort_all(self) -> None:
        """Ends every request."""
        for key in [*self._running, *(request.key for request in self._waiting)]:
            self.abort(key)

    def step(self, now: float) -> StepResult:
        """Returns what is due at `now` and begins the next step if none is under way."""
        if self._shows(self._faults.die_after_steps):
            return StepResult((), None, "died on demand (simulated fault)")
        if self._shows(self._faults.stall_after_steps):
            return StepResult((), None)
        chunks, self._due = self._due, []
        begin = now
        if self._step_end is not None:
            if now < self._step_end:
                return StepResult(chunks, self._step_end)
            if now - self._step_end < _MAX_LAG_S:
                begin = self._step_end
            self._finish_step(chunks)
        self._begin_step(begin)
        return StepResult(chunks, self._step_end)

    def load(self) -> EngineLoad:
        """Returns what runs and how many blocks are left."""
        return EngineLoad(len(self._running), self._blocks.available, self._blocks.total, self.steps)

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events so far."""
        events = list(self._events)
        self._events.clear()
        return events

    def _shows(self, after: int | None) -> bool:
        if after is None or self._fault_steps < after:
            return False
        return bool(self._running or self._waiting or self._due)

    def _begin_step(self, now: float) -> None:
        config = self.config
        self._make_room()
        self._admit()
        computed = self._prefill(config.prefill_chunk_tokens)
        tokens = self._step_tokens = [request for request in self._running.values() if not request.todo]
        self._note_events()
        if not self._running:
            self._step_end = None
            return
        duration = 0.0
        if config.step_s:
            duration = computed / config.prefill_tokens_per_s
            if tokens:
                duration += config.step_s + config.step_s_per_request * (len(tokens) - 1)
        self._step_end = now + duration * self._faults.slow_factor

    def _finish_step(self, chunks: list[Chunk]) -> None:
        self._step_end = None
        self.steps += 1
        self._fault_steps += 1
        # The others were aborted while the step was under way.
        running = self._running
        chunks.extend(self._advance(request) for request in self._step_tokens if running.get(request.key) is request)

    def _advance(self, request: _Request) -> Chunk:
        sampling = request.sampling
        ids = request.ids
        made = len(ids) - request.prompt_len + 1
        forbidden = request.ends if made <= sampling.min_tokens else _NOTHING
        scripted = token = self._next_id(request, forbidden)
        guide = request.guide
        if guide is not None:
            wanted = self._guided(request, guide, scripted, forbidden)
            if wanted is None:
                self._end(request)
                return Chunk(request.key, (), None, Finish(FinishReason.STOP, None, request.cached or 0))
            token = wanted
            guide.take(token)
            request.add(token)
        elif request.certain:
            ids.append(token)
        else:
            token = choose(scripted, forbidden, sampling, request.seen(), self.config.vocab_size, len(ids))
            request.add(token)
        size = self.config.kv_block_tokens
        if len(ids) % size == 0:
            self._seal(request)
        finish = None
        if token in request.ends or (guide is not None and guide.complete):
            finish = Finish(FinishReason.STOP, token if token in request.ends else None, request.cached or 0)
        elif made >= sampling.max_tokens or len(ids) >= self.config.window:
            finish = Finish(FinishReason.LENGTH, None, request.cached or 0)
        if finish is not None:
            self._end(request)
        logprobs = None
        if sampling.top_logprobs is not None:
            logprobs = (logprob(scripted, token, sampling.top_logprobs, self.config.vocab_size),)
        if request.prompt_logprobs is not None:
            scored = self._score_prompt(request, request.prompt_logprobs)
            request.prompt_logprobs = None
            return Chunk(request.key, (token,), logprobs, finish, scored)
        return Chunk(request.key, (token,), logprobs, finish)

    def _guided(self, request: _Request, guide: GuideMatcher, scripted: int, forbidden: frozenset[int]) -> int | None:
        """Returns the next id under a guide; None where none is left."""
        allowed = guide.allowed() - forbidden
        if request.sampling.allowed_token_ids:
            allowed &= request.sampling.allowed_token_ids
        if not allowed:
            return None
        size = self.config.vocab_size
        if not request.certain:
            sampling = replace(request.sampling, allowed_token_ids=allowed)
            return choose(scripted, forbidden, sampling, request.seen(), size, len(request.ids))
        nearest = ((scripted + rank) % size for rank in range(NEIGHBOURS + 1))
        likely = (scripted, *(token for token in self.config.eos_token_ids), *nearest)
        return next((token for token in likely if token in allowed), min(allowed))

    def _next_id(self, request: _Request, forbidden: frozenset[int]) -> int:
        config = self.config
        script = request.script
        length = len(request.ids)
        for skipped in range((len(script) or config.answer_ids) if forbidden else 1):
            if script:
                token = script[(request.origin + length - request.prompt_len + skipped) % len(script)]
            else:
                token = config.answer_first_id + (request.origin + length + skipped) % config.answer_ids
            if token not in forbidden:
                return token
        return next(value for value in range(config.vocab_size) if value not in forbidden)

    def _score_prompt(self, request: _Request, alternatives: int) -> list[TokenLogprob]:
        prompt = request.ids[: request.prompt_len]
        scripted = _expected(prompt, self.config)
        size = self.config.vocab_size
        return [
            logprob(expected, token, alternatives, size) for expected, token in zip(scripted, prompt[1:], strict=True)
        ]

    def _admit(self) -> None:
        size = self.config.kv_block_tokens
        while self._waiting and len(self._running) < self.config.max_running:
            request = self._waiting[0]
            ids = request.ids
            if request.chain is None:
                # One id at least is computed: the one whose output is the next id.
                reusable = 0 if request.prompt_logprobs is not None else (len(ids) - 1) // size * size
                request.chain = block_hashes(ids[:reusable], size, request.salt)
            found = list(request.chain[: self._blocks.match(request.chain)])
            self._blocks.hold(found)
            # Room for the ids that there are and for the next one.
            needed = len(ids) // size + 1 - len(found)
            if not self._blocks.take(needed):
                self._blocks.release(found, 0)
                return
            self._waiting.popleft()
            self._running[request.key] = request
            request.chain = None
            request.hashes = found
            request.opened = needed
            request.todo = len(ids) - len(found) * size
            if request.cached is None:
                request.cached = len(found) * size

    def _make_room(self) -> None:
        """Gives every running request a block for its next id, at the cost of the youngest ones if need be."""
        size = self.config.kv_block_tokens
        for request in list(self._running.values()):
            room = (len(request.hashes) + request.opened) * size
            if room > len(request.ids) or request.key not in self._running:
                continue
            while not self._blocks.take(1):
                youngest = next(reversed(self._running.values()))
                self._end(youngest)
                self._waiting.appendleft(youngest)
                if youngest is request:
                    break
            else:
                request.opened += 1

    def _prefill(self, budget: int) -> int:
        computed = 0
        for request in self._running.values():
            if request.todo:
                share = min(request.todo, budget - computed)
                request.todo -= share
                computed += share
                if request.todo:
                    break
                for _ in range(len(request.ids) // self.config.kv_block_tokens - len(request.hashes)):
                    self._seal(request)
        return computed

    def _seal(self, request: _Request) -> None:
        size = self.config.kv_block_tokens
        start = len(request.hashes) * size
        parent = request.hashes[-1] if request.hashes else salt_hash(request.salt)
        value = block_hash(parent, request.ids[start : start + size])
        request.hashes.append(value)
        request.opened -= 1
        self._blocks.seal(value)

    def _end(self, request: _Request) -> None:
        if self._running.pop(request.key, None) is not None:
            self._blocks.release(request.hashes, request.opened)
            request.hashes = []
            request.opened = 0

    def _note_events(self) -> None:
        changes = self._blocks.changes()
        if changes.stored or changes.removed:
            self._event_sequence += 1
            self._events.append(KvEvent(self._event_sequence, changes.stored, changes.removed))


def _expected(prompt: Sequence[int], config: SimulatedConfig) -> list[int]:
    """Returns what an answer to each beginning of the prompt would begin with, from its first id on."""
    if config.answer == "echo":
        return [prompt[0]] * (len(prompt) - 1)
    if config.answer != "cycle":
        script = (*config.answer, config.eos_token_ids[0])
        return [script[_overlap(prompt[:length], config.answer)] for length in range(1, len(prompt))]
    low, high = config.answer_first_id, config.answer_first_id + config.answer_ids
    expected = []
    origin = config.seed
    for length, token in enumerate(prompt[:-1], 1):
        if not low <= token < high:
            origin += token
        expected.append(low + (origin + length) % config.answer_ids)
    return expected


def _overlap(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """Returns how many of the answer's first ids the prompt ends with."""
    for count in range(min(len(prompt), len(answer)), 0, -1):
        if tuple(prompt[-count:]) == tuple(answer[:count]):
            return count
    return 0
