"""tokenizer.v1.PromptService: a router's prompts on one stream.

A session has one task that reads and one that writes. Short prompts are done by the reader, on the event loop, and
long ones by tasks whose work is in threads that release the interpreter lock. All answers that are ready when a write
ends travel in the next message; none is delayed to collect more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from qwenserve.runtime.config import Config
from qwenserve.runtime.errors import InternalError, InvalidRequest, ModelNotFound, ServiceError
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.logs import EventLog
from qwenserve.text.assets import ModelAssets
from qwenserve.text.content_guard import Prompt
from qwenserve.text.conversation import is_large
from qwenserve.text.tokenizer import INLINE_CHARACTERS
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.metrics import TokenizerMetrics
from qwenserve.tokenizer_svc.rendering import Renderer

_log = EventLog("tokenizer")

PROMPT_SERVICE = tokenizer_pb2.DESCRIPTOR.services_by_name["PromptService"].full_name

# Characters that are tokenized before the event loop gets a turn: about a millisecond's work.
_TURN_CHARACTERS = 2 * INLINE_CHARACTERS
# Long prompts of one router that are under way or wait for a thread. Further messages are not read before.
_MAX_LONG = 256
# An id takes at most four bytes, a character of a text too.
_UNIT_BYTES = 4

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Response: TypeAlias = tokenizer_pb2.PromptSessionResponse


class PromptServicer(tokenizer_pb2_grpc.PromptServiceServicer):
    """Answers for one model."""

    def __init__(self, assets: ModelAssets, config: Config, metrics: TokenizerMetrics | None = None) -> None:
        self._assets = assets
        self._metrics = metrics or TokenizerMetrics()
        self._config = config
        self._renderer = Renderer(assets, config)
        self._sessions: set[_Session] = set()
        self._draining = False

    async def Session(self, request_iterator: Any, context: Context) -> None:  # noqa: N802 - named by the proto
        """Carries one router's prompts, packed."""
        session = _Session(self._assets, self._renderer, self._config, self._metrics, context)
        if self._draining:
            return
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    def drain(self) -> None:
        """Lets every session end once what it has read is answered."""
        self._draining = True
        for session in self._sessions:
            session.end()


class _Session:
    def __init__(
        self, assets: ModelAssets, renderer: Renderer, config: Config, metrics: TokenizerMetrics, context: Context
    ) -> None:
        self._metrics = metrics
        self._tokenizer = assets.tokenizer
        self._renderer = renderer
        self._model = config.model_name
        self._message_bytes = config.grpc.max_message_bytes // 4
        self._context = context
        self._tasks = TaskOwner()
        self._long = asyncio.Semaphore(_MAX_LONG)
        # What is to be written, and that there is something, or that nothing more will come.
        self._outbox: list[Response] = []
        self._outbox_bytes = 0
        self._changed = asyncio.Event()
        self._ending = False
        # Read and not answered.
        self._open_prompts = 0

    def end(self) -> None:
        """Reads no more; the session ends once all is answered."""
        self._ending = True
        self._changed.set()

    async def run(self) -> None:
        """Serves until the router is done or gone, or the session is ended."""
        reader = self._tasks.start(self._read(), name="prompts")
        try:
            while self._outbox or self._open_prompts or not self._ending:
                await self._changed.wait()
                self._changed.clear()
                messages, self._outbox = self._outbox, []
                for message in messages:
                    await self._context.write(message)
            if reader.done():
                reader.result()
        finally:
            await self._tasks.close()

    async def _read(self) -> None:
        try:
            while not self._ending and (message := await self._context.read()) is not grpc.aio.EOF:
                self._open_prompts += len(message.prompts)
                await self._answer_all(message)
                if message.ping and not self._outbox:
                    self._message(0)
                    self._changed.set()
        finally:
            self.end()

    async def _answer_all(self, message: tokenizer_pb2.PromptSessionRequest) -> None:
        wrong_model = bool(message.model) and message.model.lower() != self._model.lower()
        done = 0
        for prompt in message.prompts:
            if wrong_model:
                what = f"model {message.model!r} does not exist; this deployment serves {self._model!r}"
                self._refuse(prompt.handle, ModelNotFound(what, param="model"))
            else:
                done += await self._answer(prompt)
            if done >= _TURN_CHARACTERS:
                done = 0
                self._changed.set()
                await asyncio.sleep(0)
        self._changed.set()

    async def _answer(self, prompt: tokenizer_pb2.Prompt) -> int:
        """Answers now or starts to. Returns how many characters were tokenized here."""
        made: Prompt | None = None
        began = time.monotonic()
        try:
            if not is_large(prompt.conversation):
                made = self._prompt(prompt)
                if len(made.text) <= INLINE_CHARACTERS:
                    self._put(prompt, made, self._tokenizer.encode(made.text, made.mark), began)
                    return len(made.text)
        except Exception as error:
            self._refuse(prompt.handle, error)
            return 0
        await self._long.acquire()
        self._tasks.start(self._answer_long(prompt, made, began), name="long prompt")
        return 0

    async def _answer_long(self, prompt: tokenizer_pb2.Prompt, made: Prompt | None, began: float) -> None:
        """Answers with a long text, or (None) a conversation that takes long to render."""
        try:
            if made is None:
                made = await asyncio.to_thread(self._prompt, prompt)
            self._put(prompt, made, await self._tokenizer.encode_async(made.text, made.mark), began)
        except Exception as error:
            self._refuse(prompt.handle, error)
        finally:
            self._long.release()
        self._changed.set()

    def _prompt(self, prompt: tokenizer_pb2.Prompt) -> Prompt:
        source = prompt.WhichOneof("source")
        if source == "text":
            return Prompt(prompt.text)
        if source is None:
            raise InvalidRequest("a prompt is a text or a conversation; this one is neither", param="source")
        return self._renderer.render(prompt.conversation)

    def _put(self, prompt: tokenizer_pb2.Prompt, made: Prompt, ids: Sequence[int], began: float) -> None:
        shown = made.shown if prompt.return_text else ""
        message = self._message(_UNIT_BYTES * (len(ids) + len(shown)))
        message.answers.add(handle=prompt.handle, token_ids=ids, text=shown)
        self._open_prompts -= 1
        self._metrics.prompts.labels("ok").inc()
        self._metrics.tokens.inc(len(ids))
        self._metrics.seconds.observe(time.monotonic() - began)

    def _refuse(self, handle: int, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            _log.error("prompt_failed", exc_info=error)
            error = InternalError("internal error; the tokenizer's log has the details")
        self._message(0).answers.add(
            handle=handle, error_reason=error.reason, error_message=error.message, error_param=error.param or ""
        )
        self._open_prompts -= 1
        self._metrics.prompts.labels(error.code).inc()

    def _message(self, size: int) -> Response:
        """Returns the message being filled, or a new one where `size` more bytes would make it too long."""
        if not self._outbox or self._outbox_bytes + size > self._message_bytes:
            self._outbox.append(Response())
            self._outbox_bytes = 0
        self._outbox_bytes += size
        return self._outbox[-1]
