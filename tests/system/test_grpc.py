"""The public gRPC API over a real router and real workers with the simulated engine."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.whole import chat_completion
from qwenserve.runtime.auth import KeyRing
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from qwenserve.type.v1 import guide_pb2, sampling_pb2
from tests.system.requests import chat, user
from tests.system.stack import Stack, running_stack, stack_config, until


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(stack_config()) as running:
        yield running


@pytest.fixture
async def slow_stack() -> AsyncIterator[Stack]:
    """One token every 20 ms: slow enough that a test can act in the middle of an answer."""
    async with running_stack(stack_config(worker__simulated__step_ms=20)) as running:
        yield running


def chats(stack: Stack) -> Any:
    return chat_pb2_grpc.ChatServiceStub(stack.channel)


async def rest_of(call: Any) -> list[chat_pb2.ChatEvent]:
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def error_of(call: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return info_of(caught.value)


def info_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, str]:
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.details[0].Unpack(info)
    return error.code(), info, error.details() or ""


async def test_a_whole_answer_has_message_finish_and_usage(stack: Stack) -> None:
    answer = await chats(stack).CreateChatCompletion(chat(max_tokens=5))

    choice = answer.choices[0]
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "qwen3-tiny"
    assert choice.message.role == message_pb2.ROLE_ASSISTANT
    assert choice.message.content
    assert choice.finish.reason == sampling_pb2.FINISH_REASON_LENGTH
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens > 5


async def test_the_stream_folds_to_the_whole_answer(stack: Stack) -> None:
    request = chat(max_tokens=24, n=3, seed=5, top_logprobs=2, return_token_ids=True)
    whole = await chats(stack).CreateChatCompletion(request)

    fold = Fold()
    events = await rest_of(chats(stack).StreamChatCompletion(request))
    fold.events(events)
    folded = chat_completion(fold)

    assert events[0].WhichOneof("event") == "start"
    assert events[-1].WhichOneof("event") == "usage"
    assert [c.message for c in folded.choices] == [c.message for c in whole.choices]
    assert [c.token_ids for c in folded.choices] == [c.token_ids for c in whole.choices]
    assert [len(c.logprobs) for c in folded.choices] == [24, 24, 24]
    assert folded.usage.completion_tokens == 72


async def test_every_choice_finishes_once(stack: Stack) -> None:
    events = await rest_of(chats(stack).StreamChatCompletion(chat(max_tokens=6, n=4)))

    finished = sorted(event.choice_index for event in events if event.HasField("finish"))
    assert finished == [0, 1, 2, 3]


async def test_a_session_gives_the_same_answers_as_single_calls(stack: Stack) -> None:
    request = chat(max_tokens=20, seed=5)
    whole = await chats(stack).CreateChatCompletion(request)

    async def submits() -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        yield chat_pb2.ChatSessionRequest(
            submits=[chat_pb2.ChatSubmit(handle=handle, request=request) for handle in (1, 2, 3)]
        )

    texts = {1: "", 2: "", 3: ""}
    ended = set()
    async for message in chats(stack).ChatSession(submits()):
        for position, (handle, text) in enumerate(zip(message.handles, message.texts, strict=True)):
            assert position not in message.reasoning_positions
            texts[handle] += text
        for item in message.events:
            texts[item.handle] += item.event.content_delta
            if item.event.HasField("usage"):
                ended.add(item.handle)

    assert ended == {1, 2, 3}
    assert set(texts.values()) == {whole.choices[0].message.content}


async def test_a_session_reports_a_bad_chat_and_goes_on(stack: Stack) -> None:
    async def submits() -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        bad = chat_pb2.ChatSubmit(handle=1, request=chat(temperature=9))
        good = chat_pb2.ChatSubmit(handle=2, request=chat(max_tokens=2))
        yield chat_pb2.ChatSessionRequest(submits=[bad, good])

    events = [item async for message in chats(stack).ChatSession(submits()) for item in message.events]

    [failed] = [item for item in events if item.HasField("error")]
    code, info, message = await error_of(chats(stack).CreateChatCompletion(chat(temperature=9)))
    told = error_details_pb2.ErrorInfo()
    assert failed.error.details[0].Unpack(told)
    assert (failed.handle, failed.error.code, failed.error.message) == (1, code.value[0], message)
    assert (told, told.metadata["param"]) == (info, "temperature")
    assert any(item.handle == 2 and item.event.HasField("usage") for item in events)


async def test_thinking_is_switched_the_same_way_by_field_kwargs_and_configuration(stack: Stack) -> None:
    async def ids(**conversation: Any) -> list[int]:
        request = chat_pb2.ExplainRequest(chat=chat("你好，你是谁？", conversation=conversation))
        return list((await chats(stack).Explain(request)).token_ids)

    off = await ids(enable_thinking=False)
    on = await ids()
    async with running_stack(stack_config(model__enable_thinking=False)) as configured:
        request = chat_pb2.ExplainRequest(chat=chat("你好，你是谁？"))
        by_configuration = list((await chats(configured).Explain(request)).token_ids)

    assert len(off) == len(on) + 4
    assert off == await ids(chat_template_kwargs_json='{"enable_thinking": false}') == by_configuration
    assert on == await ids(enable_thinking=True)


async def test_defaults_differ_for_thinking_and_not_and_the_request_wins(stack: Stack) -> None:
    async def sampling(thinking: bool, **fields: Any) -> sampling_pb2.SamplingParams:
        request = chat_pb2.ExplainRequest(chat=chat(conversation={"enable_thinking": thinking}, **fields))
        return (await chats(stack).Explain(request)).sampling  # type: ignore[no-any-return]

    thinking, plain = await sampling(True), await sampling(False)

    assert (round(thinking.temperature, 3), round(thinking.top_p, 3)) == (0.6, 0.95)
    assert (round(plain.temperature, 3), round(plain.top_p, 3)) == (0.7, 0.8)
    assert (await sampling(True, temperature=0.0)).temperature == 0.0


async def test_explain_shows_candidates_and_generates_nothing(stack: Stack) -> None:
    explained = await chats(stack).Explain(chat_pb2.ExplainRequest(chat=chat("Hi", max_tokens=3)))

    assert "<|im_start|>user\nHi<|im_end|>" in explained.prompt
    assert [candidate.name for candidate in explained.candidates] == ["worker-0"]
    assert explained.candidates[0].ready
    assert explained.tool_call_format == "hermes"
    assert "temperature" in explained.defaulted_fields
    assert explained.sampling.max_tokens == 3
    assert stack.running() == 0


@pytest.mark.parametrize(
    ("request_", "code", "reason", "param"),
    [
        (chat(model="gpt-5"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
        (chat(temperature=3), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "temperature"),
        (chat(n=99), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "n"),
        (
            chat(tool_choice=chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_REQUIRED)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "tool_choice",
        ),
        (
            chat(tool_choice=chat_pb2.ToolChoice(names=["f"])),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "tool_choice",
        ),
        (
            chat(tool_choice=chat_pb2.ToolChoice(mode=99)),  # type: ignore[arg-type]
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "tool_choice.mode",
        ),
        (
            chat(guide=guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_JSON_SCHEMA, text='{"not": {}}')),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "guide.not",
        ),
        (chat_pb2.ChatCompletionRequest(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "messages"),
        (chat("word " * 9000), grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_LENGTH_EXCEEDED", "messages"),
    ],
    ids=["model", "temperature", "n", "tool_choice", "names", "mode", "guide", "no messages", "too long"],
)
async def test_bad_requests_name_the_field(
    stack: Stack, request_: chat_pb2.ChatCompletionRequest, code: grpc.StatusCode, reason: str, param: str
) -> None:
    got_code, info, _ = await error_of(chats(stack).CreateChatCompletion(request_))

    assert (got_code, info.reason, info.metadata["param"], info.domain) == (code, reason, param, "qwenserve")


async def test_a_message_without_a_role_is_named_by_its_index(stack: Stack) -> None:
    request = chat_pb2.ChatCompletionRequest(
        conversation=message_pb2.Conversation(messages=[user("a"), message_pb2.Message(content="b")])
    )

    _, info, _ = await error_of(chats(stack).CreateChatCompletion(request))

    assert info.metadata["param"] == "messages[1].role"


async def test_max_tokens_beyond_the_window_is_listed_as_not_applied(stack: Stack) -> None:
    call = chats(stack).CreateChatCompletion(chat(max_tokens=8000, stop_token_ids=[0], ignore_eos=True, n=1))
    explained = await chats(stack).Explain(chat_pb2.ExplainRequest(chat=chat(max_tokens=1_000_000)))
    call.cancel()

    assert list(explained.ignored_params) == ["max_tokens"]
    assert explained.sampling.max_tokens < 8192


async def test_a_stop_string_ends_the_answer_and_the_engines_work(slow_stack: Stack) -> None:
    whole = await chats(slow_stack).CreateChatCompletion(chat(max_tokens=12))
    text = whole.choices[0].message.content
    stop = text[3:5]

    cut = await chats(slow_stack).CreateChatCompletion(chat(max_tokens=2000, stop_strings=[stop]))

    assert cut.choices[0].message.content == text[:3]
    assert cut.choices[0].finish.stop_string == stop
    assert cut.choices[0].finish.reason == sampling_pb2.FINISH_REASON_STOP
    await slow_stack.until_idle()


async def test_cancelling_a_stream_stops_the_engine(slow_stack: Stack) -> None:
    call = chats(slow_stack).StreamChatCompletion(chat(max_tokens=4000, n=2, ignore_eos=True))
    await call.read()
    assert slow_stack.running() == 2

    call.cancel()

    await slow_stack.until_idle()


async def test_cancelling_a_whole_answer_stops_the_engine(slow_stack: Stack) -> None:
    call = chats(slow_stack).CreateChatCompletion(chat(max_tokens=4000, ignore_eos=True))
    await until(lambda: slow_stack.running() == 1)

    call.cancel()

    await slow_stack.until_idle()


async def test_a_deadline_stops_the_engine(slow_stack: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chats(slow_stack).CreateChatCompletion(chat(max_tokens=4000, ignore_eos=True), timeout=0.3)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await slow_stack.until_idle()


async def test_the_end_of_a_session_stops_the_engine(slow_stack: Stack) -> None:
    async def submits() -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        many = [chat_pb2.ChatSubmit(handle=h, request=chat(max_tokens=4000, ignore_eos=True)) for h in (1, 2, 3)]
        yield chat_pb2.ChatSessionRequest(submits=many)

    call = chats(slow_stack).ChatSession(submits())
    await call.read()
    await until(lambda: slow_stack.running() == 3)

    call.cancel()

    await slow_stack.until_idle()


async def test_one_chat_of_a_session_can_be_cancelled(slow_stack: Stack) -> None:
    call = chats(slow_stack).ChatSession()
    long = chat(max_tokens=4000, ignore_eos=True)
    await call.write(chat_pb2.ChatSessionRequest(submits=[chat_pb2.ChatSubmit(handle=h, request=long) for h in (1, 2)]))
    await until(lambda: slow_stack.running() == 2)

    await call.write(chat_pb2.ChatSessionRequest(cancels=[1]))

    await until(lambda: slow_stack.running() == 1)
    call.cancel()
    await slow_stack.until_idle()


async def test_a_full_queue_says_when_to_come_back() -> None:
    config = stack_config(worker__simulated__step_ms=20, worker__max_running=1, worker__max_queued=0)
    async with running_stack(config) as stack:
        blocking = chats(stack).StreamChatCompletion(chat(max_tokens=4000, ignore_eos=True))
        await blocking.read()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chats(stack).CreateChatCompletion(chat(max_tokens=1))
        code, info, _ = info_of(caught.value)
        retry = error_details_pb2.RetryInfo()
        status = rpc_status.from_call(caught.value)
        blocking.cancel()

    assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() > 0


async def test_another_worker_answers_when_one_is_full() -> None:
    config = stack_config(worker__simulated__step_ms=20, worker__max_running=1, worker__max_queued=0)
    async with running_stack(config, workers=2) as stack:
        blocking = chats(stack).StreamChatCompletion(chat(max_tokens=4000, ignore_eos=True))
        await blocking.read()

        answers = [await chats(stack).CreateChatCompletion(chat(max_tokens=1)) for _ in range(3)]
        blocking.cancel()

    assert [answer.usage.completion_tokens for answer in answers] == [1, 1, 1]


async def test_a_worker_that_dies_ends_its_answers_with_a_reason() -> None:
    settings = {"worker__simulated__step_ms": 20, "router__worker_wait_s": 0, "router__continuation_wait_s": 0.2}
    async with running_stack(stack_config(**settings)) as stack:
        call = chats(stack).StreamChatCompletion(chat(max_tokens=4000, ignore_eos=True))
        await call.read()

        stack.workers[0].shutdown.request()
        stack.workers[0].shutdown.request()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest_of(call)
        _, info, _ = info_of(caught.value)
        assert info.reason in ("WORKER_LOST", "DRAINING")

        await until(lambda: not stack.router.sessions[0].ready)
        code, info, _ = await error_of(chats(stack).CreateChatCompletion(chat()))

    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")


async def test_health_follows_the_workers_per_service_and_overall() -> None:
    async with running_stack(stack_config()) as stack:
        health = health_pb2_grpc.HealthStub(stack.channel)

        async def status(name: str) -> int:
            return (await health.Check(health_pb2.HealthCheckRequest(service=name))).status  # type: ignore[no-any-return]

        names = ("", "qwenserve.chat.v1.ChatService", "qwenserve.chat.v1.ModelService")
        serving = [await status(name) for name in names]
        watch = health.Watch(health_pb2.HealthCheckRequest(service=names[1]))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await stack.workers[0].stop()
        after = (await asyncio.wait_for(watch.read(), 10)).status
        watch.cancel()

    assert serving == [health_pb2.HealthCheckResponse.SERVING] * 3
    assert after == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_the_services(stack: Stack, version: str) -> None:
    ask = stack.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="qwenserve.chat.v1.ChatService"),
    ]

    answers = [answer async for answer in ask(iter(asked))]

    listed = {service.name for service in answers[0].list_services_response.service}
    assert {"qwenserve.chat.v1.ChatService", "qwenserve.chat.v1.ModelService", "grpc.health.v1.Health"} <= listed
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_keys_are_asked_for_where_configured() -> None:
    async with running_stack(stack_config(auth__keys=["secret-1", "secret-2"])) as stack:
        code, info, _ = await error_of(chats(stack).CreateChatCompletion(chat(max_tokens=1)))
        wrong = chats(stack).StreamChatCompletion(chat(), metadata=(("authorization", "Bearer nope"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest_of(wrong)
        good = await chats(stack).CreateChatCompletion(
            chat(max_tokens=1), metadata=(("authorization", "Bearer secret-2"),)
        )
        health = await health_pb2_grpc.HealthStub(stack.channel).Check(health_pb2.HealthCheckRequest())

    assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert good.usage.completion_tokens == 1
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_answer_is_logged_with_its_callers_key_whichever_face_it_came_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    with caplog.at_level(logging.INFO, logger="qwenserve.answer"):
        async with running_stack(stack_config(auth__keys=["secret-1"])) as stack, aiohttp.ClientSession() as http:
            key = "Bearer secret-1"
            await chats(stack).CreateChatCompletion(chat(max_tokens=1), metadata=(("authorization", key),))
            submit = chat_pb2.ChatSubmit(handle=1, request=chat(max_tokens=1))
            requests = iter([chat_pb2.ChatSessionRequest(submits=[submit])])
            await rest_of(chats(stack).ChatSession(requests, metadata=(("authorization", key),)))
            async with http.post(
                f"{stack.url}/v1/chat/completions", json=body, headers={"Authorization": key}
            ) as reply:
                assert reply.status == 200

    answers = [record for record in caplog.records if record.name == "qwenserve.answer"]
    keys = [record.__dict__["fields"].get("key") for record in answers]
    assert keys == [KeyRing(["secret-1"]).check(key)] * 3


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion", "Explain", "ChatSession"])
async def test_a_strictness_that_says_nothing_is_refused(stack: Stack, method: str) -> None:
    requests: dict[str, Any] = {"Explain": chat_pb2.ExplainRequest(chat=chat()), "ChatSession": iter(())}
    call = getattr(chats(stack), method)(requests.get(method, chat(max_tokens=1)), metadata=(("x-strict", "maybe"),))

    code, info, _ = await error_of(call if method in ("CreateChatCompletion", "Explain") else rest_of(call))

    assert (code, info.metadata["param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "x-strict")


async def test_the_request_id_comes_back(stack: Stack) -> None:
    call = chats(stack).CreateChatCompletion(chat(max_tokens=1), metadata=(("x-request-id", "abc-1"),))
    await call

    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"


async def test_completions_take_text_or_ids_and_return_ids(stack: Stack) -> None:
    ids = [50, 51, 52]
    request = chat_pb2.CompletionRequest(
        prompts=[
            chat_pb2.CompletionPrompt(token_ids=chat_pb2.TokenIdList(ids=ids)),
            chat_pb2.CompletionPrompt(text="Hello there"),
        ],
        n=2,
        return_token_ids=True,
    )

    answer = await chats(stack).CreateCompletion(request)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [list(choice.prompt_token_ids) == ids for choice in answer.choices] == [True, True, False, False]
    assert [len(choice.token_ids) for choice in answer.choices] == [16] * 4
    assert answer.usage.prompt_tokens == 3 + len(answer.choices[2].prompt_token_ids)


async def test_echo_puts_the_prompt_before_the_answer(stack: Stack) -> None:
    prompt = chat_pb2.CompletionPrompt(text="Once upon")
    plain = await chats(stack).CreateCompletion(chat_pb2.CompletionRequest(prompts=[prompt]))
    echoed = await chats(stack).CreateCompletion(chat_pb2.CompletionRequest(prompts=[prompt], echo=True))

    assert echoed.choices[0].text == "Once upon" + plain.choices[0].text


async def test_models_are_listed_with_their_limits(stack: Stack) -> None:
    stub = chat_pb2_grpc.ModelServiceStub(stack.channel)

    models = (await stub.ListModels(chat_pb2.ListModelsRequest())).models
    same = await stub.GetModel(chat_pb2.GetModelRequest(name="QWEN3-Tiny"))
    code, info, _ = await error_of(stub.GetModel(chat_pb2.GetModelRequest(name="other")))

    assert [model.name for model in models] == ["qwen3-tiny"]
    assert same.max_model_len == 8192
    assert same.simulated
    assert same.supports_thinking
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_tools_are_hidden_from_the_model_when_no_call_is_wanted(stack: Stack) -> None:
    tool = message_pb2.Tool(
        definition_json=json.dumps({"type": "function", "function": {"name": "f", "parameters": {}}})
    )

    async def prompt(mode: chat_pb2.ToolChoice.Mode) -> str:
        choice = chat_pb2.ToolChoice(mode=mode)
        request = chat_pb2.ExplainRequest(chat=chat(conversation={"tools": [tool]}, tool_choice=choice))
        return (await chats(stack).Explain(request)).prompt  # type: ignore[no-any-return]

    assert '"name": "f"' in await prompt(chat_pb2.ToolChoice.MODE_AUTO)
    assert '"name": "f"' not in await prompt(chat_pb2.ToolChoice.MODE_NONE)


async def test_a_chats_prompt_has_logprobs(stack: Stack) -> None:
    """Apart from those of the answer, whole and streamed, in a session too."""
    request = chat(max_tokens=2, prompt_logprobs=1, return_token_ids=True)
    request.sampling.top_logprobs = 0
    whole = await chats(stack).CreateChatCompletion(request)
    events = await rest_of(chats(stack).StreamChatCompletion(request))
    submit = chat_pb2.ChatSubmit(handle=1, request=request)
    session: list[Any] = await rest_of(chats(stack).ChatSession(iter([chat_pb2.ChatSessionRequest(submits=[submit])])))

    assert [item.token_id for item in whole.prompt_logprobs] == list(whole.prompt_token_ids)
    assert [item.no_logprob for item in whole.prompt_logprobs].count(True) == 1
    assert len(whole.choices[0].logprobs) == 2
    for got in (events, [each.event for response in session for each in response.events]):
        of_prompt = [item for event in got if event.of_prompt for item in event.logprobs]
        assert of_prompt == list(whole.prompt_logprobs)
        assert sum(len(event.logprobs) for event in got if not event.of_prompt) == 2


@pytest.mark.parametrize("letter", ["x", "模"])
async def test_an_error_over_a_huge_name_fits_its_trailers(letter: str, stack: Stack) -> None:
    code, info, _ = await error_of(chats(stack).CreateChatCompletion(chat(model=letter * 500_000)))

    assert (code, info.reason, info.metadata["param"]) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model")


async def test_more_ids_than_a_reply_may_have_are_refused(stack: Stack) -> None:
    tokenizer = tokenizer_pb2_grpc.TokenizerServiceStub(stack.channel)
    request = tokenizer_pb2.TokenizeRequest(texts=["a" * (1 << 19)] * 3)
    code, info, _ = await error_of(tokenizer.Tokenize(request))

    assert (code, info.metadata["param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "texts")


async def test_the_router_tokenizes_too(stack: Stack) -> None:
    tokenizer = tokenizer_pb2_grpc.TokenizerServiceStub(stack.channel)
    text = "Hello there, 你好 🙂"
    conversation = chat(text).conversation

    ids = (await tokenizer.Tokenize(tokenizer_pb2.TokenizeRequest(texts=[text, "b"], return_tokens=True))).results
    chats_ = tokenizer_pb2.TokenizeChatRequest(conversations=[conversation], return_prompt=True)
    rendered = (await tokenizer.TokenizeChat(chats_)).results[0]
    back = await tokenizer.Detokenize(
        tokenizer_pb2.DetokenizeRequest(batches=[tokenizer_pb2.TokenIds(ids=ids[0].ids), rendered.token_ids])
    )
    explained = await chats(stack).Explain(chat_pb2.ExplainRequest(chat=chat(text)))
    asked = await tokenizer.GetTokenizerInfo(tokenizer_pb2.GetTokenizerInfoRequest())
    code, info, _ = await error_of(tokenizer.Tokenize(tokenizer_pb2.TokenizeRequest()))

    assert len(ids) == 2
    assert len(ids[0].tokens) == len(ids[0].ids)
    assert ids[0].tokens[:2] == ["Hello", "Ġthere"]
    assert "<|im_start|>" in asked.chat_template
    assert list(back.texts) == [text, rendered.prompt]
    assert list(rendered.token_ids.ids) == list(explained.token_ids)
    assert (code, info.metadata["param"]) == (grpc.StatusCode.INVALID_ARGUMENT, "texts")


async def test_a_router_that_drains_finishes_what_runs_and_refuses_the_rest() -> None:
    async with running_stack(stack_config(worker__simulated__step_ms=20)) as stack:
        call = chats(stack).StreamChatCompletion(chat(max_tokens=10, ignore_eos=True))
        await call.read()

        stack.router.core.drain()
        code, info, _ = await error_of(chats(stack).CreateChatCompletion(chat()))
        rest = await rest_of(call)

    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert rest[-1].usage.completion_tokens == 10


@pytest.mark.parametrize("method", ["CreateChatCompletion", "StreamChatCompletion", "ChatSession"])
async def test_bytes_that_are_no_message_are_the_callers_mistake(
    method: str, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    path, garbage = f"/qwenserve.chat.v1.ChatService/{method}", b"\xff\xff\xff no message"
    # One request, as calls with one and with many have it on the wire.
    call = stack.channel.stream_stream(path)()
    await call.write(garbage)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


async def test_without_a_key_nothing_of_a_request_is_read(caplog: pytest.LogCaptureFixture) -> None:
    async with running_stack(stack_config(auth__keys=["right"])) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.channel.unary_unary("/qwenserve.chat.v1.ChatService/CreateChatCompletion")(b"\xff\xff")

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
