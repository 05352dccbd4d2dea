"""Spans of requests, as a real OTLP receiver gets them from a real router."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2_grpc
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.main import Router
from qwenserve.runtime.config import ConfigError
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import EngineRequest
from tests.system.requests import chat
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, running_stack, stack_config, until

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="OpenTelemetry is not installed (extra otel)")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = PARENT[:-1] + "0"
SERVER, CLIENT, ERROR = 2, 3, 2
QUESTION = "A question that nobody else should read"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for group in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in group.resource.attributes})
            for scope in group.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    async def named(self, *beginnings: str) -> dict[str, Any]:
        """Waits for spans whose names begin so; returns those, each of which came once."""

        def found() -> dict[str, Any]:
            return {one: span for one in beginnings for span in self.spans if span.name.startswith(one)}

        await until(lambda: len(found()) == len(beginnings), 30.0)
        return found()


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    server = grpc.aio.server()
    kept = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    kept.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield kept
    finally:
        await server.stop(None)


class NotingEngine(ScriptedEngine):
    """Keeps the trace context of each request."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.traceparents: list[str] = []

    def submit(self, request: EngineRequest) -> None:
        self.traceparents.append(request.traceparent)
        super().submit(request)


def noting_engine(answer: Callable[[str], str] = lambda _: "Yes.") -> tuple[NotingEngine, BuiltEngine]:
    assets = ServedModel.load(TINY, stack_config()).assets
    eos = assets.tokenizer.encode("<|im_end|>")[0]
    engine = NotingEngine(assets.tokenizer, eos, max_model_len=1024, answer=answer)
    return engine, BuiltEngine(engine, "")


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


async def ask(url: str, **headers: str) -> int:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4, "temperature": 0.5, "seed": 1}
    chats = f"{url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(chats, json=body, headers=headers) as reply:
        await reply.read()
        return reply.status


async def test_a_request_is_told_stage_by_stage():
    """One trace, below the caller's span: request, tokenize, route, leg with first token, answer; no text anywhere."""
    engine, built = noting_engine()
    async with receiver() as kept:
        config = stack_config(tracing__endpoint=kept.address, tracing__delay_s=0.05)
        async with running_stack(config, built=built) as stack:
            assert await ask(stack.url, traceparent=PARENT) == 200
            spans = await kept.named("chat ", "tokenize", "route", "leg ", "first token", "answer")

    request, leg = spans["chat "], spans["leg "]
    assert {span.trace_id.hex() for span in kept.spans} == {PARENT.split("-")[1]}
    assert (request.parent_span_id.hex(), request.kind) == (PARENT.split("-")[2], SERVER)
    assert request.name == "chat qwen3-tiny"
    for name in ("tokenize", "route", "leg ", "answer"):
        assert spans[name].parent_span_id == request.span_id
        assert request.start_time_unix_nano <= spans[name].start_time_unix_nano
        assert spans[name].start_time_unix_nano <= spans[name].end_time_unix_nano <= request.end_time_unix_nano
    assert (leg.name, leg.kind) == ("leg worker-0", CLIENT)
    assert spans["first token"].parent_span_id == leg.span_id
    # The engine may go on with the trace: what it is given is the leg's span.
    assert engine.traceparents == [f"00-{leg.trace_id.hex()}-{leg.span_id.hex()}-01"]
    told = attributes(request)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "qwen3-tiny"
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (4, 0.5)
    assert told["gen_ai.usage.input_tokens"] > 10
    assert told["gen_ai.usage.output_tokens"] == attributes(leg)["gen_ai.usage.output_tokens"] > 0
    assert told["gen_ai.response.finish_reasons"] in (["stop"], ["length"])
    assert told["qwenserve.outcome"] == "ok"
    assert kept.resources[0]["service.name"] == "qwenserve-router"
    assert QUESTION[:10] not in str(kept.spans)


async def test_grpc_callers_are_followed_too():
    """The same metadata by the same name."""
    async with receiver() as kept:
        config = stack_config(tracing__endpoint=kept.address, tracing__delay_s=0.05)
        async with running_stack(config) as stack:
            stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
            await stub.CreateChatCompletion(chat(max_tokens=2), metadata=(("traceparent", PARENT),))
            spans = await kept.named("chat ")

    assert spans["chat "].parent_span_id.hex() == PARENT.split("-")[2]


async def test_an_answer_that_goes_on_elsewhere_has_a_leg_on_each_worker():
    """The first leg ends with the reason of its break, the second begins after it, and the request is well."""
    async with receiver() as kept:
        config = stack_config(
            tracing__endpoint=kept.address, tracing__delay_s=0.05, worker__simulated__step_ms=10, log__level="error"
        )
        async with running_stack(config, workers=2) as stack:
            stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
            call = stub.StreamChatCompletion(chat(max_tokens=200, ignore_eos=True))
            async for event in call:
                if event.HasField("start"):
                    await next(w for w in stack.workers if w.engine.load().running).stop()
            spans = await kept.named("chat ", "leg worker-0", "leg worker-1")

    legs = sorted((spans["leg worker-0"], spans["leg worker-1"]), key=lambda span: span.start_time_unix_nano)
    assert [span.status.code for span in legs] == [ERROR, 0]
    assert attributes(legs[0])["error.type"] in ("draining", "worker_lost")
    assert attributes(spans["chat "])["qwenserve.continued_legs"] == 1
    assert spans["chat "].status.code == 0
    assert sum(attributes(leg)["gen_ai.usage.output_tokens"] for leg in legs) == 200


async def test_a_refused_request_is_a_span_with_its_reason():
    async with receiver() as kept:
        config = stack_config(tracing__endpoint=kept.address, tracing__delay_s=0.05)
        async with running_stack(config) as stack:
            stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.CreateChatCompletion(chat(temperature=-1.0))
            span = (await kept.named("chat "))["chat "]

    assert span.status.code == ERROR
    assert attributes(span)["error.type"] == "invalid_request"


@pytest.mark.parametrize(
    ("share", "header", "traced"), [(0.0, "", False), (1.0, "", True), (1.0, NOT_SAMPLED, False), (0.0, PARENT, True)]
)
async def test_the_caller_decides_and_else_the_share(share: float, header: str, traced: bool):
    """A request that is not traced still takes its caller's trace context to the engine, which may think otherwise."""
    engine, built = noting_engine()
    async with receiver() as kept:
        config = stack_config(tracing__endpoint=kept.address, tracing__delay_s=0.05, tracing__share=share)
        async with running_stack(config, built=built) as stack:
            assert await ask(stack.url, **({"traceparent": header} if header else {})) == 200
        # The router has sent what was left when it was stopped.
        assert bool(kept.spans) == traced

    assert (engine.traceparents == [header]) == (not traced)


async def test_without_an_endpoint_nothing_is_traced_and_the_context_is_passed_on():
    engine, built = noting_engine()
    async with running_stack(stack_config(), built=built) as stack:
        assert await ask(stack.url, traceparent=PARENT) == 200

    assert engine.traceparents == [PARENT]


async def test_a_receiver_that_is_not_there_holds_up_nothing():
    """Answers come, and the router stops in time."""
    config = stack_config(tracing__endpoint="http://127.0.0.1:9", tracing__delay_s=0.05, log__level="error")
    async with running_stack(config) as stack:
        assert await ask(stack.url) == 200
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 30.0


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    config = stack_config(tracing__endpoint="http://127.0.0.1:4317")

    with pytest.raises(ConfigError, match=r"tracing.endpoint: .*pip install 'qwenserve\[otel\]'"):
        Router(config, ServedModel.load(TINY, config))
