"""The token session over real gRPC: packing, rejections, aborts, ends, slow readers, queues, deadlines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from qwenserve.router.clients.logprobs import unpacked_run
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import from_rpc_error, make_server
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.dispatch import Dispatcher, DispatchLimits
from qwenserve.worker.engines.simulated.engine import Faults, SimulatedConfig, SimulatedEngine
from qwenserve.worker.service import WorkerIdentity, WorkerService
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.worker.running import Client, running, submit

# Never ends within a test, and shows each request's tokens apart: prompt [n] starts with id 64 + (1 + n) % 26.
ENDLESS = {"max_tokens": 30_000}
PACED = SimulatedConfig(step_s=0.002)
FAST = SimulatedConfig(step_s=0.0)


def expected_answer(prompt: list[int], count: int) -> list[int]:
    """The simulated engine's answer by hand, for prompts outside 64..89."""
    return [64 + (len(prompt) + sum(prompt) + n) % 26 for n in range(count)]


async def test_requests_of_a_step_share_a_message():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(*(submit(handle, [handle, 7], sampling={"max_tokens": 5}) for handle in (1, 2, 3)))
        for handle in (1, 2, 3):
            finish = await client.finish_of(handle)
            assert finish.reason == sampling_pb2.FINISH_REASON_LENGTH
            assert client.answer(handle).token_ids == expected_answer([handle, 7], 5)

        assert len(client.messages) <= 6
        assert all(len(message.handles) in (0, 3) for message in client.messages)
        assert all(len(set(message.handles)) == len(message.handles) for message in client.messages)


async def test_a_first_token_is_ahead_of_those_that_run():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1, 7], sampling=ENDLESS))
        await client.tokens_of(1)
        await client.send(submit(2, [2, 7], sampling=ENDLESS))
        await client.tokens_of(2)

        assert list(client.messages[-1].handles) == [2, 1]


async def test_answers_do_not_mix_when_requests_come_and_go():
    lengths = {handle: 1 + (handle * 7) % 23 for handle in range(1, 41)}
    async with running(FAST, max_running=8) as worker, worker.session() as client:
        for handle, length in lengths.items():
            await client.send(submit(handle, [handle, 100], sampling={"max_tokens": length, "top_logprobs": 1}))
        for handle, length in lengths.items():
            await client.finish_of(handle)
            answer = client.answer(handle)
            assert answer.token_ids == expected_answer([handle, 100], length)
            assert [logprob.token_id for logprob in answer.logprobs] == answer.token_ids


async def test_every_message_carries_a_newer_load():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1, 2], sampling={"max_tokens": 5}))
        await client.finish_of(1)
        sequences = [message.load.sequence for message in client.messages]

        assert sequences == sorted(set(sequences))
        assert client.messages[-1].load.running == 0
        assert client.messages[0].load.total_kv_blocks == PACED.kv_blocks


async def test_a_ping_is_answered_by_an_empty_message():
    async with running() as worker, worker.session() as client:
        await client.send(ping=True)
        message = await client.read()

        assert message.HasField("load")
        assert not message.handles
        assert not message.finishes


async def test_bad_submits_are_finishes_and_hurt_nobody_else():
    async with running(PACED) as worker, worker.session() as client:
        unset = submit(3, [1])
        unset.sampling.ClearField("top_p")
        await client.send(
            submit(1, []),
            submit(2, [1, 151_936]),
            unset,
            submit(4, [1] * 40_960),
            submit(5, [1], sampling={"max_tokens": 40_960}),
            submit(6, [1], sampling={"temperature": 3.0}),
            submit(7, [1], sampling={"max_tokens": 2}),
        )
        finishes = {handle: await client.finish_of(handle) for handle in range(1, 8)}

        assert {handle: finish.error_reason for handle, finish in finishes.items()} == {
            1: "INVALID_REQUEST",
            2: "INVALID_REQUEST",
            3: "INVALID_REQUEST",
            4: "CONTEXT_LENGTH_EXCEEDED",
            5: "CONTEXT_LENGTH_EXCEEDED",
            6: "INVALID_REQUEST",
            7: "",
        }
        assert "prompt_token_ids[1]" in finishes[2].error_message
        assert "sampling.top_p" in finishes[3].error_message
        assert "40960" in finishes[4].error_message
        assert all(finishes[h].reason == sampling_pb2.FINISH_REASON_ABORTED for h in range(1, 7))


