"""Reads and writes the worker's streams: where sessions meet gRPC.

A session has two tasks, one that reads and one that writes, both owned by the call. Only the writer touches the
packer's messages, so while a write waits for the peer, engine steps merge behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

import grpc

from qwenserve.runtime.errors import SlowReader, by_reason
from qwenserve.runtime.packed_ids import BYTES_PER_ID, packed_ids
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.dispatch import Dispatcher
from qwenserve.worker.router_session import Session
from qwenserve.worker.v1 import worker_pb2

# Checking this many prompt ids takes about a millisecond; then the event loop gets a turn.
_IDS_PER_TURN = 16_384

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


async def serve_session(dispatcher: Dispatcher, context: Context) -> None:
    """Serves one session until its peer is done or gone, or the session fails. Raises ServiceError.

    A peer that only stops sending still gets the answers to what it sent.
    """
    session = dispatcher.open_session()
    reader = asyncio.ensure_future(_read(dispatcher, session, context))
    writer = asyncio.ensure_future(_write(dispatcher, session, context, reader))
    session.when_cut_off(writer.cancel)
    reader.add_done_callback(lambda _: session.changed.set())
    try:
        await asyncio.wait({writer})
    finally:
        dispatcher.close_session(session)
        reader.cancel()
        writer.cancel()
        await asyncio.wait({reader, writer})
    if session.failure is not None:
        raise session.failure
    for task in (reader, writer):
        if not task.cancelled():
            task.result()


async def serve_generate(
    dispatcher: Dispatcher, request: worker_pb2.GenerateRequest
) -> AsyncGenerator[worker_pb2.GenerateResponse, None]:
    """Yields one request's answer. Raises ServiceError where a session would report a failed finish."""
    session = dispatcher.open_session()
    try:
        dispatcher.submit(
            session,
            worker_pb2.Submit(
                handle=1,
                prompt_token_ids=packed_ids(request.prompt_token_ids),
                sampling=with_neutral(request.sampling),
                request_id=request.request_id,
            ),
        )
        while True:
            message = await _next_message(dispatcher, session)
            response = worker_pb2.GenerateResponse(token_ids=message.token_ids)
            for run in message.logprobs:
                run.handle = 0
                response.logprobs.CopyFrom(run)
            for finish in message.finishes:
                if finish.error_reason:
                    raise by_reason(finish.error_reason)(finish.error_message)
                finish.handle = 0
                response.finish.CopyFrom(finish)
            yield response
            if message.finishes:
                return
    finally:
        dispatcher.close_session(session)


async def _next_message(dispatcher: Dispatcher, session: Session) -> worker_pb2.SessionResponse:
    while (message := dispatcher.take(session)) is None:
        if session.failure is not None:
            raise session.failure
        session.changed.clear()
        await session.changed.wait()
    return message


async def _read(dispatcher: Dispatcher, session: Session, context: Context) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        checked = 0
        await dispatcher.fewer_ends(session)
        for submit in message.submits:
            dispatcher.submit(session, submit)
            checked += len(submit.prompt_token_ids) // BYTES_PER_ID
            if checked >= _IDS_PER_TURN:
                checked = 0
                await asyncio.sleep(0)
        for handle in message.aborts:
            dispatcher.abort(session, handle)
        if message.cache_news:
            dispatcher.cache.subscribe(session)
        if message.ping:
            session.packer.ping()
            session.changed.set()


async def _write(dispatcher: Dispatcher, session: Session, context: Context, reader: asyncio.Future[None]) -> None:
    limit = _WriteLimit(session, dispatcher.write_limit_s)
    try:
        while True:
            while (message := dispatcher.take(session)) is not None:
                limit.begin()
                await context.write(message)
                limit.end()
            if session.failure is not None or (reader.done() and (not session.flights or _broken(reader))):
                return
            session.changed.clear()
            await session.changed.wait()
    finally:
        limit.close()


class _WriteLimit:
    """Cuts off a session whose peer leaves a message untaken for `limit_s`. One timer looks now and then whether a
    write has taken so long: to set and cancel one is a good part of what a message costs.
    """

    def __init__(self, session: Session, limit_s: float) -> None:
        self._session = session
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # When the write began that is not done; 0 where none is.
        self._began = 0.0

    def begin(self) -> None:
        """A write begins."""
        self._began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._look)

    def end(self) -> None:
        """It is done."""
        self._began = 0.0

    def close(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._began:
            return
        left = self._began + self._limit_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._session.cut_off(SlowReader(f"a message was not read within {self._limit_s:g} seconds"))


def _broken(reader: asyncio.Future[None]) -> bool:
    return reader.cancelled() or reader.exception() is not None
