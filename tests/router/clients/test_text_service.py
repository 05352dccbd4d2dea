"""The text library in the router and the tokenizer tier give the same, whatever happens to the tier."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qwenserve.chat.v1 import message_pb2
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from router.clients.text_service import LocalTextService, RemoteTextService, RenderedChat, TextService
from runtime.conversation import conversation_to_template
from runtime.errors import InternalError, InvalidRequest, ModelNotFound, Unavailable
from runtime.grpc_setup import make_server
from tests.system.processes import free_port
from tests.system.stack import TINY, stack_config, until
from text.assets import load_assets
from tokenizer_svc.service import TokenizerServicer

CONFIG = stack_config()
ASSETS = load_assets(TINY)


class CountingServicer(TokenizerServicer):
    """The real tier, which also counts its calls, and waits in each until `gate` is open."""

    def __init__(self) -> None:
        super().__init__(ASSETS, CONFIG)
        self.batches: list[int] = []
        self.texts = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.short = False

    async def TokenizeChat(self, request: Any, context: Any) -> Any:  # noqa: N802  # the proto's name
        self.batches.append(len(request.conversations))
        await self.gate.wait()
        response = await super().TokenizeChat(request, context)
        if self.short:
            del response.results[-1]
        return response

    async def Tokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.texts += 1
        return tokenizer_pb2.TokenizeResponse() if self.short else await super().Tokenize(request, context)


@contextlib.asynccontextmanager
async def tier(servicer: TokenizerServicer) -> AsyncIterator[str]:
    server = make_server(CONFIG.grpc)
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def remote(*addresses: str, model: str = CONFIG.model_name) -> AsyncIterator[RemoteTextService]:
    service = RemoteTextService(addresses, model, CONFIG.grpc)
    try:
        yield service
    finally:
        await service.close()


def good(text: str) -> message_pb2.Conversation:
    return message_pb2.Conversation(
        messages=[message_pb2.Message(role=message_pb2.ROLE_USER, content=text)], enable_thinking=True
    )


def unrenderable() -> message_pb2.Conversation:
    """The template drops a thought in the message to continue."""
    conversation = good("Hi")
    conversation.messages.add(role=message_pb2.ROLE_ASSISTANT, content="<think>a</think>b")
    conversation.continue_final_message = True
    return conversation


async def render(
    service: TextService, conversation: message_pb2.Conversation, *, need_prompt: bool = False
) -> RenderedChat:
    given = conversation_to_template(conversation)
    return await service.render_chat(conversation, given, need_prompt=need_prompt)


async def test_both_give_the_same_ids_and_texts() -> None:
    local = LocalTextService(ASSETS)
    async with tier(CountingServicer()) as address, remote(address) as service:
        for text in ("Hello", "你好，你是谁？", "long " * 3000):
            here, there = await render(local, good(text)), await render(service, good(text), need_prompt=True)
            assert list(here.token_ids) == list(there.token_ids)
            assert here.prompt == there.prompt
            assert list(await local.tokenize(text)) == list(await service.tokenize(text))


async def test_what_comes_while_a_batch_is_under_way_travels_together() -> None:
    servicer = CountingServicer()
    servicer.gate.clear()
    async with tier(servicer) as address, remote(address) as service:
        first = asyncio.ensure_future(render(service, good("0")))
        await until(lambda: servicer.batches == [1])
        others = [asyncio.ensure_future(render(service, good(str(n)))) for n in range(1, 71)]
        await asyncio.sleep(0)
        servicer.gate.set()
        results = await asyncio.gather(first, *others)

    local = LocalTextService(ASSETS)
    assert servicer.batches == [1, 64, 6]
    for number in (0, 1, 64, 65, 70):
        assert list(results[number].token_ids) == list((await render(local, good(str(number)))).token_ids)


@pytest.mark.parametrize("where", ["local", "remote"])
async def test_a_conversation_that_cannot_be_rendered_is_named_the_same_way(where: str) -> None:
    async with tier(CountingServicer()) as address, remote(address) as service:
        with pytest.raises(InvalidRequest) as caught:
            await render(service if where == "remote" else LocalTextService(ASSETS), unrenderable())

    assert caught.value.param == "messages[1]"
    assert caught.value.message.startswith("messages[1]: ")


async def test_one_bad_conversation_does_not_hurt_its_neighbours() -> None:
    servicer = CountingServicer()
    servicer.gate.clear()
    async with tier(servicer) as address, remote(address) as service:
        first = asyncio.ensure_future(render(service, good("0")))
        await until(lambda: servicer.batches == [1])
        batch = [good("a"), unrenderable(), good("b")]
        rest = [asyncio.ensure_future(render(service, conversation)) for conversation in batch]
        await asyncio.sleep(0)
        servicer.gate.set()
        await first
        a, bad, b = await asyncio.gather(*rest, return_exceptions=True)

    assert isinstance(bad, InvalidRequest)
    assert isinstance(a, RenderedChat)
    assert isinstance(b, RenderedChat)


async def test_a_caller_that_left_does_not_disturb_its_batch() -> None:
    servicer = CountingServicer()
    servicer.gate.clear()
    async with tier(servicer) as address, remote(address) as service:
        leaving = asyncio.ensure_future(render(service, good("0")))
        await until(lambda: servicer.batches == [1])
        staying = asyncio.ensure_future(render(service, good("1")))
        leaving.cancel()
        servicer.gate.set()

        assert (await staying).token_ids


async def test_no_tier_is_unavailable_and_says_so() -> None:
    async with remote(f"127.0.0.1:{free_port()}") as service:
        results = await asyncio.gather(
            *(render(service, good(str(n))) for n in range(3)), service.tokenize("x"), return_exceptions=True
        )

    for error in results:
        assert isinstance(error, Unavailable)
        assert "no tokenizer answers" in error.message
        assert error.retry_after_s


async def test_another_process_of_the_tier_answers_where_one_is_gone() -> None:
    servicer = CountingServicer()
    async with tier(servicer) as address, remote(f"127.0.0.1:{free_port()}", address) as service:
        for number in range(4):
            assert (await render(service, good(str(number)))).token_ids
            assert await service.tokenize("x")


async def test_processes_of_the_tier_take_turns() -> None:
    first, second = CountingServicer(), CountingServicer()
    async with tier(first) as one, tier(second) as other, remote(one, other) as service:
        for _ in range(4):
            await service.tokenize("x")

    assert (first.texts, second.texts) == (2, 2)


async def test_a_tier_for_another_model_is_told_apart() -> None:
    async with tier(CountingServicer()) as address, remote(address, model="other") as service:
        with pytest.raises(ModelNotFound):
            await render(service, good("x"))


async def test_an_answer_with_too_few_results_is_a_defect_of_the_tier_and_nobody_hangs() -> None:
    servicer = CountingServicer()
    servicer.short = True
    async with tier(servicer) as address, remote(address) as service:
        with pytest.raises(InternalError):
            await render(service, good("x"))
        with pytest.raises(InternalError):
            await service.tokenize("x")

        servicer.short = False
        assert (await render(service, good("x"))).token_ids


async def test_closing_tells_those_who_wait() -> None:
    servicer = CountingServicer()
    servicer.gate.clear()
    async with tier(servicer) as address:
        service = RemoteTextService([address], CONFIG.model_name, CONFIG.grpc)
        waiting = [asyncio.ensure_future(render(service, good(str(n)))) for n in range(3)]
        await until(lambda: bool(servicer.batches))

        await service.close()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        servicer.gate.set()

    assert [getattr(error, "reason", "") for error in results] == ["DRAINING"] * 3