@pytest.mark.parametrize("handle", [0, 1])
async def test_a_handle_that_cannot_be_told_apart_breaks_the_session(handle: int):
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS))
        await client.tokens_of(1)
        await client.send(submit(handle, [1]))
        status = await client.status()

        assert status.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert from_rpc_error(status).param == "submits.handle"
        await worker.until_idle()


async def test_an_engines_refusal_is_a_finish():
    async with running(SimulatedConfig(faults=Faults(refuse_after_requests=0))) as worker, worker.session() as client:
        await client.send(submit(1, [1]))
        finish = await client.finish_of(1)

        assert finish.error_reason == "UNSUPPORTED"
        await worker.until_idle()


async def test_an_abort_ends_a_request_and_leaves_the_others():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS), submit(2, [2], sampling=ENDLESS))
        await client.tokens_of(1)
        await client.send(aborts=(1, 99))
        finish = await client.finish_of(1)

        assert (finish.reason, finish.error_reason) == (sampling_pb2.FINISH_REASON_ABORTED, "")
        await client.tokens_of(2, len(client.answer(2).token_ids) + 5)
        await worker.until_load(lambda load: load.running == 1)
        assert client.answer(1).finish is finish


async def test_a_handle_can_be_used_again_after_its_finish():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS))
        await client.tokens_of(1)
        await client.send(aborts=(1,))
        await client.finish_of(1)
        client.answers.clear()
        await client.send(submit(1, [5], sampling={"max_tokens": 3}))
        await client.finish_of(1)

        assert client.answer(1).token_ids == expected_answer([5], 3)


async def test_an_abort_of_a_waiting_request_frees_its_place():
    async with running(PACED, max_running=1) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS), submit(2, [2]), submit(3, [3], sampling={"max_tokens": 1}))
        await client.send(aborts=(2,))
        await client.finish_of(2)
        await client.send(aborts=(1,))
        await client.finish_of(3)

        assert client.answer(2).token_ids == []
        assert client.answer(3).finish is not None


@pytest.mark.parametrize("how", ["cancel", "deadline", "channel"])
async def test_the_end_of_a_session_aborts_all_it_submitted(how: str):
    async with running(PACED, max_running=2) as worker:
        # Long enough for the first token on a busy machine.
        call = worker.stub.Session(timeout=2.0 if how == "deadline" else None)
        client = Client(call)
        await client.send(*(submit(handle, [handle], sampling=ENDLESS) for handle in (1, 2, 3, 4)))
        await client.tokens_of(1)
        load = await worker.load()
        assert (load.running, load.queued) == (2, 2)
        if how == "cancel":
            call.cancel()
        elif how == "deadline":
            assert (await client.status()).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            # Another channel's connection must go with its calls.
            await worker.channel.close()
            await asyncio.wait_for(until_engine_is_idle(worker.engine), 5)
            return
        await worker.until_idle()
        assert worker.engine.load().free_kv_blocks == PACED.kv_blocks


async def until_engine_is_idle(engine) -> None:
    while engine.load().running:  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0)


async def test_a_client_that_only_stops_sending_gets_its_answers():
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling={"max_tokens": 20}))
        await client.call.done_writing()
        await client.finish_of(1)

        assert await client.call.read() is grpc.aio.EOF
        assert await client.call.code() is grpc.StatusCode.OK


@contextlib.asynccontextmanager
async def narrow_session(port: int) -> AsyncIterator[Client]:
    """A session whose transport takes 64 kB ahead of its reader; with the default probing it is up to 4 MB."""
    narrow = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=narrow) as channel:
        yield Client(worker_pb2_grpc.WorkerServiceStub(channel).Session())


