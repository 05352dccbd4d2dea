"""What the official client gets over the Responses API, whatever the deployment is made of. It checks strictly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.router.http.target import Target

if TYPE_CHECKING:
    import openai
else:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")

TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    }
]


async def check_whole(target: Target) -> None:
    """Text, status and counts."""
    async with target.client() as client:
        response = await client.responses.create(
            model=target.model, input="Hi", instructions="Be kind.", max_output_tokens=200, reasoning={"effort": "none"}
        )

    assert (response.object, response.model, response.to_dict()["store"]) == ("response", target.model, False)
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert response.usage is not None
    assert response.usage.input_tokens > 0 < response.usage.output_tokens
    assert (response.instructions, response.max_output_tokens) == ("Be kind.", 200)


async def check_streamed(target: Target) -> None:
    """Events are numbered, every item is added, filled and done, and the last event holds the sum."""
    async with target.client() as client:
        stream = await client.responses.create(model=target.model, input="Hi", max_output_tokens=400, stream=True)
        events: list[Any] = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    last = events[-1].response
    assert kinds[-1] == f"response.{last.status}"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.output
    assert kinds.count("response.output_item.added") == len(done)
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == last.output_text
    assert last.usage.output_tokens > 0


async def check_streaming_helper(target: Target) -> None:
    """The client's own accumulator comes to the same."""
    async with (
        target.client() as client,
        client.responses.stream(model=target.model, input="Hi", max_output_tokens=400) as stream,
    ):
        response = await stream.get_final_response()

    assert response.output
    assert response.usage is not None


async def check_function_call(target: Target) -> None:
    """A call whole and streamed, then its output sent back with the items as they came."""
    ask: Any = {"model": target.model, "input": [{"role": "user", "content": target.one_call}], "tools": TOOLS}
    async with target.client() as client:
        whole = await client.responses.create(**ask)
        async for event in await client.responses.create(**ask, stream=True):
            if event.type == "response.completed":
                streamed = event.response
        for response in (whole, streamed):
            [call] = [item for item in response.output if item.type == "function_call"]
            assert (call.name, response.status) == ("get_weather", "completed")
            assert "city" in call.arguments
        items = [item.model_dump(exclude_none=True) for item in streamed.output]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"weather": "sunny"}'}
        after = await client.responses.create(**{**ask, "input": [*ask["input"], *items, output]})

    assert after.status in ("completed", "incomplete")
    assert after.output


async def check_errors(target: Target) -> None:
    """Errors arrive as the client's own typed exceptions, with param and code."""
    async with target.client() as client:
        ask: Any = client.responses.create
        with pytest.raises(openai.NotFoundError) as missing:
            await ask(model="nothing", input="hi")
        with pytest.raises(openai.BadRequestError) as stored:
            await ask(model=target.model, input="hi", previous_response_id="resp_1")
        with pytest.raises(openai.BadRequestError) as bound:
            await ask(model=target.model, input="hi", text={"format": {"type": "xml"}})
        with pytest.raises(openai.BadRequestError) as long:
            await ask(model=target.model, input="word " * target.max_model_len, stream=True)
    assert missing.value.code == "model_not_found"
    assert (stored.value.param, bound.value.param) == ("previous_response_id", "text.format.type")
    assert long.value.code == "context_length_exceeded"


CHECKS: tuple[Callable[[Target], Awaitable[None]], ...] = (
    check_whole,
    check_streamed,
    check_streaming_helper,
    check_function_call,
    check_errors,
)
