"""Anthropic's messages, system text and tools as `Conversation`.

A message there is a list of blocks; a conversation here has a message for each role. A user's tool results become
messages of tools, in place; an assistant's thought, text and calls become one message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwenserve.chat.v1 import message_pb2
from qwenserve.router.http.anthropic.draft import MessagesDraft
from qwenserve.runtime.errors import InvalidRequest, Unsupported

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NOT_TEXT = frozenset({"image", "document", "search_result"})


def write_system(draft: MessagesDraft, value: Any) -> None:
    """Puts the system's text before all messages."""
    text = value if isinstance(value, str) else _joined(draft, value, "system")
    if text:
        message = message_pb2.Message(role=message_pb2.ROLE_SYSTEM, content=text)
        others = list(draft.conversation.messages)
        del draft.conversation.messages[:]
        draft.conversation.messages.extend([message, *others])


def write_messages(draft: MessagesDraft, value: list[dict[str, Any]]) -> None:
    """Adds all messages. Raises InvalidRequest or Unsupported naming the place, such as `messages[2].content[0]`."""
    for index, given in enumerate(value):
        at = f"messages[{index}]"
        role, content = given.get("role"), given.get("content")
        if role not in ("user", "assistant"):
            shown = repr(role[:40]) if isinstance(role, str) else type(role).__name__
            raise InvalidRequest(f"{at}.role must be 'user' or 'assistant', got {shown}", param=f"{at}.role")
        if isinstance(content, str):
            kind = message_pb2.ROLE_USER if role == "user" else message_pb2.ROLE_ASSISTANT
            draft.conversation.messages.add(role=kind, content=content)
        elif not isinstance(content, list):
            raise InvalidRequest(f"{at}.content must be a string or a list of blocks", param=f"{at}.content")
        elif role == "user":
            _write_user(draft, content, f"{at}.content")
        else:
            _write_assistant(draft, content, f"{at}.content")
        if len(given) > 2:
            _note(draft, given, at, "role", "content")
    last = value[-1]
    if last.get("role") == "assistant":
        # The answer goes on where this message ends.
        draft.conversation.continue_final_message = True


def _write_user(draft: MessagesDraft, content: list[Any], at: str) -> None:
    texts: list[str] = []

    def flush() -> None:
        if texts:
            draft.conversation.messages.add(role=message_pb2.ROLE_USER, content="\n".join(texts))
            texts.clear()

    for index, block in enumerate(content):
        here = f"{at}[{index}]"
        if isinstance(block, dict) and block.get("type") == "tool_result":
            flush()
            result = block.get("content")
            text = "" if result is None else result if isinstance(result, str) else _joined(draft, result, here)
            name = _text(block, "tool_use_id", here)
            draft.conversation.messages.add(role=message_pb2.ROLE_TOOL, content=text, tool_call_id=name)
            _note(draft, block, here, "tool_use_id", "content", "is_error")
        else:
            texts.append(_block_text(draft, block, here))
    flush()


def _write_assistant(draft: MessagesDraft, content: list[Any], at: str) -> None:
    message = draft.conversation.messages.add(role=message_pb2.ROLE_ASSISTANT)
    texts: list[str] = []
    thoughts: list[str] = []
    for index, block in enumerate(content):
        here = f"{at}[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "thinking":
            thoughts.append(_text(block, "thinking", here))
            _note(draft, block, here, "thinking", "signature")
        elif kind == "redacted_thinking":
            raise Unsupported(f"{here}: redacted thinking cannot be read here; leave it out", param=here)
        elif kind == "tool_use":
            arguments = block.get("input", {})
            if not isinstance(arguments, dict):
                raise InvalidRequest(f"{here}.input must be an object", param=f"{here}.input")
            text = _json(arguments, f"{here}.input")
            message.tool_calls.add(id=_text(block, "id", here), name=_text(block, "name", here), arguments_json=text)
            _note(draft, block, here, "id", "name", "input")
        else:
            texts.append(_block_text(draft, block, here))
    if thoughts:
        message.reasoning_content = "\n".join(thoughts)
    if texts or not message.tool_calls:
        message.content = "\n".join(texts)


def write_tools(draft: MessagesDraft, value: list[dict[str, Any]]) -> None:
    """Adds the tools in the form that templates print."""
    for index, tool in enumerate(value):
        at = f"tools[{index}]"
        kind = tool.get("type")
        if kind not in (None, "custom"):
            raise Unsupported(f"{at}.type: only tools of your own are supported, not {kind!r}", param=f"{at}.type")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise InvalidRequest(f"{at}.input_schema must be an object", param=f"{at}.input_schema")
        function: dict[str, Any] = {"name": _text(tool, "name", at)}
        description = tool.get("description")
        if description is not None:
            function["description"] = _text(tool, "description", at)
        function["parameters"] = schema
        draft.conversation.tools.add(definition_json=_json({"type": "function", "function": function}, at))
        _note(draft, tool, at, "name", "description", "input_schema")


def _joined(draft: MessagesDraft, content: Any, at: str) -> str:
    if not isinstance(content, list):
        raise InvalidRequest(f"{at} must be a string or a list of blocks", param=at)
    # Blocks are separate to their sender: joined without a break their words would run together.
    return "\n".join([_block_text(draft, block, f"{at}[{index}]") for index, block in enumerate(content)])


def _block_text(draft: MessagesDraft, block: Any, at: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(kind, str) and kind in _NOT_TEXT:
        raise Unsupported(f"{at}: the model reads text only, not {kind!r}", param=at)
    if kind != "text":
        raise InvalidRequest(f'{at} must be a block that belongs here, such as {{"type": "text", "text": …}}', param=at)
    _note(draft, block, at, "text")
    return _text(block, "text", at)


def _note(draft: MessagesDraft, block: Mapping[str, Any], at: str, *known: str) -> None:
    for key, value in block.items():
        if key != "type" and key not in known and value is not None:
            draft.ignore_key(key, at)


def _text(given: Mapping[str, Any], key: str, at: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or (not value and key in ("name", "id", "tool_use_id")):
        raise InvalidRequest(f"{at}.{key} must be a string", param=f"{at}.{key}")
    return value


def _json(value: Any, param: str) -> str:
    try:
        return _encode(value)
    except ValueError:
        raise InvalidRequest(f"{param} has a number that JSON cannot express", param=param) from None
