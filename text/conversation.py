"""A conversation as it arrives (protobuf) → what a chat template is given (plain dicts).

Routers and the tokenizer tier share this, so that both render the same prompt for the same request. Errors
name the field by its path from the conversation: `messages[2].role`, `tools[0].function.name`. Nothing but the message
types is needed here; each tier turns the error into what its callers are told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import count
from typing import Any

from qwenserve.chat.v1 import message_pb2
from qwenserve.runtime.values import frozen_value
from qwenserve.text.tool_results import ToolResultError, in_call_order

Conversation = message_pb2.Conversation

_ROLES = {
    message_pb2.ROLE_SYSTEM: "system",
    message_pb2.ROLE_USER: "user",
    message_pb2.ROLE_ASSISTANT: "assistant",
    message_pb2.ROLE_TOOL: "tool",
}

# Arguments of the rendering call itself: a template variable of that name would shadow the request's own field.
_RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})

# What templates call: a variable of that name would take its place.
_TEMPLATE_NAMES = frozenset(
    {"cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"}
)

_KWARGS = "chat_template_kwargs"

# The most that is rendered, besides what the window leaves of it: each takes time before the prompt's length is known.
MAX_MESSAGES = 1 << 14
MAX_TOOL_CALLS = 1 << 14
MAX_TOOLS = 1024
MAX_BYTES = 1 << 24
MAX_TOOL_CHARACTERS = 1 << 20
MAX_ARGUMENT_CHARACTERS = 1 << 22
MAX_KWARGS_CHARACTERS = 1 << 20

# Longer ones are no numbers that anything could compute with.
_MAX_DIGITS = 1000

# Up to so many messages, calls and tools, and so many characters of tools, of calls' arguments or of template
# variables, and bytes in all, a conversation is converted and rendered within a few milliseconds.
_SMALL_PARTS = 512
_SMALL_TOOL_CHARACTERS = 1 << 16
_SMALL_BYTES = 1 << 20
# Most conversations have no more bytes than this, and need no counting: there is no room for more parts than twice
# those, of four bytes and more.
_TINY_BYTES = 4 * 2 * _SMALL_PARTS


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is beyond what numbers can hold")
    return number


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"{digits[:20]}… has {len(digits):,} digits; at most {_MAX_DIGITS} are read")
    return int(digits)


# Python's reader takes NaN and Infinity, which are no JSON and which a template would print, makes Infinity of what is
# too large, and has an error of its own for numbers of very many digits.
_loads = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, parse_int=_whole).decode

# Agents send the same tools with every request. Of the newest ones the parsed form is kept, unless they are long: at
# worst, of nothing but brackets, 12 MB.
_KEPT_TOOLS = 128
_KEPT_CHARACTERS = 4096
_parsed_before = lru_cache(maxsize=_KEPT_TOOLS)(_loads)

# The variables of most requests that have any, as JSON; nothing has to be parsed for them.
_THINKING = {'{"enable_thinking": true}': True, '{"enable_thinking": false}': False}


class ConversationError(ValueError):
    """A conversation that no template can be given. `path` is that of the field at fault, from the conversation."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


