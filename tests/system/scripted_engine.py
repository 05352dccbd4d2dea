"""An engine that answers by rules over the prompt's text, so that tool calls come when they are wanted.

One id a turn of the event loop. It thinks where the prompt leaves that open, then: tells the last tool result; or
calls `get_weather` once for each city named by the user, where the prompt has tools; or says a sentence. Every
log-probability is -0.5, alternatives are the next ids. Sampling parameters but `max_tokens` change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from qwenserve.text.tokenizer import Tokenizer
from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRequest,
    Finish,
    FinishReason,
    KvEvent,
    TokenLogprob,
)

CITIES = ("Paris", "Rome")


def answer_to(prompt: str) -> str:
    """Returns what the engine says."""
    asked = prompt.rpartition("<|im_start|>user\n")[2]
    thought = "" if "</think>" in asked or "<|im_start|>" not in prompt else "<think>\nLet me see.\n</think>\n\n"
    if "<tool_response>" in asked:
        result = asked.partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
        return f"{thought}Known now: {result}"
    cities = [city for city in CITIES if city in asked] if "<tools>" in prompt else []
    if cities:
        call = '<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{}"}}}}\n</tool_call>'
        return thought + "\n".join(call.format(city) for city in cities)
    return f"{thought}Something, as you asked: 你好 and more."


class ScriptedEngine:
    """Implements `worker.engines.interface.Engine`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_id: int,
        *,
        max_model_len: int,
        answer: Callable[[str], str] = answer_to,
    ) -> None:
        """`answer` makes a prompt's text into what the engine says."""
        self._answer = answer
        self._tokenizer = tokenizer
        self._eos = eos_token_id
        self._max_model_len = max_model_len
        self._deliver: Deliver | None = None
        self._running: dict[int, Iterator[Chunk]] = {}
        self._stepping = False

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        self._deliver = deliver
        return EngineInfo(
            name="scripted",
            version="1",
            max_model_len=self._max_model_len,
            vocab_size=self._tokenizer.vocab_size,
            eos_token_ids=frozenset({self._eos}),
            max_running=8,
            simulated=True,
        )

    def submit(self, request: EngineRequest) -> None:
        self._running[request.key] = self._chunks(request)
        self._wake()

    def abort(self, key: int) -> None:
        if key in self._running:
            self._running[key] = iter([Chunk(key, (), finish=Finish(FinishReason.ABORTED))])
            self._wake()

    def load(self) -> EngineLoad:
        return EngineLoad(len(self._running))

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: answers are short."""

    def kv_events(self) -> Sequence[KvEvent]:
        return ()

    async def stop(self) -> None:
        for key in list(self._running):
            self.abort(key)
        while self._running:  # noqa: ASYNC110  # each turn of the loop ends some
            await asyncio.sleep(0)

    def _wake(self) -> None:
        if not self._stepping:
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._stepping = False
        chunks = [next(answer) for answer in self._running.values()]
        for chunk in chunks:
            if chunk.finish is not None:
                del self._running[chunk.key]
        if chunks and self._deliver is not None:
            self._deliver(chunks)
        if self._running:
            self._wake()

    def _chunks(self, request: EngineRequest) -> Iterator[Chunk]:
        ids = [*self._tokenizer.encode(self._answer(self._tokenizer.decode(request.prompt_token_ids))), self._eos]
        limit, wanted = request.sampling.max_tokens, request.sampling.top_logprobs
        for position, token_id in enumerate(ids[:limit], 1):
            logprobs = None
            if wanted is not None:
                top = [(token_id + rank, -0.5 - rank) for rank in range(wanted)]
                logprobs = [TokenLogprob(token_id, -0.5, top)]
            finish = None
            if token_id == self._eos:
                finish = Finish(FinishReason.STOP, stop_token_id=self._eos)
            elif position == limit:
                finish = Finish(FinishReason.LENGTH)
            yield Chunk(request.key, (token_id,), logprobs, finish)
