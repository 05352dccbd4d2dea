"""The tokenizer tier's stream for routers, over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio

from qwenserve.chat.v1 import message_pb2 as chat
from qwenserve.runtime.config import load_config
from qwenserve.runtime.grpc_setup import make_channel, make_server
from qwenserve.text.assets import load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2 as pb
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.prompt_session import PromptServicer

MODEL = Path(__file__).parents[2] / "models" / "qwen3-tiny"
CONFIG = load_config(environment={}, overrides={"model.reference": str(MODEL)}).config
ASSETS = load_assets(MODEL)


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Any]:
    server = make_server(CONFIG.grpc)
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(PromptServicer(ASSETS, CONFIG), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with make_channel(f"127.0.0.1:{port}", CONFIG.grpc) as channel:
            yield tokenizer_pb2_grpc.PromptServiceStub(channel).Session()
    finally:
        await server.stop(None)


async def answers(session: Any, *prompts: pb.Prompt, model: str = "") -> dict[int, pb.PromptAnswer]:
    """Writes all in one message, stops sending, and reads to the end."""
    await session.write(pb.PromptSessionRequest(model=model, prompts=prompts))
    await session.done_writing()
    found: dict[int, pb.PromptAnswer] = {}
    while (message := await session.read()) is not grpc.aio.EOF:
        for answer in message.answers:
            assert answer.handle not in found
            found[answer.handle] = answer
    assert await session.code() is grpc.StatusCode.OK
    return found


def conversation(*messages: chat.Message, **fields: Any) -> chat.Conversation:
    return chat.Conversation(messages=messages, **fields)


async def test_a_router_that_stops_sending_gets_the_rest(session: Any) -> None:
    """Short ones and long ones, texts and conversations: each is answered once."""
    long = "many words " * 4000
    hello = conversation(chat.Message(role=chat.ROLE_USER, content="Hello"), enable_thinking=False)
    found = await answers(
        session,
        pb.Prompt(handle=1, text=long),
        pb.Prompt(handle=2, text="short"),
        pb.Prompt(handle=3, conversation=hello, return_text=True),
        pb.Prompt(handle=4, conversation=hello),
        *(pb.Prompt(handle=handle, text="x" * handle) for handle in range(5, 300)),
    )

    rendered = ASSETS.template.render([{"role": "user", "content": "Hello"}], enable_thinking=False)
    assert found.keys() == set(range(1, 300))
    assert found[1].token_ids == ASSETS.tokenizer.encode(long).tolist()
    assert found[2].token_ids == ASSETS.tokenizer.encode("short").tolist()
    assert found[3].token_ids == found[4].token_ids == ASSETS.tokenizer.encode(rendered).tolist()
    assert (found[3].text, found[4].text) == (rendered, "")


async def test_what_cannot_be_done_is_an_answer_of_its_own(session: Any) -> None:
    """The stream and its other prompts go on; the field is named from the conversation on."""
    found = await answers(
        session,
        pb.Prompt(handle=1),
        pb.Prompt(handle=2, conversation=conversation()),
        pb.Prompt(handle=3, conversation=conversation(chat.Message(content="who says it?"))),
        pb.Prompt(handle=4, text="fine"),
    )

    assert {handle: (answer.error_reason, answer.error_param) for handle, answer in found.items()} == {
        1: ("INVALID_REQUEST", "source"),
        2: ("INVALID_REQUEST", "messages"),
        3: ("INVALID_REQUEST", "messages[0].role"),
        4: ("", ""),
    }


async def test_another_model_is_refused(session: Any) -> None:
    """By each prompt's answer."""
    found = await answers(session, pb.Prompt(handle=9, text="x"), model="other")

    assert (found[9].error_reason, found[9].error_param) == ("MODEL_NOT_FOUND", "model")