@frozen_value
class TemplateInput:
    """What a chat template is rendered with.

    `tools` is None where the request has none. `variables` holds `enable_thinking` only if the request says it:
    the caller adds its deployment's default otherwise. At most one of the two flags is true. The tools belong to other
    requests as well: they are read only. `large`: rendering it would hold up others on an event loop.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    variables: dict[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    large: bool = False
    # Whether earlier answers keep their thoughts (`text.stable_prefix`); None: as the deployment is configured.
    prefix_stable: bool | None = None


def is_large(conversation: Conversation) -> bool:
    """Whether converting and rendering it would hold up others on an event loop."""
    size = conversation.ByteSize()
    if size <= _TINY_BYTES:
        return False
    messages, tools = conversation.messages, conversation.tools
    if len(messages) + len(tools) > _SMALL_PARTS or size > _SMALL_BYTES:
        return True
    if _tool_calls(messages) > _SMALL_PARTS or _tool_characters(tools) > _SMALL_TOOL_CHARACTERS:
        return True
    if len(conversation.chat_template_kwargs_json) > _SMALL_TOOL_CHARACTERS:
        return True
    return _argument_characters(messages) > _SMALL_TOOL_CHARACTERS


def _tool_calls(messages: Iterable[message_pb2.Message]) -> int:
    calls = 0
    for message in messages:  # a loop: a generator costs more than a short conversation's sum
        calls += len(message.tool_calls)
    return calls


def _argument_characters(messages: Iterable[message_pb2.Message]) -> int:
    characters = 0
    for message in messages:
        if message.tool_calls:
            for call in message.tool_calls:
                characters += len(call.arguments_json)
    return characters


def _tool_characters(tools: Iterable[message_pb2.Tool]) -> int:
    characters = 0
    for tool in tools:
        characters += len(tool.definition_json)
    return characters


def _check_size(conversation: Conversation) -> None:
    """Raises ConversationError where it is more than is rendered. Nothing but counts and lengths is looked at."""
    messages, tools = conversation.messages, conversation.tools
    _check_number("messages", len(messages), MAX_MESSAGES, "messages")
    _check_number("tools", len(tools), MAX_TOOLS, "tools")
    _check_number("messages", _tool_calls(messages), MAX_TOOL_CALLS, "tool calls")
    _check_number("messages", _argument_characters(messages), MAX_ARGUMENT_CHARACTERS, "characters of arguments")
    _check_number("tools", _tool_characters(tools), MAX_TOOL_CHARACTERS, "characters of tools")
    _check_number(_KWARGS, len(conversation.chat_template_kwargs_json), MAX_KWARGS_CHARACTERS, "characters")
    _check_number("messages", conversation.ByteSize(), MAX_BYTES, "bytes of conversation")


def _check_number(name: str, number: int, most: int, what: str) -> None:
    if number > most:
        raise ConversationError(f"{name}: {number:,} {what}; at most {most:,} in one request", name)


def conversation_to_template(conversation: Conversation, *, large: bool | None = None) -> TemplateInput:
    """Returns the template's input. `large` is the answer of `is_large`, where that has been asked.

    Raises ConversationError.
    """
    given = conversation.messages
    if not given:
        raise ConversationError("messages is empty; send at least one", "messages")
    if large is None:
        large = is_large(conversation)
    if large:
        _check_size(conversation)  # what is not large is far below these bounds
    messages = list(map(_message, given, count()))
    if len(messages) > 1:
        messages = _in_call_order(messages)
    tools = list(map(_tool, conversation.tools, count())) or None
    add_prompt, continue_final = _ending(conversation)
    stable = conversation.prefix_stable if conversation.HasField("prefix_stable") else None
    return TemplateInput(messages, tools, _variables(conversation), add_prompt, continue_final, large, stable)


def _in_call_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return in_call_order(messages)
    except ToolResultError as error:
        path = f"messages[{error.message_index}].tool_call_id"
        raise ConversationError(f"{path}: {error.message}", path) from None


def _message(message: message_pb2.Message, index: int) -> dict[str, Any]:
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(_ROLES.values())
        raise ConversationError(f"messages[{index}].role must be one of {known}", f"messages[{index}].role")
    # Unset content becomes an empty text for assistants too: some Qwen3 templates search in it without asking.
    plain: dict[str, Any] = {"role": role, "content": message.content}
    if role == "assistant":
        if message.HasField("reasoning_content"):
            plain["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            where = f"messages[{index}].tool_calls"
            plain["tool_calls"] = [_tool_call(call, f"{where}[{n}]") for n, call in enumerate(message.tool_calls)]
    elif message.tool_calls or message.reasoning_content:
        name = "tool_calls" if message.tool_calls else "reasoning_content"
        path = f"messages[{index}].{name}"
        raise ConversationError(f"{path}: only assistant messages have {name}", path)
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    if message.name:
        plain["name"] = message.name
    return plain


def _tool_call(call: message_pb2.ToolCall, path: str) -> dict[str, Any]:
    if not call.name:
        raise ConversationError(f"{path}.name is missing", f"{path}.name")
    arguments = _arguments(call.arguments_json)
    plain: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    if call.id:
        plain = {"id": call.id, **plain}
    return plain


def _arguments(text: str) -> dict[str, Any] | str:
    # An answer of the model may hold arguments that are no JSON object; it must still be accepted back.
    if not text.strip():
        return {}
    try:
        parsed = _without_surrogates(text, _loads(text))
    except (ValueError, RecursionError):
        return text
    return parsed if isinstance(parsed, dict) else text


def _without_surrogates(text: str, parsed: Any) -> Any:
    """JSON can spell halves of UTF-16 pairs, which no prompt can hold; they become U+FFFD."""
    if "\\ud" not in text and "\\uD" not in text:
        return parsed
    plain = json.dumps(parsed, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return json.loads(plain)


def _tool(tool: message_pb2.Tool, index: int) -> dict[str, Any]:
    path = f"tools[{index}]"
    definition = _json_object(tool.definition_json, path, comes_again=True)
    kind = definition.get("type", "function")
    if kind != "function":
        raise ConversationError(f"{path}.type must be 'function', not {kind!r}", f"{path}.type")
    function = definition.get("function")
    if not isinstance(function, dict):
        raise ConversationError(f"{path}.function must be an object with name and parameters", f"{path}.function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ConversationError(f"{path}.function.name must be a non-empty text", f"{path}.function.name")
    return definition


def _variables(conversation: Conversation) -> dict[str, Any]:
    text = conversation.chat_template_kwargs_json
    if not text:
        return {"enable_thinking": conversation.enable_thinking} if conversation.HasField("enable_thinking") else {}
    thinking = _THINKING.get(text)
    variables = _json_object(text, _KWARGS) if thinking is None else {"enable_thinking": thinking}
    for name in sorted(_TEMPLATE_NAMES & variables.keys()):
        path = f"{_KWARGS}.{name}"
        raise ConversationError(f"{path}: {name} is a word of the template language; take another name", path)
    for name in sorted(_RESERVED_VARIABLES & variables.keys()):
        path = f"{_KWARGS}.{name}"
        raise ConversationError(f"{path}: set {name} as a field of the request instead", path)
    path = f"{_KWARGS}.enable_thinking"
    if variables.get("enable_thinking", False) is None:
        del variables["enable_thinking"]
    if not isinstance(variables.get("enable_thinking", False), bool):
        raise ConversationError(f"{path} must be true or false", path)
    if conversation.HasField("enable_thinking"):
        field = conversation.enable_thinking
        if variables.setdefault("enable_thinking", field) != field:
            raise ConversationError(f"enable_thinking is {field}, but {path} says otherwise; send one", path)
    return variables


def _ending(conversation: Conversation) -> tuple[bool, bool]:
    continue_final = conversation.continue_final_message
    if not conversation.HasField("add_generation_prompt"):
        return not continue_final, continue_final
    if conversation.add_generation_prompt and continue_final:
        raise ConversationError(
            "continue_final_message and add_generation_prompt exclude each other; leave one out",
            "continue_final_message",
        )
    return conversation.add_generation_prompt, continue_final


def _json_object(text: str, path: str, *, comes_again: bool = False) -> dict[str, Any]:
    loads = _parsed_before if comes_again and len(text) <= _KEPT_CHARACTERS else _loads
    try:
        parsed = _without_surrogates(text, loads(text))
    except ValueError as error:
        raise ConversationError(f"{path} is no valid JSON: {error}", path) from None
    except RecursionError:
        raise ConversationError(f"{path} is nested too deeply", path) from None
    if not isinstance(parsed, dict):
        raise ConversationError(f"{path} must be a JSON object, not {type(parsed).__name__}", path)
    return parsed
