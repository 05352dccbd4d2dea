"""What one client asks for, or does not read, is no harm to the others."""

from __future__ import annotations

import asyncio

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.whole import chat_completion
from qwenserve.type.v1 import sampling_pb2
from tests.system.requests import chat
from tests.system.stack import running_stack, stack_config
from tests.system.test_grpc import rest_of

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


async def _answer(call: object) -> chat_pb2.ChatCompletion:
    fold = Fold()
    fold.events(await rest_of(call))
    return chat_completion(fold)
