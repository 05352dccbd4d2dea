"""The text library in the router and the tokenizer tier give the same, whatever happens to the tier."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from qwenserve.chat.v1 import message_pb2
from qwenserve.router.clients.text_service import LocalTextService, RemoteTextService, RenderedChat, TextService
from qwenserve.runtime.errors import InvalidRequest, ModelNotFound, RequestTooLarge, Unavailable
from qwenserve.runtime.grpc_setup import make_server
from qwenserve.text.assets import load_assets
from qwenserve.text.conversation import conversation_to_template
from qwenserve.text.tokenizer import INLINE_CHARACTERS
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.prompt_session import PromptServicer
from tests.system.processes import free_port
from tests.system.stack import TINY, stack_config, until

CONFIG = stack_config()
ASSETS = load_assets(TINY)
LONG = "word " * INLINE_CHARACTERS


class CountingServicer(PromptServicer):
    """The real tier, which also counts its messages and prompts, and works on them only while `gate` is open."""

    def __init__(self) -> None:
        super().__init__(ASSETS, CONFIG)
        self.batches: list[int] = []
        self.streams = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.hangs_up = False

    async def Session(self, request_iterator: Any, context: Any) -> None:  # noqa: N802  # the proto's name
        self.streams += 1
        if self.hangs_up:
            await context.read()
            return
        await super().Session(request_iterator, CountingContext(self, context))


class CountingContext:
    """A call's context, seen from the servicer."""

    def __init__(self, servicer: CountingServicer, context: Any) -> None:
        self._servicer = servicer
        self._context = context
        self.write = context.write

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._servicer.batches.append(len(message.prompts))
            await self._servicer.gate.wait()
        return message


@contextlib.asynccontextmanager
async def tier(servicer: PromptServicer) -> AsyncIterator[str]:
    server = make_server(CONFIG.grpc)
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def remote(
    *addresses: str, model: str = CONFIG.model_name, silence_limit_s: float = 5.0
) -> AsyncIterator[RemoteTextService]:
    service = RemoteTextService(addresses, model, CONFIG.grpc, silence_limit_s=silence_limit_s)
    try:
        yield service
    finally:
        await service.close()


@contextlib.contextmanager
def threads_taken() -> Iterator[Callable[[], None]]:
    """Inside, the thread that long texts are tokenized in is taken, until what is given is called."""
    taken = threading.Event()
    threads = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(threads)
    threads.submit(taken.wait)
    try:
        yield taken.set
    finally:
        taken.set()
        threads.shutdown()


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
        texts = ["Hello", "", "long " * 3000, "Hello"]
        batches = [await each.tokenize_batch(texts) for each in (local, service)]
        assert [list(ids) for ids in batches[0]] == [list(ids) for ids in batches[1]]
        assert [list(await local.tokenize(text)) for text in texts] == [list(ids) for ids in batches[0]]


@pytest.mark.parametrize("setting", ["plain", "allow"])
async def test_added_tokens_in_contents_are_the_same_in_both(setting: str) -> None:
    """Short and long, and in one that is rendered in a thread."""
    config = stack_config(template__special_tokens_in_content=setting)
    local = LocalTextService(ASSETS, guard=setting == "plain")
    texts = ["a<|im_end|>b", "<think>", "<|im_start|>system\n" * 1000]
    large = good("<|im_end|>")
    for _ in range(600):
        large.messages.add(role=message_pb2.ROLE_USER, content="<|im_start|>")
    end = ASSETS.tokenizer.added_ids["<|im_end|>"]
    async with tier(PromptServicer(ASSETS, config)) as address, remote(address) as service:
        for conversation in [*map(good, texts), large]:
            here = await render(local, conversation)
            there = await render(service, conversation, need_prompt=True)
            assert list(here.token_ids) == list(there.token_ids)
            assert here.prompt == there.prompt == ASSETS.tokenizer.decode(here.token_ids)
        first = await render(service, good(texts[0]))
        assert list(first.token_ids).count(end) == (1 if setting == "plain" else 2)


async def test_what_comes_at_once_travels_together_on_one_stream() -> None:
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
    assert servicer.batches == [1, 70]
    assert servicer.streams == 1
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


async def test_no_tier_is_unavailable_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenserve.router.clients.text_service._AGAIN_S", 0.0)
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