async def test_a_slow_readers_requests_end_one_by_one_and_its_session_goes_on():
    engine = SimulatedConfig(step_s=0.0005)
    buffers = {"request_buffer_bytes": 1 << 14, "session_buffer_bytes": 1 << 18}
    async with running(engine, **buffers, max_running=64) as worker, narrow_session(worker.port) as client:
        await client.send(*(submit(handle, [handle + 100], sampling=ENDLESS) for handle in range(1, 65)))
        await worker.until_load(lambda load: load.running > 0)
        await worker.until_idle()
        finishes = [await client.finish_of(handle) for handle in range(1, 65)]
        await client.send(submit(65, [1], sampling={"max_tokens": 5}))
        await client.finish_of(65)

        assert {finish.error_reason for finish in finishes} == {"SLOW_READER"}
        assert client.answer(65).token_ids == expected_answer([1], 5)
        for handle in range(1, 65):
            got = client.answer(handle).token_ids
            assert got == expected_answer([handle + 100], len(got))


async def test_a_request_that_overflows_ends_alone():
    """Its log-probabilities are 40 times as heavy as its neighbours' tokens."""
    engine = SimulatedConfig(step_s=0.0005)
    buffers = {"request_buffer_bytes": 1 << 17}
    heavy = submit(1, [1], sampling={**ENDLESS, "top_logprobs": 20})
    plain = [submit(handle, [handle], sampling={"max_tokens": 2000}) for handle in range(2, 9)]
    async with running(engine, **buffers, max_running=64) as worker, narrow_session(worker.port) as client:
        await client.send(heavy, *plain)
        await worker.until_load(lambda load: load.running == 8)
        # Nothing is read until the heavy one is gone, and the plain ones have ended.
        await worker.until_idle()
        finish = await client.finish_of(1)
        for handle in range(2, 9):
            assert (await client.finish_of(handle)).error_reason == ""
            assert client.answer(handle).token_ids == expected_answer([handle], 2000)

        assert finish.error_reason == "SLOW_READER"


async def test_a_reader_slower_than_a_free_engine_loses_nothing():
    prompts = {handle: [handle + 100] for handle in range(1, 65)}
    async with running(FAST, max_running=64) as worker, narrow_session(worker.port) as client:
        await client.send(*(submit(h, prompt, sampling={"max_tokens": 400}) for h, prompt in prompts.items()))
        for handle, prompt in prompts.items():
            await client.finish_of(handle)
            assert client.answer(handle).token_ids == expected_answer(prompt, 400)


async def test_a_message_that_is_not_taken_in_time_ends_the_session():
    engine = SimulatedEngine(SimulatedConfig(step_s=0.0005))
    dispatcher = Dispatcher(engine, DispatchLimits(64, 64, write_limit_s=0.02))
    info = await engine.start(dispatcher.deliver, dispatcher.fail)
    dispatcher.started(info)
    service = WorkerService()
    service.ready(dispatcher, info, WorkerIdentity("w", "m", "", 64))
    server = make_server(GrpcConfig())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with narrow_session(port) as client:
            await client.send(*(submit(handle, [handle], sampling=ENDLESS) for handle in range(1, 65)))
            await client.tokens_of(1)
            await asyncio.wait_for(dispatcher.idle(), 10)
            status = await client.status()

            assert from_rpc_error(status).reason == "SLOW_READER"
    finally:
        await engine.stop()
        await server.stop(None)


async def test_long_prompts_in_one_message_are_all_taken():
    async with running(PACED, max_running=4) as worker, worker.session() as client:
        prompt = [1] * 20_000
        await client.send(*(submit(handle, prompt, sampling={"max_tokens": 1}) for handle in range(1, 5)))
        load = await worker.until_load(lambda load: load.running + load.queued == 4)

        assert load.pending_prompt_tokens == 80_000


async def test_a_slow_reader_does_not_hold_up_another_session():
    many = [submit(handle, [handle], sampling=ENDLESS) for handle in range(1, 33)]
    async with running(FAST, max_running=64) as worker, worker.session() as slow:
        await slow.send(*many)
        await worker.until_load(lambda load: load.running == 32)
        async with worker.session() as quick:
            await quick.send(submit(1, [1], sampling={"max_tokens": 50}))
            await quick.finish_of(1)

            assert quick.answer(1).token_ids == expected_answer([1], 50)


