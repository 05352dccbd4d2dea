"""Input items and tools of the Responses API as `Conversation`.

There a turn of the assistant is several items: its thought, its text, its calls. Here it is one message: an item goes
into the assistant's last message as long as that has nothing yet that would come after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwenserve.chat.v1 import message_pb2
from qwenserve.router.http.responses.draft import ResponsesDraft
from qwenserve.runtime.errors import InvalidRequest, Unsupported

_ROLES = {
    "system": message_pb2.ROLE_SYSTEM,
    "developer": message_pb2.ROLE_SYSTEM,
    "user": message_pb2.ROLE_USER,
    "assistant": message_pb2.ROLE_ASSISTANT,
}
_TEXTS = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})
_NOT_TEXT = frozenset({"input_image", "input_file", "input_audio", "computer_screenshot"})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_input(draft: ResponsesDraft, value: Any) -> None:
    """A text, or items. Raises InvalidRequest or Unsupported naming the place, such as `input[2].content[0]`."""
    if isinstance(value, str):
        draft.conversation.messages.add(role=message_pb2.ROLE_USER, content=value)
        return
    if not isinstance(value, list) or not value:
        raise InvalidRequest("input must be a text or a list of at least one item", param="input")
    for index, item in enumerate(value):
        at = f"input[{index}]"
        if not isinstance(item, dict):
            raise InvalidRequest(f"{at} must be an object", param=at)
        kind = item.get("type", "message")
        if kind == "message":
            _write_message(draft, item, at)
        elif kind == "function_call":
            message = _assistant(draft, "calls")
            arguments = _text(item, "arguments", at) or "{}"
            message.tool_calls.add(
                id=_text(item, "call_id", at), name=_text(item, "name", at), arguments_json=arguments
            )
        elif kind == "function_call_output":
            text = _joined(item.get("output"), f"{at}.output")
            draft.conversation.messages.add(
                role=message_pb2.ROLE_TOOL, content=text, tool_call_id=_text(item, "call_id", at)
            )
        elif kind == "reasoning":
            _write_reasoning(draft, item, at)
        elif kind == "item_reference":
            raise Unsupported(f"{at}: nothing is stored here; send the item itself", param=at)
        else:
            shown = repr(kind[:40]) if isinstance(kind, str) else type(kind).__name__
            raise Unsupported(f"{at}.type: {shown} is not supported", param=f"{at}.type")


def _write_message(draft: ResponsesDraft, item: Mapping[str, Any], at: str) -> None:
    role = item.get("role")
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise InvalidRequest(f"{at}.role must be one of {', '.join(_ROLES)}", param=f"{at}.role")
    text = _joined(item.get("content"), f"{at}.content")
    if known == message_pb2.ROLE_ASSISTANT:
        _assistant(draft, "content").content = text
    else:
        draft.conversation.messages.add(role=known, content=text)


def _write_reasoning(draft: ResponsesDraft, item: Mapping[str, Any], at: str) -> None:
    # Thought text is in the content; a summary stands for it where there is nothing else.
    parts = item.get("content") or item.get("summary") or []
    text = _joined(parts, f"{at}.content")
    if text:
        _assistant(draft, "reasoning").reasoning_content = text


def _assistant(draft: ResponsesDraft, part: str) -> message_pb2.Message:
    """Returns the message of the assistant that takes a part: the last one, or a new one."""
    messages = draft.conversation.messages
    last = messages[-1] if messages else None
    if last is not None and last.role == message_pb2.ROLE_ASSISTANT:
        free = {
            "reasoning": not (last.reasoning_content or last.HasField("content") or last.tool_calls),
            "content": not (last.HasField("content") or last.tool_calls),
            "calls": True,
        }
        if free[part]:
            return last
    return messages.add(role=message_pb2.ROLE_ASSISTANT)


def write_tools(draft: ResponsesDraft, value: list[dict[str, Any]]) -> None:
    """Adds the functions in the form that templates print."""
    shown = []
    for index, tool in enumerate(value):
        at = f"tools[{index}]"
        kind = tool.get("type", "function")
        if isinstance(kind, str) and kind.startswith("web_search"):
            # Agents add it on their own: a model that is not shown it does without.
            draft.ignored.append(at)
            continue
        if kind != "function":
            raise Unsupported(f"{at}.type: only 'function' is supported", param=f"{at}.type")
        function: dict[str, Any] = {"name": _text(tool, "name", at)}
        if not function["name"]:
            raise InvalidRequest(f"{at}.name must be a non-empty string", param=f"{at}.name")
        for key in ("description", "parameters"):
            if tool.get(key) is not None:
                function[key] = tool[key]
        strict = tool.get("strict") is True
        if strict:
            function["strict"] = True
        draft.conversation.tools.add(definition_json=_json({"type": "function", "function": function}, at))
        shown.append({"type": "function", "description": None, "parameters": None, **function, "strict": strict})
    draft.echo["tools"] = shown


def _joined(content: Any, at: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{at} must be a string or a list of parts", param=at)
    # Parts are separate to their sender: joined without a break their words would run together.
    return "\n".join([_part(part, f"{at}[{index}]") for index, part in enumerate(content)])


def _part(part: Any, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _NOT_TEXT:
        raise Unsupported(f"{at}: the model reads text only, not {kind!r}", param=at)
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if not isinstance(text, str) or not (kind == "refusal" or (isinstance(kind, str) and kind in _TEXTS)):
        raise InvalidRequest(f'{at} must be {{"type": "input_text", "text": …}}', param=at)
    return text


def _text(given: Mapping[str, Any], key: str, at: str) -> str:
    value = given.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"{at}.{key} must be a string", param=f"{at}.{key}")
    return value


def _json(value: Any, param: str) -> str:
    try:
        return _encode(value)
    except ValueError:
        raise InvalidRequest(f"{param} has a number that JSON cannot express", param=param) from None
