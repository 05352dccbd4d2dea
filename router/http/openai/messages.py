"""OpenAI's messages and tools as `Conversation`: text only, lenient where clients differ, exact about what fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.http.openai.drafts import ChatDraft
from qwenserve.runtime.errors import InvalidRequest, Unsupported

_ROLES = {
    "system": message_pb2.ROLE_SYSTEM,
    "developer": message_pb2.ROLE_SYSTEM,
    "user": message_pb2.ROLE_USER,
    "assistant": message_pb2.ROLE_ASSISTANT,
    "tool": message_pb2.ROLE_TOOL,
}
# `json.dumps` would make an encoder in every call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
# What nearly all who send template variables send.
_THINKING = {thinks: _encode({"enable_thinking": thinks}) for thinks in (True, False)}
_KNOWN = frozenset({"role", "content", "name", "tool_call_id", "tool_calls", "reasoning", "reasoning_content"})
_NOT_TEXT = frozenset({"image_url", "input_image", "image", "input_audio", "audio", "video_url", "video", "file"})


def write_messages(draft: ChatDraft, value: list[dict[str, Any]]) -> None:
    """Adds all messages. Raises InvalidRequest or Unsupported naming the place, such as `messages[2].role`."""
    messages = draft.conversation.messages
    unknown: set[str] = set()
    for index, given in enumerate(value):
        message = messages.add()
        role, content = given.get("role"), given.get("content")
        if len(given) == 2 and isinstance(content, str) and isinstance(role, str) and role in _ROLES:
            # Most messages: role and text alone, with nothing to look for.
            message.role = _ROLES[role]
            message.content = content
            continue
        _write_message(message, given, f"messages[{index}]")
        # A key that every message carries is named once.
        if not given.keys() <= _KNOWN:
            for key in given.keys() - _KNOWN - unknown:
                if given[key] not in (None, [], {}, ""):
                    unknown.add(key)
                    draft.ignored.append(f"messages[{index}].{key}")


def _write_message(message: message_pb2.Message, given: Mapping[str, Any], at: str) -> None:
    role = given.get("role")
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise InvalidRequest(_role_problem(role, at), param=f"{at}.role")
    message.role = known
    content = given.get("content")
    if isinstance(content, str):
        message.content = content
    elif content is not None:
        message.content = _joined_text(content, f"{at}.content")
    for key in ("name", "tool_call_id"):
        text = _text(given, key, at)
        if text:
            setattr(message, key, text)
    reasoning = _text(given, "reasoning_content", at) or _text(given, "reasoning", at)
    if reasoning:
        message.reasoning_content = reasoning
    if given.get("function_call"):
        raise Unsupported(f"{at}.function_call: deprecated; send tool_calls instead", param=f"{at}.function_call")
    calls = given.get("tool_calls")
    if calls:
        _write_tool_calls(message, calls, f"{at}.tool_calls")


def _role_problem(role: Any, at: str) -> str:
    if role is None:
        return f"{at}.role is missing"
    if role == "function":
        return f"{at}.role: 'function' is deprecated; use 'tool'"
    shown = repr(role[:40]) if isinstance(role, str) else type(role).__name__
    return f"{at}.role must be one of system, developer, user, assistant, tool; got {shown}"


def _text(given: Mapping[str, Any], key: str, at: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{at}.{key} must be a string", param=f"{at}.{key}")
    return value


def _joined_text(content: Any, at: str) -> str:
    if not isinstance(content, list):
        raise InvalidRequest(f"{at} must be a string or a list of parts", param=at)
    # Parts are separate blocks to their sender: joined without a break their words would run together.
    return "\n".join([_part_text(part, f"{at}[{index}]") for index, part in enumerate(content)])


def _part_text(part: Any, at: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _NOT_TEXT:
        raise Unsupported(f"{at}: the model reads text only, not {kind!r}", param=at)
    text = None
    if kind in ("text", "input_text", "output_text"):
        text = part.get("text")
    elif kind == "refusal":
        text = part.get("refusal")
    if not isinstance(text, str):
        raise InvalidRequest(f'{at} must be {{"type": "text", "text": …}}', param=at)
    return text


def _write_tool_calls(message: message_pb2.Message, calls: Any, at: str) -> None:
    if not isinstance(calls, list):
        raise InvalidRequest(f"{at} must be a list", param=at)
    for index, call in enumerate(calls):
        here = f"{at}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{here}.function.name must be a string", param=f"{here}.function.name")
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not isinstance(arguments, str | None):
            raise InvalidRequest(
                f"{here}.function.arguments must be the text of a JSON object", param=f"{here}.function.arguments"
            )
        # A function without parameters is often called with nothing at all.
        message.tool_calls.add(id=_text(call, "id", here), name=function["name"], arguments_json=arguments or "{}")


def write_tools(draft: ChatDraft, value: list[dict[str, Any]]) -> None:
    """Adds the tools as they are: the template prints them."""
    for index, tool in enumerate(value):
        function = tool.get("function")
        if tool.get("type", "function") != "function":
            raise Unsupported(f"tools[{index}].type: only 'function' is supported", param=f"tools[{index}].type")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequest(
                f"tools[{index}].function.name must be a string", param=f"tools[{index}].function.name"
            )
        draft.conversation.tools.add(definition_json=_json(tool, f"tools[{index}]"))


_TOOL_MODES = {
    "none": chat_pb2.ToolChoice.MODE_NONE,
    "auto": chat_pb2.ToolChoice.MODE_AUTO,
    "required": chat_pb2.ToolChoice.MODE_REQUIRED,
}


def write_tool_choice(draft: ChatDraft, value: Any) -> None:
    """none, auto, required, a named function, or some of the tools. The router says what an engine can be bound to."""
    choice = draft.request.tool_choice
    if isinstance(value, str) and value in _TOOL_MODES:
        choice.mode = _TOOL_MODES[value]
    elif isinstance(value, dict) and value.get("type") == "function":
        choice.mode = chat_pb2.ToolChoice.MODE_REQUIRED
        choice.names.append(_function_name(value, "tool_choice"))
    elif isinstance(value, dict) and value.get("type") == "allowed_tools":
        _write_allowed_tools(choice, value.get("allowed_tools"))
    else:
        raise InvalidRequest(
            "tool_choice must be 'none', 'auto', 'required', a function or allowed_tools", param="tool_choice"
        )


def write_parallel_tool_calls(draft: ChatDraft, value: bool) -> None:
    """Whether an answer may hold several calls."""
    draft.request.tool_choice.parallel = value


def _write_allowed_tools(choice: chat_pb2.ToolChoice, value: Any) -> None:
    at = "tool_choice.allowed_tools"
    mode = value.get("mode") if isinstance(value, dict) else None
    tools = value.get("tools") if isinstance(value, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise InvalidRequest(f"{at} must have a mode, 'auto' or 'required', and a list of tools", param=at)
    choice.mode = _TOOL_MODES[mode]
    choice.names.extend(_function_name(tool, f"{at}.tools[{index}]") for index, tool in enumerate(tools))


def _function_name(value: Any, at: str) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{at}.function.name must be a non-empty string", param=f"{at}.function.name")
    return name


def write_template_kwargs(draft: ChatDraft, value: Mapping[str, Any]) -> None:
    """Variables for the template, as JSON."""
    if len(value) == 1 and isinstance(thinking := value.get("enable_thinking"), bool):
        draft.conversation.chat_template_kwargs_json = _THINKING[thinking]
        return
    draft.conversation.chat_template_kwargs_json = _json(value, "chat_template_kwargs")


def _json(value: Any, param: str) -> str:
    try:
        return _encode(value)
    except ValueError:
        raise InvalidRequest(f"{param} has a number that JSON cannot express", param=param) from None
