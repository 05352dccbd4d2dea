"""Conversations as protobuf → what the chat template is given."""

import json
from typing import Any

import pytest

from qwenserve.chat.v1 import message_pb2 as pb
from qwenserve.text.conversation import (
    MAX_ARGUMENT_CHARACTERS,
    MAX_BYTES,
    MAX_KWARGS_CHARACTERS,
    MAX_MESSAGES,
    MAX_TOOL_CALLS,
    MAX_TOOL_CHARACTERS,
    MAX_TOOLS,
    ConversationError,
    conversation_to_template,
)

USER = pb.Message(role=pb.ROLE_USER, content="hi")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"z": 1, "a": 2}}}


def assistant_call(arguments_json: str) -> pb.Message:
    call = pb.ToolCall(id="call_1", name="weather", arguments_json=arguments_json)
    return pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call])


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        (pb.Message(role=pb.ROLE_SYSTEM, content="be brief"), {"role": "system", "content": "be brief"}),
        (pb.Message(role=pb.ROLE_USER), {"role": "user", "content": ""}),
        (pb.Message(role=pb.ROLE_USER, content="你好", name="Li"), {"role": "user", "content": "你好", "name": "Li"}),
        (
            pb.Message(role=pb.ROLE_ASSISTANT, content="4", reasoning_content="2+2"),
            {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
        ),
        (
            pb.Message(role=pb.ROLE_ASSISTANT, content="4", reasoning_content=""),
            {"role": "assistant", "content": "4", "reasoning_content": ""},
        ),
        (pb.Message(role=pb.ROLE_TOOL, content="20 C"), {"role": "tool", "content": "20 C"}),
        (
            pb.Message(role=pb.ROLE_TOOL, content="20 C", tool_call_id="call_1"),
            {"role": "tool", "content": "20 C", "tool_call_id": "call_1"},
        ),
    ],
)
def test_message(message: pb.Message, plain: dict[str, object]) -> None:
    """Each role becomes a plain dict with the fields that were set."""
    assert [plain] == conversation_to_template(pb.Conversation(messages=[message])).messages


@pytest.mark.parametrize(
    ("arguments_json", "arguments"),
    [
        ('{"city": "Rome", "days": 2}', {"city": "Rome", "days": 2}),
        ("", {}),
        ("  ", {}),
        ("{broken", "{broken"),
        ("[1, 2]", "[1, 2]"),
        ('"text"', '"text"'),
        ("[" * 50_000, "[" * 50_000),
        ('{"a": ' * 50_000, '{"a": ' * 50_000),
        ('{"a": "\\ud83d", "b": "\\ud83c\\udf26"}', {"a": "\ufffd", "b": "🌦"}),
    ],
)
def test_tool_call_arguments(arguments_json: str, arguments: object) -> None:
    """Arguments are parsed if they are a JSON object, and kept as text otherwise."""
    template = conversation_to_template(pb.Conversation(messages=[USER, assistant_call(arguments_json)]))

    expected = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    assert [expected] == template.messages[1]["tool_calls"]


def test_results_follow_the_order_of_their_calls() -> None:
    """Templates do not say whose a result is."""
    calling = pb.Message(
        role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id=f"call_{city}", name="weather") for city in "PR"]
    )
    results = [pb.Message(role=pb.ROLE_TOOL, content=city, tool_call_id=f"call_{city}") for city in "RPX"]

    given = conversation_to_template(pb.Conversation(messages=[USER, calling, *results[:2]]))
    assert [message["content"] for message in given.messages] == ["hi", "", "P", "R"]
    with pytest.raises(
        ConversationError, match=r"^messages\[3\]\.tool_call_id: 'call_X' is the id of no call"
    ) as refused:
        conversation_to_template(pb.Conversation(messages=[USER, calling, results[0], results[2]]))
    assert refused.value.path == "messages[3].tool_call_id"


def test_tools_keep_key_order() -> None:
    """The template prints tools, so the order of their keys is the request's."""
    text = json.dumps(WEATHER)

    template = conversation_to_template(pb.Conversation(messages=[USER], tools=[pb.Tool(definition_json=text)]))

    assert template.tools is not None
    assert text == json.dumps(template.tools[0])


def test_tools_that_come_again_are_parsed_once_and_errors_name_their_own_place() -> None:
    weather, number = json.dumps(WEATHER), "7"

    def tools(*texts: str) -> list[dict[str, object]] | None:
        given = [pb.Tool(definition_json=text) for text in texts]
        return conversation_to_template(pb.Conversation(messages=[USER], tools=given)).tools

    first, again = tools(weather), tools(weather, weather)

    assert first is not None
    assert again is not None
    assert again[0] is again[1] is first[0]
    for before in ([], [weather], [weather, weather]):
        with pytest.raises(ConversationError, match=rf"tools\[{len(before)}\] must be a JSON object"):
            tools(*before, number)


def test_long_tools_are_not_kept() -> None:
    text = json.dumps({**WEATHER, "more": "x" * 4096})
    conversation = pb.Conversation(messages=[USER], tools=[pb.Tool(definition_json=text)] * 2)

    tools = conversation_to_template(conversation).tools

    assert tools is not None
    assert tools[0] == tools[1]
    assert tools[0] is not tools[1]


