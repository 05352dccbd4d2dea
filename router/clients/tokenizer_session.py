"""One stream to one process of the tokenizer tier, opened when it is needed, and again after it broke.

`ask` notes what to send and waits for its own answer; one writer sends whatever has been noted since its last
write, and one reader gives every answer of a message to whoever waits for it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import DeadlineExceeded, Draining, RequestTooLarge, ServiceError, Unavailable, by_reason
from qwenserve.runtime.grpc_setup import from_rpc_error, make_channel, run_until_one_ends
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.trust import OPEN, Trust
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc

_TIMEOUT_S = 30.0
# For this long, a process that could not be reached is asked after all others.
_SHUN_S = 2.0
# Most bytes of an answer for each byte of a prompt: its text and one id of three bytes, with room to spare.
_ANSWER_BYTES = 8
_MAX_UINT32 = 0xFFFFFFFF
# How many checks there are in the time after which a silent process counts as lost.
_LOOKS = 8
_CLOSING = "the router is shutting down"


class TokenizerLost(Unavailable):
    """The process is not there, or went away before it answered: another one can be asked."""


class TokenizerSession:
    """The router's side of one process's stream. A process that is asked and says nothing for `silence_limit_s`, not
    even to a ping, counts as lost.
    """

    def __init__(
        self, address: str, model: str, config: GrpcConfig, silence_limit_s: float, trust: Trust = OPEN
    ) -> None:
        self.address = address
        self._model = model
        self._trust = trust
        self._channel = make_channel(address, config, trust=trust)
        self._config = config
        self._version = trust.version
        self._stub = tokenizer_pb2_grpc.PromptServiceStub(self._channel)
        # Times that the stream broke, or was given up for its silence.
        self.losses = 0
        self._tasks = TaskOwner()
        self._running = False
        self._closed = False
        self._shunned_until = 0.0
        self._prompt_bytes = config.max_message_bytes // _ANSWER_BYTES
        self._next_handle = 1
        self._waiting: dict[int, asyncio.Future[tokenizer_pb2.PromptAnswer]] = {}
        # Messages to write; the last one is being filled.
        self._outbox: list[tokenizer_pb2.PromptSessionRequest] = []
        self._outbox_bytes = 0
        self._wake = asyncio.Event()
        self._silence_limit_s = silence_limit_s
        self._heard = False

    def burden(self) -> tuple[bool, int]:
        """The sort key of processes: reachable ones before those that were not, the less busy first."""
        return time.monotonic() < self._shunned_until, len(self._waiting)

    @property
    def waiting(self) -> int:
        """Prompts that it has not answered."""
        return len(self._waiting)

    async def ask(self, prompt: tokenizer_pb2.Prompt) -> tokenizer_pb2.PromptAnswer:
        """Returns the answer; this session sets `handle` of both.

        Raises the ServiceError that the tier answers with, or TokenizerLost.
        """
        if self._closed:
            raise Draining(_CLOSING)
        size = prompt.ByteSize()
        if size > self._prompt_bytes:
            raise RequestTooLarge(f"a prompt of {size:,} bytes is too large for the tokenizer tier")
        loop = asyncio.get_running_loop()
        handle = prompt.handle = self._next_handle
        self._next_handle = handle % _MAX_UINT32 + 1
        future: asyncio.Future[tokenizer_pb2.PromptAnswer] = loop.create_future()
        self._waiting[handle] = future
        self._message(size).prompts.append(prompt)
        self._wake.set()
        if not self._running:
            self._running = True
            self._tasks.start(self._run(), name=f"tokenizer {self.address}")
        limit = loop.call_later(_TIMEOUT_S, _settle, future, DeadlineExceeded("the tokenizer took too long"))
        try:
            answer = await future
        finally:
            limit.cancel()
            self._waiting.pop(handle, None)
        if answer.error_reason:
            raise by_reason(answer.error_reason)(answer.error_message, param=answer.error_param or None)
        return answer

    async def close(self) -> None:
        """Ends the stream; whoever still waits is told."""
        self._closed = True
        await self._tasks.close()
        self._drop(Draining(_CLOSING))
        await self._channel.close()

    async def _dial_anew(self) -> None:
        """Replaces the channel, which keeps the certificate that it was made with."""
        self._version = self._trust.version
        old, self._channel = self._channel, make_channel(self.address, self._config, trust=self._trust)
        self._stub = tokenizer_pb2_grpc.PromptServiceStub(self._channel)
        await old.close()

    async def _run(self) -> None:
        error: ServiceError = TokenizerLost(f"{self.address} ended the stream")
        try:
            if self._version != self._trust.version:
                await self._dial_anew()
            call = self._stub.Session(metadata=self._trust.metadata)
            work = (self._read(call), self._write(call), self._watch())
            await run_until_one_ends(call, *work, name=f"tokenizer {self.address}")
        except grpc.aio.AioRpcError as failure:
            # Whatever it is, it is not about one prompt: their errors come as answers.
            error = TokenizerLost(f"{self.address}: {from_rpc_error(failure).message}")
        except TokenizerLost as silence:
            error = silence
        except asyncio.CancelledError:
            error = Draining(_CLOSING)
            raise
        finally:
            self._running = False
            self.losses += not self._closed
            self._shunned_until = time.monotonic() + _SHUN_S
            self._drop(error)

    async def _watch(self) -> None:
        """Raises TokenizerLost for a process that is asked and stays silent. Time is counted in checks, not on a clock:
        if this process itself was held up, the other one is not to blame.
        """
        look_s = self._silence_limit_s / _LOOKS
        silent = 0
        while True:
            self._heard = False
            await asyncio.sleep(look_s)
            silent = 0 if self._heard or not self._waiting else silent + 1
            if silent >= _LOOKS:
                raise TokenizerLost(f"{self.address} has said nothing for {self._silence_limit_s:g} s")
            if silent:
                # Long prompts take their time; a process that works on them still answers this.
                self._message(0).ping = True
                self._wake.set()

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._heard = True
            for answer in message.answers:
                future = self._waiting.get(answer.handle)
                if future is not None and not future.done():
                    future.set_result(answer)

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            messages, self._outbox = self._outbox, []
            for message in messages:
                await call.write(message)

    def _message(self, size: int) -> tokenizer_pb2.PromptSessionRequest:
        """Returns the message being filled, or a new one where `size` more bytes would make it too long."""
        if not self._outbox or self._outbox_bytes + size > self._prompt_bytes:
            self._outbox.append(tokenizer_pb2.PromptSessionRequest(model=self._model))
            self._outbox_bytes = 0
        self._outbox_bytes += size
        return self._outbox[-1]

    def _drop(self, error: ServiceError) -> None:
        self._outbox = []
        for future in self._waiting.values():
            _settle(future, error)


def _settle(future: asyncio.Future[tokenizer_pb2.PromptAnswer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
