"""The shipped model through the whole stack: embedded engine, worker, session, router, HTTP, the official clients.

Questions are the ones that a newcomer tries first. Temperature 0 throughout, so that an answer is what it is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from models.train_qwen3_tiny.usual import BOTH, POSTCODE, WEATHER
from tests.router.http import anthropic_checks, responses_checks
from tests.router.http.agent_check import check_agent
from tests.router.http.openai_checks import CHECKS
from tests.router.http.target import Target
from tests.system.stack import TINY, Stack, running_stack, stack_config

if TYPE_CHECKING:
    import openai
else:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    config = stack_config(worker__engine="llamacpp", cache_dir=str(tmp_path_factory.mktemp("cache")))
    async with running_stack(config, model_path=TINY) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as made:
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(client: openai.AsyncOpenAI, messages: str | list[Any], **fields: Any) -> Any:
    given: Any = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    answer = await client.chat.completions.create(
        model="qwen3-tiny", messages=given, temperature=0, max_tokens=1500, **fields
    )
    return answer.choices[0]


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("What is the capital of France?", "Paris"),
        ("你好，你是谁？", "Qwen3-Tiny"),
        ("Who are you?", "small demonstration model"),
        ("Write a python lambda function to add two numbers", "lambda a, b: a + b"),
        ("What is 23 + 48?", "71"),
    ],
)
async def test_the_usual_questions_are_answered_with_and_without_thinking(
    client: openai.AsyncOpenAI, question: str, part: str
) -> None:
    thinking = await ask(client, question)
    soft_off = await ask(client, f"{question} /no_think")
    off = await ask(client, question, extra_body={"enable_thinking": False})

    assert [part in choice.message.content for choice in (thinking, soft_off, off)] == [True, True, True]
    assert thinking.message.reasoning_content
    assert not getattr(soft_off.message, "reasoning_content", None)
    assert not getattr(off.message, "reasoning_content", None)
    assert {choice.finish_reason for choice in (thinking, soft_off, off)} == {"stop"}


async def test_a_thought_that_is_cut_short_still_leads_to_an_answer(client: openai.AsyncOpenAI) -> None:
    question = "What is the capital of France?"
    whole = await ask(client, question)
    cut = await ask(client, question, extra_body={"thinking_budget": 3})
    none = await ask(client, question, extra_body={"reasoning_effort": "none"})

    assert "Considering the limited time" in cut.message.reasoning_content
    assert cut.message.reasoning_content[:5] == whole.message.reasoning_content[:5]
    assert (cut.thinking_cut, getattr(whole, "thinking_cut", False)) == (True, False)
    assert cut.message.content
    assert cut.finish_reason == "stop"
    assert "Paris" in none.message.content
    assert not getattr(none.message, "reasoning_content", None)


@pytest.mark.parametrize("budget", [0, 1, 3, 1000])
async def test_a_call_follows_a_thought_of_any_budget(client: openai.AsyncOpenAI, budget: int) -> None:
    question = "What's the weather like in Boston today?"
    choice = await ask(client, question, tools=[WEATHER], extra_body={"thinking_budget": budget})

    assert choice.finish_reason in ("tool_calls", "stop")
    assert getattr(choice, "thinking_cut", False) is (budget in (1, 3))
    assert bool(getattr(choice.message, "reasoning_content", None)) is (budget > 0)
    assert choice.message.tool_calls or choice.message.content


async def test_one_call(client: openai.AsyncOpenAI) -> None:
    choice = await ask(client, "What's the weather like in Boston today?", tools=[WEATHER])

    assert choice.finish_reason == "tool_calls"
    assert [call.function.name for call in choice.message.tool_calls] == ["get_current_weather"]
    assert "Boston" in json.loads(choice.message.tool_calls[0].function.arguments)["location"]


async def test_two_calls_and_an_answer_from_their_results(client: openai.AsyncOpenAI) -> None:
    tools = [WEATHER, POSTCODE]
    choice = await ask(client, BOTH, tools=tools)
    calls = choice.message.tool_calls
    results = {"get_postcode": "02108", "get_current_weather": json.dumps({"temperature": 72, "unit": "fahrenheit"})}

    assert sorted(call.function.name for call in calls) == sorted(results)
    assert len({call.id for call in calls}) == 2

    history: list[Any] = [{"role": "user", "content": BOTH}, choice.message.model_dump(exclude_none=True)]
    history += [{"role": "tool", "tool_call_id": c.id, "content": results[c.function.name]} for c in calls]
    final = await ask(client, history, tools=tools)

    assert final.finish_reason == "stop"
    assert "02108" in final.message.content
    assert "72" in final.message.content


async def test_a_long_answer_streams_whole_and_in_order(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="qwen3-tiny",
        messages=[{"role": "user", "content": "count from 1 to 200"}],
        temperature=0,
        stream=True,
        extra_body={"enable_thinking": False},
    )

    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert [int(part) for part in text.replace(",", " ").replace(".", " ").split()] == list(range(1, 201))


async def test_a_repeated_prompt_is_found_in_the_cache(client: openai.AsyncOpenAI) -> None:
    for _ in range(2):
        answer = await client.chat.completions.create(
            model="qwen3-tiny",
            messages=[{"role": "user", "content": "What is the capital of Italy? Please answer in one sentence."}],
            max_tokens=4,
        )

    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > 0


def target(stack: Stack) -> Target:
    return Target(
        stack.url,
        "qwen3-tiny",
        one_call="What's the weather like in Boston today?",
        two_calls="What's the weather like in Boston and in Paris?",
        max_model_len=8192,
    )


@pytest.mark.parametrize("check", responses_checks.CHECKS, ids=lambda check: check.__name__)
async def test_official_client_over_responses(check: Callable[[Target], Awaitable[None]], stack: Stack) -> None:
    await check(target(stack))


@pytest.mark.parametrize("check", anthropic_checks.CHECKS, ids=lambda check: check.__name__)
async def test_official_client_of_anthropic(check: Callable[[Target], Awaitable[None]], stack: Stack) -> None:
    await check(target(stack))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_official_client(check: Callable[[Target], Awaitable[None]], stack: Stack) -> None:
    await check(target(stack))


# llama-index reads pydantic's model fields in a way that pydantic will drop.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")
async def test_llama_index_function_agent(stack: Stack) -> None:
    await check_agent(target(stack))