def test_no_tools_is_none() -> None:
    """Templates ask `if tools`; transformers passes None."""
    assert conversation_to_template(pb.Conversation(messages=[USER])).tools is None


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"chat_template_kwargs_json": '{"enable_thinking": false}'}, {"enable_thinking": False}),
        ({"chat_template_kwargs_json": '{"enable_thinking": null}'}, {}),
        ({"enable_thinking": False, "chat_template_kwargs_json": '{"enable_thinking": false, "a": [1]}'},
         {"enable_thinking": False, "a": [1]}),
    ],
)  # fmt: skip
def test_variables(fields: dict[str, Any], variables: dict[str, object]) -> None:
    """Both ways to switch thinking give the same variable; none of them leaves it to the caller."""
    assert variables == conversation_to_template(pb.Conversation(messages=[USER], **fields)).variables


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, (True, False)),
        ({"add_generation_prompt": False}, (False, False)),
        ({"continue_final_message": True}, (False, True)),
        ({"continue_final_message": False}, (True, False)),
        ({"continue_final_message": True, "add_generation_prompt": False}, (False, True)),
    ],
)
def test_ending(fields: dict[str, Any], ending: tuple[bool, bool]) -> None:
    """The prompt ends with a new turn unless the last message is continued or the request says no."""
    template = conversation_to_template(pb.Conversation(messages=[USER], **fields))

    assert ending == (template.add_generation_prompt, template.continue_final_message)


def _tool(definition_json: str) -> pb.Conversation:
    return pb.Conversation(messages=[USER], tools=[pb.Tool(definition_json=definition_json)])


def _kwargs(text: str) -> pb.Conversation:
    return pb.Conversation(messages=[USER], chat_template_kwargs_json=text)


@pytest.mark.parametrize(
    ("conversation", "path"),
    [
        (pb.Conversation(), "messages"),
        (pb.Conversation(messages=[USER, pb.Message(content="x")]), "messages[1].role"),
        (pb.Conversation(messages=[pb.Message(role=9)]), "messages[0].role"),  # type: ignore[arg-type]
        (pb.Conversation(messages=[pb.Message(role=pb.ROLE_USER, tool_calls=[pb.ToolCall(name="f")])]),
         "messages[0].tool_calls"),
        (pb.Conversation(messages=[pb.Message(role=pb.ROLE_USER, reasoning_content="x")]),
         "messages[0].reasoning_content"),
        (pb.Conversation(messages=[USER, pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="1")])]),
         "messages[1].tool_calls[0].name"),
        (_tool("{"), "tools[0]"),
        (_tool("[]"), "tools[0]"),
        (_tool("[" * 100_000), "tools[0]"),
        (_tool('{"type": "web_search"}'), "tools[0].type"),
        (_tool('{"type": "function"}'), "tools[0].function"),
        (_tool('{"type": "function", "function": {"name": ""}}'), "tools[0].function.name"),
        (_kwargs("{x"), "chat_template_kwargs"),
        (_kwargs("1"), "chat_template_kwargs"),
        (_kwargs('{"enable_thinking": "no"}'), "chat_template_kwargs.enable_thinking"),
        (_kwargs('{"messages": []}'), "chat_template_kwargs.messages"),
        (_kwargs('{"namespace": 1}'), "chat_template_kwargs.namespace"),
        (_kwargs('{"raise_exception": 1}'), "chat_template_kwargs.raise_exception"),
        (_kwargs('{"x": NaN}'), "chat_template_kwargs"),
        (_kwargs('{"x": [-Infinity]}'), "chat_template_kwargs"),
        (_kwargs('{"x": 1e999}'), "chat_template_kwargs"),
        (_kwargs('{"x": -1e999}'), "chat_template_kwargs"),
        (_kwargs('{"x": %s}' % ("9" * 1001)), "chat_template_kwargs"),
        (pb.Conversation(messages=[USER] * (MAX_MESSAGES + 1)), "messages"),
        (pb.Conversation(messages=[USER], tools=[pb.Tool(definition_json="{")] * (MAX_TOOLS + 1)), "tools"),
        (_tool(" " * (MAX_TOOL_CHARACTERS + 1)), "tools"),
        (_kwargs(" " * (MAX_KWARGS_CHARACTERS + 1)), "chat_template_kwargs"),
        (pb.Conversation(messages=[pb.Message(content=" " * MAX_BYTES)]), "messages"),
        (pb.Conversation(messages=[pb.Message(tool_calls=[
            pb.ToolCall(arguments_json=" " * (MAX_ARGUMENT_CHARACTERS + 1))])]), "messages"),
        (pb.Conversation(messages=[pb.Message(tool_calls=[pb.ToolCall()] * (MAX_TOOL_CALLS + 1))]), "messages"),
        (pb.Conversation(messages=[USER], enable_thinking=True, chat_template_kwargs_json='{"enable_thinking":false}'),
         "chat_template_kwargs.enable_thinking"),
        (pb.Conversation(messages=[USER], add_generation_prompt=True, continue_final_message=True),
         "continue_final_message"),
    ],
)  # fmt: skip
def test_errors_name_the_field(conversation: pb.Conversation, path: str) -> None:
    """What cannot be rendered is refused with the path of the field at fault."""
    with pytest.raises(ConversationError) as refusal:
        conversation_to_template(conversation)

    assert path == refusal.value.path