async def test_a_full_queue_rejects_at_once():
    async with running(PACED, max_running=1, max_queued=2) as worker, worker.session() as client:
        await client.send(*(submit(handle, [handle], sampling=ENDLESS) for handle in range(1, 6)))
        finishes = [await client.finish_of(handle) for handle in (4, 5)]

        assert [finish.error_reason for finish in finishes] == ["QUEUE_FULL", "QUEUE_FULL"]
        assert all(finish.retry_after_ms > 0 for finish in finishes)
        load = await worker.load()
        assert (load.running, load.queued) == (1, 2)


async def test_a_busy_session_does_not_keep_another_out_of_the_queue():
    async with running(PACED, max_running=1, max_queued=2) as worker, worker.session() as busy:
        await busy.send(*(submit(handle, [handle], sampling=ENDLESS) for handle in range(1, 4)))
        await worker.until_load(lambda load: load.queued == 2)
        async with worker.session() as other:
            await other.send(submit(1, [1], sampling={"max_tokens": 1}))
            displaced = await busy.finish_of(3)
            await busy.send(aborts=(1, 2))
            await other.finish_of(1)

            assert displaced.error_reason == "QUEUE_FULL"
            assert len(other.answer(1).token_ids) == 1


async def test_higher_priority_is_served_first_and_the_wait_is_told():
    async with running(PACED, max_running=1) as worker, worker.session() as client:
        one = {"max_tokens": 1}
        await client.send(
            submit(1, [1], sampling={"max_tokens": 20}),
            submit(2, [2], sampling=one),
            submit(3, [3], sampling=one, priority=1),
            submit(4, [4], sampling=one, priority=-1),
        )
        for handle in (1, 2, 3, 4):
            await client.finish_of(handle)

        ended = [finish.handle for message in client.messages for finish in message.finishes]
        assert ended == [1, 3, 2, 4]
        finish = client.answer(3).finish
        assert finish is not None
        assert finish.queue_us > 1000


async def test_deadlines_end_running_and_waiting_requests():
    async with running(PACED, max_running=1) as worker, worker.session() as client:
        await client.send(
            submit(1, [1], sampling=ENDLESS, deadline_ms=60),
            submit(2, [2], sampling=ENDLESS, deadline_ms=20),
            submit(3, [3], sampling={"max_tokens": 2}),
        )
        finishes = [await client.finish_of(handle) for handle in (1, 2, 3)]

        assert [finish.error_reason for finish in finishes] == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", ""]
        ended = [finish.handle for message in client.messages for finish in message.finishes]
        assert ended == [2, 1, 3]


async def test_cached_tokens_are_told_and_kept_apart_by_salt():
    async with running(PACED) as worker, worker.session() as client:
        prompt = list(range(100, 140))
        one = {"max_tokens": 1}
        for handle, salt in ((1, ""), (2, ""), (3, "tenant")):
            await client.send(submit(handle, prompt, sampling=one, cache_salt=salt))
            await client.finish_of(handle)

        cached = [(await client.finish_of(handle)).cached_tokens for handle in (1, 2, 3)]
        assert cached == [0, 32, 0]


async def test_prompt_tokens_that_wait_are_in_the_load():
    engine = SimulatedConfig(step_s=0.001, faults=Faults(stall_after_steps=0))
    async with running(engine, max_running=1) as worker, worker.session() as client:
        await client.send(submit(1, [1] * 30), submit(2, [1] * 12))
        load = await worker.until_load(lambda load: load.queued > 0)

        assert load.pending_prompt_tokens == 42


