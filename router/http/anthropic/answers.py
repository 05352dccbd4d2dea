"""Answers in Anthropic's form: a whole message, and the events of a stream.

An answer is a list of blocks. A block of the stream ends where an event of another kind begins the next one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.fold import Fold
from qwenserve.router.http.transport.json_body import to_json
from qwenserve.router.http.transport.sse import Frame
from qwenserve.runtime.json_text import quoted
from qwenserve.type.v1 import sampling_pb2

# Nothing in Anthropic's list says "given up"; null is allowed there.
_STOP_REASONS = {
    sampling_pb2.FINISH_REASON_STOP: "end_turn",
    sampling_pb2.FINISH_REASON_LENGTH: "max_tokens",
    sampling_pb2.FINISH_REASON_TOOL_CALLS: "tool_use",
}


def message_body(fold: Fold) -> bytes:
    """Returns a complete answer as a message in JSON."""
    content: list[dict[str, Any]] = []
    finish = chat_pb2.ChoiceFinish()
    for _, choice in fold.choices():
        finish = choice.finish
        if choice.reasoning:
            content.append({"type": "thinking", "thinking": "".join(choice.reasoning), "signature": ""})
        if choice.text:
            content.append({"type": "text", "text": choice.text})
        for call, arguments in choice.calls:
            given = _arguments("".join(arguments))
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    return to_json(
        {
            **_envelope(fold.start),
            "content": content,
            **_ending(finish),
            "usage": _usage(fold.usage or sampling_pb2.Usage()),
        }
    )


class MessageStream:
    """A `StreamFormat`: renders one answer's events in the documented order.

    `message_start`; of each block its start, deltas and stop; `message_delta` with the reason and the counts;
    `message_stop`.
    """

    def __init__(self) -> None:
        self.started: chat_pb2.StreamStart | None = None
        self.usage: sampling_pb2.Usage | None = None
        self._finish = chat_pb2.ChoiceFinish()
        # Of the open block: its number, and what it is of; -1 and "" before the first.
        self._index = -1
        self._kind = ""

    def render(self, events: Sequence[chat_pb2.ChatEvent]) -> str:
        """Returns the stream's events for these."""
        return "".join([self._one(event) for event in events])

    def text_frame(self, choice_index: int, reasoning: bool) -> Frame | None:
        """None: a delta's frame depends on the block that is open."""
        return None

    def _one(self, event: chat_pb2.ChatEvent) -> str:
        kind = event.WhichOneof("event")
        if kind == "content_delta":
            return self._text("text", event.content_delta)
        if kind == "reasoning_delta":
            return self._text("thinking", event.reasoning_delta)
        if kind == "tool_call_start":
            call = event.tool_call_start
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            return self._open(f"call {call.index}", block)
        if kind == "tool_call_arguments":
            piece = event.tool_call_arguments.delta
            return self._delta(f'{{"type":"input_json_delta","partial_json":{quoted(piece)}}}')
        if kind == "start":
            self.started = event.start
            return _event("message_start", {"message": self._beginning(event.start)})
        if kind == "finish":
            self._finish = event.finish
            return ""
        if kind == "usage":
            self.usage = event.usage
            ending = {"delta": _ending(self._finish), "usage": _usage(event.usage)}
            return f"{self._close()}{_event('message_delta', ending)}{_event('message_stop', {})}"
        return ""

    def _beginning(self, start: chat_pb2.StreamStart) -> dict[str, Any]:
        usage = _usage(sampling_pb2.Usage(prompt_tokens=start.prompt_tokens))
        return {**_envelope(start), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}

    def _text(self, kind: str, text: str) -> str:
        opening = ""
        if self._kind != kind:
            block = {"type": kind, kind: ""}
            if kind == "thinking":
                block["signature"] = ""
            opening = self._open(kind, block)
        return opening + self._delta(f'{{"type":"{kind}_delta","{kind}":{quoted(text)}}}')

    def _open(self, kind: str, block: dict[str, Any]) -> str:
        closing = self._close()
        self._index += 1
        self._kind = kind
        return closing + _event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> str:
        if not self._kind:
            return ""
        # A thought ends with its signature; nothing is signed here.
        signature = self._delta('{"type":"signature_delta","signature":""}') if self._kind == "thinking" else ""
        self._kind = ""
        return signature + _event("content_block_stop", {"index": self._index})

    def _delta(self, delta: str) -> str:
        return (
            "event: content_block_delta\n"
            f'data: {{"type":"content_block_delta","index":{self._index},"delta":{delta}}}\n\n'
        )


def _event(name: str, body: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {to_json({'type': name, **body}).decode()}\n\n"


def _envelope(start: chat_pb2.StreamStart) -> dict[str, Any]:
    # Ids of messages begin with "msg_" there.
    return {
        "id": f"msg_{start.id.rpartition('-')[2]}",
        "type": "message",
        "role": "assistant",
        "model": start.model,
    }


def _ending(finish: chat_pb2.ChoiceFinish) -> dict[str, Any]:
    if finish.HasField("stop_string"):
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop_string}
    return {"stop_reason": _STOP_REASONS.get(finish.reason), "stop_sequence": None}


def _usage(counts: sampling_pb2.Usage) -> dict[str, int]:
    # Tokens that were found cached are not counted as input there.
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
    }


def _arguments(text: str) -> dict[str, Any]:
    """Returns the arguments of a call. What is no object, as a model's text may be, comes under one key."""
    try:
        given = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        given = text
    return given if isinstance(given, dict) else {"arguments": text}
