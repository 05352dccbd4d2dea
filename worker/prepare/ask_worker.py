"""A running worker, asked for prompts' log-probabilities and greedy answers through the worker protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.prepare.compare import TOP, CannotCheck, Measured, Position, Spoken
from qwenserve.worker.prepare.texts import Text
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc


class _Answer(NamedTuple):
    positions: list[Position]
    token_ids: list[int]


async def measure_worker(
    address: str, texts: Sequence[Text], greedy: int, *, limit_s: float = 120.0, info_limit_s: float = 10.0
) -> Measured:
    """Returns what a worker says of the texts, asked one after the other. `limit_s` is for each. Raises CannotCheck."""
    async with make_channel(address, GrpcConfig()) as channel:
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        try:
            info: worker_pb2.WorkerInfo = await stub.GetWorkerInfo(
                worker_pb2.GetWorkerInfoRequest(), timeout=info_limit_s, wait_for_ready=True
            )
            _check(address, info, texts, greedy)
            call = stub.Session()
            spoken: list[Spoken] = []
            seconds = 0.0
            for number, text in enumerate(texts):
                submit = worker_pb2.Submit(handle=2 * number + 1, prompt_logprobs=TOP)
                scored = await within(limit_s, _ask(call, address, submit, text.token_ids, 1))
                answer = _Answer([], [])
                if greedy:
                    submit = worker_pb2.Submit(handle=2 * number + 2)
                    prompt = text.token_ids[: text.prompt_tokens]
                    start = time.perf_counter()
                    answer = await within(limit_s, _ask(call, address, submit, prompt, greedy))
                    seconds += time.perf_counter() - start
                spoken.append(Spoken(scored.positions, answer.token_ids))
            call.cancel()
        except grpc.aio.AioRpcError as error:
            raise CannotCheck(f"{address}: {error.code().name}: {error.details()}") from None
        except asyncio.TimeoutError:
            raise CannotCheck(f"{address} took more than {limit_s:g} s for a text") from None
    name = f"{info.name} ({info.engine} {info.engine_version}, {info.model} at {address})"
    return Measured(name, spoken, seconds)


def _check(address: str, info: worker_pb2.WorkerInfo, texts: Sequence[Text], greedy: int) -> None:
    for name in ("prompt_logprobs", "ignore_eos"):
        if name in info.unsupported_fields:
            raise CannotCheck(f"{address}: its engine ({info.engine}) does not give {name}")
    longest = max(len(text.token_ids) for text in texts)
    if longest + greedy > info.max_model_len:
        raise CannotCheck(
            f"{address}: a text of {longest} ids and {greedy} more exceed its window of {info.max_model_len}; "
            "lower --max-tokens"
        )
    if max(max(text.token_ids) for text in texts) >= info.vocab_size:
        raise CannotCheck(f"{address}: its vocabulary has {info.vocab_size} ids; this is another model's tokenizer")


async def _ask(call: Any, address: str, submit: worker_pb2.Submit, prompt: Sequence[int], max_tokens: int) -> _Answer:
    submit.prompt_token_ids = packed_ids(prompt)
    submit.sampling.CopyFrom(
        with_neutral(sampling_pb2.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True))
    )
    await call.write(worker_pb2.SessionRequest(submits=[submit]))
    answer = _Answer([], [])
    while True:
        message = await call.read()
        if message is grpc.aio.EOF:
            raise CannotCheck(f"{address} ended the session")
        for run in message.prompt_logprobs:
            answer.positions.extend(_positions(run))
        # One request at a time: all ids of a message are its own.
        answer.token_ids.extend(message.token_ids)
        for finish in message.finishes:
            if finish.error_reason:
                raise CannotCheck(f"{address}: {finish.error_reason}: {finish.error_message}")
            return answer


def _positions(run: worker_pb2.PromptLogprobRun) -> list[Position]:
    each = len(run.top_token_ids) // len(run.logprobs) if run.logprobs else 0
    return [
        Position(
            logprob,
            tuple(
                zip(
                    run.top_token_ids[each * i : each * (i + 1)],
                    run.top_logprobs[each * i : each * (i + 1)],
                    strict=True,
                )
            ),
        )
        for i, logprob in enumerate(run.logprobs)
    ]
