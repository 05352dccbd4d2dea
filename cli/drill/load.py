"""The load under which a drill runs: clients that ask, read, compare, and note what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp

from qwenserve.runtime.client_tls import ClientTls

# Longer than any pause that a deployment may make: a wait for a worker's restart, or for a hung one to be noticed.
_READ_S = 180.0
# How long a client keeps following `Retry-After`.
_PATIENCE_S = 60.0
_LEAST_WAIT_S = 0.1
# How long a drill waits at most for its clients' first texts before it does harm.
_BEGUN_S = 10.0
_LOOK_S = 0.05
# A silence that begins so close to a fault is counted as its doing: the last text may have come a step before it, and
# what a worker had sent may be read after it.
_AROUND_S = 0.5

PROMPTS = (
    "Count from one to one hundred.",
    "What is the capital of France?",
    "你好，你是谁？",
    "Write a short story about a dog.",
    "Explain why the sky is blue.",
)


class Target(NamedTuple):
    """Where the answers come from."""

    url: str
    api_key: str = ""
    max_tokens: int = 128
    # What is done with kept answers; empty: what the deployment does.
    cache: str = ""
    tls: ClientTls | None = None

    def headers(self) -> dict[str, str]:
        """The key, where there is one."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def body(self, prompt: str) -> dict[str, Any]:
        """A question whose answer is the same each time, as far as the engine allows."""
        return {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.max_tokens,
            # One text, tags included, whatever of it is a thought.
            "separate_reasoning": False,
            **({"cache": self.cache} if self.cache else {}),
        }


