"""A worker directly, over the token session: what the tier adds is what the tier's figures have beyond this one's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc

from qwenserve.bench.clients.endpoint import EndpointError
from qwenserve.bench.clients.grpc import error_name
from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Sample
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.packed_ids import BYTES_PER_ID, packed_ids
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

# On the token session every field is set: a worker defaults none.
_GREEDY = sampling_pb2.SamplingParams(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    seed=0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
    min_tokens=0,
    ignore_eos=True,
)


class WorkerEndpoint:
    """All requests on one token session, as a router has it. Samples must be token ids."""

    def __init__(self, address: str, *, timeout_s: float = 600.0) -> None:
        self._channel = make_channel(address, GrpcConfig())
        self._stub: Any = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self._timeout_s = timeout_s
        self._outbox = worker_pb2.SessionRequest()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._answers: dict[int, tuple[Record, asyncio.Future[str]]] = {}
        self._next_handle = 1
        self._call: Any = None
        self.description = "token session with the worker, without a router"

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> worker_pb2.Submit:
        """Returns the submit. Raises EndpointError for text."""
        if not sample.token_ids:
            raise EndpointError("a worker takes token ids only")
        submit = worker_pb2.Submit(prompt_token_ids=packed_ids(sample.token_ids))
        submit.sampling.CopyFrom(_GREEDY)
        submit.sampling.max_tokens = sample.max_tokens
        return submit

    async def send(self, prepared: worker_pb2.Submit, record: Record, *, keep_text: bool = False) -> None:
        """Sends one request and waits for its end."""
        if self._call is None:
            self._open()
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[handle] = (record, done)
        prepared.handle = handle
        self._outbox.submits.append(prepared)
        record.sent = time.perf_counter()
        record.prompt_tokens = len(prepared.prompt_token_ids) // BYTES_PER_ID
        self._wake.set()
        try:
            record.error = await within(self._timeout_s, done)
        except asyncio.TimeoutError:
            record.error = "timeout"
        finally:
            self._answers.pop(handle, None)
            record.ended = time.perf_counter()

    async def close(self) -> None:
        """Ends the session and the channel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    def _open(self) -> None:
        self._call = self._stub.Session()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write()), loop.create_task(self._read())]

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            message, self._outbox = self._outbox, worker_pb2.SessionRequest()
            await self._call.write(message)

    async def _read(self) -> None:
        problem = "session ended"
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self._take(message, time.perf_counter())
        except grpc.aio.AioRpcError as error:
            problem = error_name(error)
        for _, done in self._answers.values():
            if not done.done():
                done.set_result(problem)

    def _take(self, message: worker_pb2.SessionResponse, now: float) -> None:
        answers = self._answers
        counts = message.counts or [1] * len(message.handles)
        for handle, count in zip(message.handles, counts, strict=True):
            if found := answers.get(handle):
                found[0].arrived(now, count)
                found[0].completion_tokens += count
        for finish in message.finishes:
            found = answers.get(finish.handle)
            if found is not None and not found[1].done():
                found[0].cached_tokens = finish.cached_tokens
                found[1].set_result(finish.error_reason)