async def test_another_process_of_the_tier_answers_where_one_is_silent() -> None:
    stuck = CountingServicer()
    stuck.gate.clear()
    async with tier(stuck) as silent, tier(PromptServicer(ASSETS, CONFIG)) as other:
        async with remote(silent, other, silence_limit_s=0.4) as text:
            for number in range(4):
                assert await text.tokenize(f"number {number}") == ASSETS.tokenizer.encode(f"number {number}").tolist()

        assert stuck.streams > 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier that is not there is given up soon, and not only after the time that a process takes to restart."""
    monkeypatch.setattr("qwenserve.router.clients.text_service._TURNS", 3)


async def test_a_tier_that_is_silent_altogether_is_unavailable(impatient: None) -> None:
    stuck = CountingServicer()
    stuck.gate.clear()
    async with tier(stuck) as silent, remote(silent, silence_limit_s=0.4) as text:
        with pytest.raises(Unavailable, match="has said nothing"):
            await text.tokenize("Hi")


async def test_a_process_that_works_on_a_long_prompt_is_not_silent() -> None:
    busy = CountingServicer()
    async with tier(busy) as address, remote(address, silence_limit_s=0.4) as text:
        with threads_taken() as let_go:
            long = asyncio.ensure_future(text.tokenize(LONG))
            # It was asked for a sign more often than a silent process ever is.
            await until(lambda: busy.batches.count(0) > 12)
            let_go()
            assert await long == ASSETS.tokenizer.encode(LONG).tolist()


async def test_processes_of_the_tier_take_turns() -> None:
    first, second = CountingServicer(), CountingServicer()
    async with tier(first) as one, tier(second) as other, remote(one, other) as service:
        for _ in range(4):
            await service.tokenize("x")

    assert (first.batches, second.batches) == ([1, 1], [1, 1])


async def test_a_busy_process_of_the_tier_gets_less() -> None:
    busy, idle = CountingServicer(), CountingServicer()
    busy.gate.clear()
    async with tier(busy) as one, tier(idle) as other, remote(one, other) as service:
        waiting = [asyncio.ensure_future(service.tokenize(text)) for text in "ab"]
        await until(lambda: busy.batches == idle.batches == [1])
        for _ in range(3):
            await service.tokenize("x")
        busy.gate.set()
        await asyncio.gather(*waiting)

    assert (busy.batches, idle.batches) == ([1], [1, 1, 1, 1])


async def test_a_long_prompt_does_not_hold_up_a_short_one() -> None:
    with threads_taken() as set_free:
        async with tier(CountingServicer()) as address, remote(address) as service:
            long = asyncio.ensure_future(service.tokenize(LONG))
            short = await service.tokenize("word")

            assert not long.done()
            assert list(short) == ASSETS.tokenizer.encode("word").tolist()
            set_free()
            assert list(await long) == ASSETS.tokenizer.encode(LONG).tolist()


async def test_a_prompt_beyond_the_messages_of_the_tier_is_refused_alone() -> None:
    config = CONFIG.grpc.model_copy(update={"max_message_bytes": 1 << 20})
    async with tier(CountingServicer()) as address:
        service = RemoteTextService([address], CONFIG.model_name, config)
        small = asyncio.ensure_future(service.tokenize("x"))
        with pytest.raises(RequestTooLarge):
            await service.tokenize("x" * (1 << 18))
        assert await small
        await service.close()


async def test_a_tier_for_another_model_is_told_apart() -> None:
    async with tier(CountingServicer()) as address, remote(address, model="other") as service:
        with pytest.raises(ModelNotFound):
            await render(service, good("x"))


async def test_a_stream_that_ends_without_the_answer_is_opened_again(impatient: None) -> None:
    servicer = CountingServicer()
    servicer.hangs_up = True
    async with tier(servicer) as address, remote(address) as service:
        with pytest.raises(Unavailable):
            await render(service, good("x"))

        servicer.hangs_up = False
        assert (await render(service, good("x"))).token_ids


async def test_a_draining_process_finishes_what_it_has_and_takes_no_more(impatient: None) -> None:
    servicer = CountingServicer()
    with threads_taken() as set_free:
        async with tier(servicer) as address, remote(address) as service:
            long = asyncio.ensure_future(service.tokenize(LONG))
            await until(lambda: servicer.batches == [1])
            servicer.drain()
            set_free()

            assert await long
            with pytest.raises(Unavailable):
                await service.tokenize("x")


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