@pytest.mark.parametrize("prompt", [[3, 4], list(range(200, 260))])
async def test_generate_says_what_a_session_says(prompt: list[int]):
    sampling = {"max_tokens": 7, "top_logprobs": 3}
    async with running(PACED) as worker, worker.session() as client:
        await client.send(submit(1, prompt, sampling=sampling, cache_salt="other"))
        finish = await client.finish_of(1)
        request = worker_pb2.GenerateRequest(
            prompt_token_ids=prompt, sampling=sampling_pb2.SamplingParams(max_tokens=7, top_logprobs=3)
        )
        responses = [response async for response in worker.stub.Generate(request)]

        assert [token for response in responses for token in response.token_ids] == client.answer(1).token_ids
        assert [
            logprob
            for response in responses
            if response.HasField("logprobs")
            for logprob in unpacked_run(response.token_ids, response.logprobs)
        ] == client.answer(1).logprobs
        assert [response.HasField("finish") for response in responses] == [False] * (len(responses) - 1) + [True]
        last = responses[-1].finish
        assert (last.handle, last.reason, last.cached_tokens) == (0, finish.reason, finish.cached_tokens)


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (worker_pb2.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids"),
        (worker_pb2.GenerateRequest(prompt_token_ids=[-1]), grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids[0]"),
        (worker_pb2.GenerateRequest(prompt_token_ids=[1] * 50_000), grpc.StatusCode.OUT_OF_RANGE, "prompt_token_ids"),
    ],
)
async def test_generate_fails_with_a_status(request_: worker_pb2.GenerateRequest, code: grpc.StatusCode, param: str):
    async with running() as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in worker.stub.Generate(request_):
                pass

        assert caught.value.code() is code
        assert from_rpc_error(caught.value).message.startswith(param)


async def test_generate_shares_the_queue_and_its_end_aborts():
    async with running(PACED, max_running=1, max_queued=0) as worker:
        endless = worker_pb2.GenerateRequest(
            prompt_token_ids=[1], sampling=sampling_pb2.SamplingParams(max_tokens=30_000)
        )
        call = worker.stub.Generate(endless)
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in worker.stub.Generate(endless):
                pass
        call.cancel()
        await worker.until_idle()

        assert from_rpc_error(caught.value).reason == "QUEUE_FULL"


async def test_a_prompts_logprobs_come_before_its_first_token():
    prompt = list(range(300, 700))
    async with running() as worker, worker.session() as client:
        await client.send(
            submit(1, prompt, sampling={"max_tokens": 3}, prompt_logprobs=2), submit(2, prompt, sampling=ENDLESS)
        )
        await client.finish_of(1)
        runs = [(at, run) for at, message in enumerate(client.messages) for run in message.prompt_logprobs]
        first_token = next(at for at, message in enumerate(client.messages) if 1 in message.handles)

        assert {run.handle for _, run in runs} == {1}
        assert max(at for at, _ in runs) <= first_token
        places = [place for _, run in runs for place in range(run.start, run.start + len(run.logprobs))]
        assert places == list(range(1, len(prompt)))
        for _, run in runs:
            assert len(run.top_token_ids) == len(run.top_logprobs) == 2 * len(run.logprobs)
        assert len(client.answer(1).token_ids) == 3


async def test_what_is_expected_to_be_cached_is_no_work_ahead():
    slow = SimulatedConfig(step_s=0.001, prefill_tokens_per_s=100.0, prefill_chunk_tokens=1)
    async with running(slow, max_running=1) as worker, worker.session() as client:
        prompts = [submit(n, list(range(100, 200)), sampling={"max_tokens": 2}) for n in (1, 2)]
        prompts[0].expected_cached_tokens = 64
        prompts[1].expected_cached_tokens = 5000
        await client.send(*prompts)
        await worker.until_load(lambda load: load.pending_prompt_tokens == 36 + 1)
        await client.send(aborts=(2,))
        await worker.until_load(lambda load: load.pending_prompt_tokens == 36)
        await client.send(aborts=(1,))
        await worker.until_load(lambda load: load.pending_prompt_tokens == 0 and load.running == 0)
        await client.send(submit(3, [1, 2], sampling={"max_tokens": 1}))
        await client.finish_of(3)

        assert (await worker.load()).pending_prompt_tokens == 0
