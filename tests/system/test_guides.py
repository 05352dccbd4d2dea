"""Answers bound to a form, through the whole stack with the small model: thinking or not, streamed and whole alike."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import openai
import pytest
import pytest_asyncio

from tests.system.stack import TINY, running_stack, stack_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Whatever a model wants, it ends.
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "City",
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12, "description": "its name"},
        "kind": {"enum": ["town", "city", None]},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "kind", "size", "parts"],
    "additionalProperties": False,
    "$defs": {"Part": {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^[a-c]{2}$"}]}},
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW: dict[str, Any] = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
}
THINKING = pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[openai.AsyncOpenAI]:
    config = stack_config(worker__engine="llamacpp", cache_dir=str(tmp_path_factory.mktemp("cache")))
    async with (
        running_stack(config, model_path=TINY) as stack,
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


async def ask(client: openai.AsyncOpenAI, question: str, *, thinking: bool = False, **fields: Any) -> Any:
    """Returns the choice of a whole answer, after a look whether the streamed one is the same."""
    extra = {"enable_thinking": thinking, **fields.pop("extra_body", {})}
    asked: Any = {
        "model": "qwen3-tiny",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 700,
        **fields,
    }
    whole = (await client.chat.completions.create(**asked, extra_body=extra)).choices[0]
    content, finish = "", None
    calls: dict[int, str] = {}
    async for chunk in await client.chat.completions.create(**asked, extra_body=extra, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    assert (content or None, finish) == (whole.message.content or None, whole.finish_reason)
    assert list(calls.values()) == [call.function.arguments for call in whole.message.tool_calls or ()]
    return whole


@THINKING
@pytest.mark.parametrize("seed", range(3))
async def test_a_schema(client: openai.AsyncOpenAI, thinking: bool, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    got = await ask(client, "Tell me about Oslo.", thinking=thinking, response_format=form, temperature=0.8, seed=seed)
    assert got.finish_reason == "stop"
    jsonschema.validate(json.loads(got.message.content), SCHEMA)
    assert bool(getattr(got.message, "reasoning_content", None)) == thinking


@THINKING
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"structured_outputs": {"regex": "a{3}"}}, "aaa"),
        ({"guided_grammar": 'start: "<" word ">"\nword: /[a-z]{2}/'}, "<[a-z]{2}>"),
        ({"ebnf": 'root ::= "<" word ">"\nword ::= [a-z] [a-z]'}, "<[a-z]{2}>"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_other_forms(client: openai.AsyncOpenAI, thinking: bool, fields: dict[str, Any], pattern: str) -> None:
    got = await ask(client, "Is the sky blue?", thinking=thinking, extra_body=fields)
    assert got.finish_reason == "stop"
    assert re.fullmatch(pattern, got.message.content)


async def test_a_completion(client: openai.AsyncOpenAI) -> None:
    got = await client.completions.create(
        model="qwen3-tiny", prompt="The number", max_tokens=20, n=2, extra_body={"guided_regex": "[0-9]{4}"}
    )
    assert all(re.fullmatch("[0-9]{4}", choice.text) for choice in got.choices)


@THINKING
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "now"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
        ({"type": "function", "function": {"name": "now"}}, {"now"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                },
            },
            {"get_weather"},
        ),
    ],
    ids=["required", "weather", "now", "allowed"],
)
async def test_calls_that_must_come(client: openai.AsyncOpenAI, thinking: bool, choice: Any, names: set[str]) -> None:
    got = await ask(
        client,
        "Say hello.",
        thinking=thinking,
        tools=[WEATHER, NOW],
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    (call,) = got.message.tool_calls
    assert (got.finish_reason, got.message.content) == ("tool_calls", None)
    assert call.function.name in names
    tool = next(each for each in (WEATHER, NOW) if each["function"]["name"] == call.function.name)
    jsonschema.validate(json.loads(call.function.arguments), tool["function"]["parameters"])
    assert bool(getattr(got.message, "reasoning_content", None)) == thinking


@THINKING
async def test_a_form_beside_tools(client: openai.AsyncOpenAI, thinking: bool) -> None:
    """An answer is calls or of the form, as the model likes; where a call must come there is no text to bind."""
    form = {"extra_body": {"guided_regex": "[A-Z][a-z]{3,9}"}}
    called = await ask(client, "What is the weather in Oslo?", thinking=thinking, tools=[WEATHER, NOW], **form)
    (call,) = called.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert called.message.content is None
    said = await ask(client, "What is the capital of France?", thinking=thinking, tools=[WEATHER, NOW], **form)
    assert (said.finish_reason, said.message.tool_calls) == ("stop", None)
    assert re.fullmatch("[A-Z][a-z]{3,9}", said.message.content)
    must = await ask(client, "Hello.", thinking=thinking, tools=[NOW], tool_choice="required", **form)
    assert [each.function.name for each in must.message.tool_calls][:1] == ["now"]


async def test_parts_of_a_text_keep_to_their_form(client: openai.AsyncOpenAI) -> None:
    """A structural tag: the model is brought to its trigger by a text that it continues."""
    form = {
        "type": "structural_tag",
        "structures": [{"begin": "<n=1>", "schema": {"type": "integer", "maximum": 9, "minimum": 1}, "end": "</n>"}],
        "triggers": ["<n"],
    }
    got = await ask(client, "Is the sky blue?", extra_body={"response_format": form | {"triggers": ["<n=1>"]}})
    assert got.finish_reason == "stop"
    tag = {"begin": "<n=1>", "content": {"type": "regex", "pattern": "[0-9]{2}"}, "end": "</n>"}
    must = {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<n"], "tags": [tag]}}
    must["format"] |= {"at_least_one": True, "stop_after_first": True}  # type: ignore[operator]
    alone = {"type": "structural_tag", "format": {"type": "tag", **tag}}
    for thinking in (False, True):
        got = await ask(client, "Is the sky blue?", thinking=thinking, response_format=alone)
        assert re.fullmatch("<n=1>[0-9]{2}</n>", got.message.content)


@THINKING
async def test_strict_calls_follow_their_schema_and_the_text_around_is_free(
    client: openai.AsyncOpenAI, thinking: bool
) -> None:
    got = await ask(client, "What is the weather in Oslo?", thinking=thinking, tools=[WEATHER, NOW])
    (call,) = got.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    free = await ask(client, "What is the capital of France?", thinking=thinking, tools=[WEATHER, NOW])
    assert (free.finish_reason, free.message.tool_calls) == ("stop", None)


@THINKING
async def test_log_probabilities_stop_strings_and_budgets_go_on(client: openai.AsyncOpenAI, thinking: bool) -> None:
    form = {"guided_regex": "[a-z]{3} [0-9]{3} end"}
    scored = await ask(client, "Hi", thinking=thinking, extra_body=form, logprobs=True, top_logprobs=2)
    # The end of a thought is reported with what follows it, as in answers that are free.
    assert "".join(item.token for item in scored.logprobs.content).removeprefix("</think>") == scored.message.content
    stopped = await ask(client, "Hi", thinking=thinking, extra_body=form, stop=[" "])
    assert (stopped.finish_reason, len(stopped.message.content)) == ("stop", 3)
    if thinking:
        short = await ask(client, "Hi", thinking=True, extra_body={**form, "thinking_budget": 3})
        assert re.fullmatch(form["guided_regex"], short.message.content)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"a": {"not": {}}}}}}},
            "response_format.json_schema.schema.properties.a.not",
        ),
        ({"guided_regex": "a(?=b)"}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"ebnf": "root ::= ("}, "ebnf"),
        ({"guided_json": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "guided_json"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        (
            {"tools": [{**NOW, "function": {"name": "f", "strict": True, "parameters": {"not": {}}}}]},
            "tools[0].function.parameters.not",
        ),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model="qwen3-tiny",
                messages=[{"role": "user", "content": "Hi"}],
                extra_body={**fields, "stream": stream},
            )
        assert refused.value.param == param
        assert param in str(refused.value)


async def test_the_clients_own_helpers(client: openai.AsyncOpenAI) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class Place(BaseModel):
        kind: Literal["town", "city"]
        sizes: Literal[1, 2]

    got = await client.chat.completions.parse(
        model="qwen3-tiny", messages=[{"role": "user", "content": "Oslo?"}], response_format=Place, max_tokens=300
    )
    assert isinstance(got.choices[0].message.parsed, Place)
    response = await client.responses.parse(model="qwen3-tiny", input="Oslo?", text_format=Place, max_output_tokens=300)
    assert isinstance(response.output_parsed, Place)
