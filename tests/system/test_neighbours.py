"""What one client asks for, or does not read, is no harm to the others."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc_status import rpc_status

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.whole import chat_completion
from qwenserve.runtime.grpc_setup import from_rpc_error
from qwenserve.type.v1 import sampling_pb2
from tests.system.requests import chat
from tests.system.stack import running_stack, stack_config, until
from tests.system.test_grpc import rest_of
from tests.system.test_limits import outcomes

LENGTH = sampling_pb2.FINISH_REASON_LENGTH


async def test_log_probabilities_do_not_fill_the_session_of_others() -> None:
    """40 answers with 20 alternatives for each token beside 20 plain ones."""
    config = stack_config(worker__max_running=64, worker__simulated__step_ms=10)
    async with running_stack(config) as stack:
        stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
        heavy = [chat(max_tokens=64, top_logprobs=20) for _ in range(40)]
        plain = [chat(max_tokens=64) for _ in range(20)]
        answers = await asyncio.gather(
            *(_answer(stub.StreamChatCompletion(request)) for request in (*heavy, *plain)),
        )

        assert [answer.choices[0].finish.reason for answer in answers] == [LENGTH] * 60
        counts = [len(answer.choices[0].logprobs) for answer in answers]
        assert counts == [64] * 40 + [0] * 20
        assert {len(item.top_logprobs) for answer in answers for item in answer.choices[0].logprobs} == {20}


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("limits", [{"grpc__write_buffer_bytes": 4096}, {"grpc__write_timeout_s": 0.2}])
async def test_a_grpc_client_that_does_not_read_loses_its_call_and_its_engine_work(
    limits: dict[str, float], session: bool
) -> None:
    """Its answers are a megabyte: much more than the transport takes ahead of a reader."""
    async with running_stack(stack_config(**limits, worker__max_running=16)) as stack:
        # 64 kB are taken ahead; with the default probing it is up to 4 MB.
        narrow = [("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.router.grpc_port}", options=narrow) as channel:
            stub = chat_pb2_grpc.ChatServiceStub(channel)
            request = chat(max_tokens=2000, ignore_eos=True, top_logprobs=20)
            if session:
                call = stub.ChatSession()
                submits = [chat_pb2.ChatSubmit(handle=handle, request=request) for handle in (1, 2)]
                await call.write(chat_pb2.ChatSessionRequest(submits=submits))
            else:
                call = stub.StreamChatCompletion(request)
            await call.read()
            await stack.until_idle()
            while not (ended := await outcomes(stack)):  # the engine may be done before the client has been given up
                pass
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rest_of(call)

        assert from_rpc_error(caught.value).reason == "SLOW_READER"
        assert ended.keys() == {'qwenserve_requests_total{kind="chat",outcome="slow_reader"}'}


@pytest.mark.parametrize("session", [False, True])
async def test_a_grpc_client_that_leaves_is_no_event_for_an_operator(
    session: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of an answer: by cancelling its call, and by closing its connection."""
    endless = chat(max_tokens=4000, ignore_eos=True)
    async with running_stack(stack_config(worker__simulated__step_ms=1)) as stack:
        for closes in (False, True):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.router.grpc_port}") as channel:
                stub = chat_pb2_grpc.ChatServiceStub(channel)
                if session:
                    call = stub.ChatSession()
                    submits = [chat_pb2.ChatSubmit(handle=1, request=endless)]
                    await call.write(chat_pb2.ChatSessionRequest(submits=submits))
                else:
                    call = stub.StreamChatCompletion(endless)
                await call.read()
                if closes:
                    await channel.close()
                else:
                    call.cancel()
                await stack.until_idle()
        while sum((await outcomes(stack)).values()) < 2:
            pass

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_router_refuses_what_is_more_than_it_takes_and_says_when_to_come_back() -> None:
    config = stack_config(router__max_open_requests=2, worker__simulated__step_ms=10)
    async with running_stack(config) as stack:
        stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
        open_calls = [stub.StreamChatCompletion(chat(max_tokens=4000, ignore_eos=True)) for _ in range(2)]
        for call in open_calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateChatCompletion(chat(max_tokens=2))
        open_calls[0].cancel()
        await until(lambda: stack.running() == 1)
        answer = await stub.CreateChatCompletion(chat(max_tokens=2))

        assert from_rpc_error(caught.value).reason == "QUEUE_FULL"
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert any(detail.type_url.endswith("RetryInfo") for detail in status.details)
        assert answer.usage.completion_tokens == 2


async def _answer(call: object) -> chat_pb2.ChatCompletion:
    fold = Fold()
    fold.events(await rest_of(call))
    return chat_completion(fold)