class Failure(Exception):
    """An answer that failed. `begun`: some of it had been read. `refused`: the server was busy and said so."""

    def __init__(self, text: str, *, begun: bool, refused: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.begun = begun
        self.refused = refused
        self.wait_s = wait_s


class Silence(NamedTuple):
    """A time without text."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.began


@dataclass
class Seen:
    """What clients saw."""

    answers: int = 0
    # Answers of which some text has come.
    begun: int = 0
    differing: int = 0
    # How often clients were told to come again later, with a time to wait.
    refused: int = 0
    retried: int = 0
    failures: list[Failure] = field(default_factory=list)
    # The longest silence inside each answer, in seconds.
    pauses: list[float] = field(default_factory=list)
    # When each answer that went on with another worker was silent for longest, on `time.monotonic()`'s clock.
    continued: list[Silence] = field(default_factory=list)
    # The first answer that differs: its prompt, and its text.
    difference: tuple[str, str] | None = None

    def pause(self, share: float) -> float:
        """The pause that `share` of all answers did not exceed."""
        ordered = sorted(self.pauses)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def resumed(self, faults: Sequence[float]) -> list[float]:
        """After each fault at which answers fell silent that went on: the seconds until the first of them did."""
        found = []
        for fault in faults:
            hit = [each for each in self.continued if abs(each.began - fault) <= _AROUND_S and each.ended > fault]
            if hit:
                found.append(min(each.ended for each in hit) - fault)
        return found


class Answer(NamedTuple):
    """One whole answer, the longest silence inside it, and how often it went on with another worker."""

    text: str
    silence: Silence
    continued: int


async def read_answer(
    http: aiohttp.ClientSession, target: Target, prompt: str, on_begun: Callable[[], None] = lambda: None
) -> Answer:
    """Asks over a stream and reads to the end; calls `on_begun` at the first text. Raises Failure."""
    text: list[str] = []
    last = time.monotonic()
    longest, continued = Silence(last, last), 0
    ended = False
    try:
        async with http.post(
            f"{target.url}/v1/chat/completions", json=target.body(prompt), headers=target.headers()
        ) as response:
            if response.status != 200:
                raise _refusal(response, await response.text())
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue  # comments that keep the connection open are no text
                now = time.monotonic()
                longest = max(longest, Silence(last, now), key=_length)
                last = now
                if line.startswith(b"data: [DONE]"):
                    return Answer("".join(text), longest, continued)
                event = json.loads(line[6:])
                silent = not any(text)
                ended = _take(event, text) or ended
                if silent and any(text):
                    on_begun()
                continued = (event.get("usage") or {}).get("continued_legs", continued)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        raise Failure(f"{type(error).__name__}: {error}", begun=any(text)) from None
    raise Failure("the stream ended " + ("without [DONE]" if ended else "in the middle"), begun=any(text))


def _length(silence: Silence) -> float:
    return silence.seconds


def _refusal(response: aiohttp.ClientResponse, body: str) -> Failure:
    wait = response.headers.get("Retry-After", "")
    busy = response.status in (429, 503) and wait.isdecimal()
    return Failure(f"{response.status}: {body[:200]}", begun=False, refused=busy, wait_s=float(wait) if busy else 0.0)


def _take(event: dict[str, Any], text: list[str]) -> bool:
    """Adds an event's text; returns whether it is the last of its choice. Raises Failure for an error event."""
    if "error" in event:
        raise Failure(f"error event: {event['error']}", begun=any(text))
    finished = False
    for choice in event["choices"]:
        delta = choice["delta"]
        text.append((delta.get("reasoning_content") or "") + (delta.get("content") or ""))
        finished = finished or choice.get("finish_reason") is not None
    return finished


class Load:
    """Clients that go on asking. `expected` are the answers of an undisturbed run; none where they vary anyway."""

    def __init__(self, target: Target, expected: dict[str, str]) -> None:
        self._target = target
        self._expected = expected
        self.seen = Seen()

    @contextlib.asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[Seen]:
        """Asks from `clients` at a time inside the block; at its end every answer under way is read to its end."""
        stop = asyncio.Event()
        async with client_session(self._target) as http:
            tasks = [asyncio.ensure_future(self._ask_on(http, number, stop)) for number in range(clients)]
            try:
                yield self.seen
                stop.set()
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_on(self, http: aiohttp.ClientSession, number: int, stop: asyncio.Event) -> None:
        for prompt in prompts_from(number):
            if stop.is_set():
                return
            await self._ask(http, prompt)

    async def _ask(self, http: aiohttp.ClientSession, prompt: str) -> None:
        """Asks as official clients do: again whenever the server sends a time to wait, once where nothing began."""
        deadline = time.monotonic() + _PATIENCE_S
        retried = False
        while (failure := await self._try(http, prompt)) is not None:
            if failure.refused and time.monotonic() < deadline:
                self.seen.refused += 1
                await asyncio.sleep(max(failure.wait_s, _LEAST_WAIT_S))
            elif failure.begun or retried:
                self.seen.failures.append(failure)
                return
            else:
                retried = True
                self.seen.retried += 1
                await asyncio.sleep(_LEAST_WAIT_S)

    async def under_way(self, clients: int) -> None:
        """Returns once as many answers have begun as there are clients, or after a while."""
        deadline = time.monotonic() + _BEGUN_S
        while self.seen.begun < clients and time.monotonic() < deadline:  # noqa: ASYNC110 - noted by many tasks
            await asyncio.sleep(_LOOK_S)

    def _note_begun(self) -> None:
        self.seen.begun += 1

    async def _try(self, http: aiohttp.ClientSession, prompt: str) -> Failure | None:
        """Reads one answer and notes it; returns what went wrong."""
        try:
            answer = await read_answer(http, self._target, prompt, self._note_begun)
        except Failure as failure:
            return failure
        self.seen.answers += 1
        self.seen.pauses.append(answer.silence.seconds)
        if answer.continued:
            self.seen.continued.append(answer.silence)
        if answer.text != self._expected.get(prompt, answer.text):
            self.seen.differing += 1
            self.seen.difference = self.seen.difference or (prompt, answer.text)
        return None


class Undisturbed(NamedTuple):
    """The answer to each prompt where nothing is wrong. `vary`: it is not the same each time."""

    answers: dict[str, str]
    vary: bool = False


async def undisturbed(target: Target, clients: int) -> Undisturbed:
    """Asks twice under the load of a drill. Raises Failure."""
    async with client_session(target) as http:
        rounds = [
            await asyncio.gather(*(read_answer(http, target, prompt) for prompt in itertools.islice(source, clients)))
            for source in (prompts_from(0), prompts_from(0))
        ]
    found: dict[str, str] = {}
    vary = False
    for answers in rounds:
        for prompt, answer in zip(prompts_from(0), answers, strict=False):
            vary = vary or found.setdefault(prompt, answer.text) != answer.text
    return Undisturbed(found, vary)


def prompts_from(number: int) -> Iterator[str]:
    """Yields prompts without end, beginning with another one for each number."""
    return itertools.islice(itertools.cycle(PROMPTS), number % len(PROMPTS), None)


def client_session(target: Target) -> aiohttp.ClientSession:
    """A session whose connections are not limited, and which waits longer than a deployment may pause."""
    context = target.tls.context() if target.tls is not None else True
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_READ_S)
    return aiohttp.ClientSession(timeout=timeout, connector=connector)
