"""Answers in the form of the Responses API: a whole response, and the events of a stream.

An answer is a list of items: thought, text and calls, each with an id. An item of the stream is done where an event of
another kind begins the next one; the last event holds the whole response again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.fold import Fold
from qwenserve.router.http.transport.json_body import to_json
from qwenserve.router.http.transport.sse import Frame
from qwenserve.runtime.errors import ServiceError
from qwenserve.type.v1 import sampling_pb2

# JSON has no minus infinity; this is low enough to read as "never".
_LEAST_LOGPROB = -9999.0
_ECHO: dict[str, Any] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "max_output_tokens": None,
    "reasoning": {"effort": None, "summary": None},
}


def response_body(fold: Fold, echo: Mapping[str, Any]) -> bytes:
    """Returns a complete answer as a response in JSON. `echo` is what it repeats of its request."""
    output: list[dict[str, Any]] = []
    finish = chat_pb2.ChoiceFinish()
    for _, choice in fold.choices():
        finish = choice.finish
        status = _status(finish)
        if choice.reasoning:
            output.append(_reasoning(_id(fold.start, "rs", len(output)), "".join(choice.reasoning), status))
        if choice.text or not choice.calls:
            logprobs = _logprobs(choice.logprobs[choice.thought_logprobs :])
            output.append(_message(_id(fold.start, "msg", len(output)), choice.text, status, logprobs))
        for call, arguments in choice.calls:
            output.append(_call(_id(fold.start, "fc", len(output)), call, "".join(arguments), status))
    return to_json(_response(fold.start, echo, output, finish, fold.usage or sampling_pb2.Usage()))


class ResponseStream:
    """A `StreamFormat`: renders one answer's events in the documented order, numbered. It is its own `ErrorFormat` too,
    since the event that tells an error is numbered like the others.
    """

    def __init__(self, echo: Mapping[str, Any]) -> None:
        self.started: chat_pb2.StreamStart | None = None
        self.usage: sampling_pb2.Usage | None = None
        self._echo = echo
        self._number = -1
        self._finish = chat_pb2.ChoiceFinish()
        self._output: list[dict[str, Any]] = []
        # The open item: of what kind, its id, the call that it is, and what it has so far.
        self._kind = ""
        self._id = ""
        self._call = chat_pb2.ToolCallStart()
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def render(self, events: Sequence[chat_pb2.ChatEvent]) -> str:
        """Returns the stream's events for these."""
        return "".join([self._one(event) for event in events])

    def text_frame(self, choice_index: int, reasoning: bool) -> Frame | None:
        """None: every event has a number."""
        return None

    def body(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the error as an object."""
        return to_json({"type": "error", "code": error.code, "message": error.message, "param": error.param})

    def event(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the last two events of a stream that failed: the error, and the response as it stands."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        if self.started is None:
            return self._event("error", told).encode()
        response = self._whole("failed")
        response["error"] = {"code": _error_code(error), "message": error.message}
        return (self._event("error", told) + self._event("response.failed", {"response": response})).encode()

    def _one(self, event: chat_pb2.ChatEvent) -> str:
        kind = event.WhichOneof("event")
        if kind == "content_delta":
            if not event.content_delta and self._kind not in ("", "message"):
                return ""  # log-probabilities of ids that are no text, behind a thought or a call
            opening = self._open("message", "msg")
            logprobs = _logprobs(event.logprobs)
            self._logprobs += logprobs
            self._pieces.append(event.content_delta)
            delta = {"delta": event.content_delta, "logprobs": logprobs}
            return opening + self._part("response.output_text.delta", delta)
        if kind == "reasoning_delta":
            opening = self._open("reasoning", "rs")
            self._pieces.append(event.reasoning_delta)
            return opening + self._part("response.reasoning_text.delta", {"delta": event.reasoning_delta})
        if kind == "tool_call_start":
            return self._open("function_call", "fc", event.tool_call_start)
        if kind == "tool_call_arguments":
            piece = event.tool_call_arguments.delta
            self._pieces.append(piece)
            return self._item_event("response.function_call_arguments.delta", {"delta": piece})
        if kind == "start":
            self.started = event.start
            begun = {"response": self._whole("in_progress")}
            return self._event("response.created", begun) + self._event("response.in_progress", begun)
        if kind == "finish":
            self._finish = event.finish
            if self._kind == "message":
                self._logprobs += _logprobs(event.logprobs)
            return ""
        if kind == "usage":
            # An answer of nothing is a message of nothing.
            opening = "" if self._output or self._kind else self._open("message", "msg")
            closing = opening + self._close(_status(self._finish))
            self.usage = event.usage
            response = _response(self._begun, self._echo, self._output, self._finish, event.usage)
            return closing + self._event(f"response.{response['status']}", {"response": response})
        return ""

    @property
    def _begun(self) -> chat_pb2.StreamStart:
        if self.started is None:
            raise ValueError("an answer begins with its start")
        return self.started

    def _whole(self, status: str) -> dict[str, Any]:
        response = _response(self._begun, self._echo, self._output, chat_pb2.ChoiceFinish(), None)
        response["status"] = status
        return response

    def _open(self, kind: str, prefix: str, call: chat_pb2.ToolCallStart | None = None) -> str:
        """Begins an item, unless text goes on in the one that is open."""
        if self._kind == kind and call is None:
            return ""
        closing = self._close("completed")
        self._kind = kind
        self._id = _id(self._begun, prefix, len(self._output))
        self._pieces = []
        self._logprobs = []
        if call is not None:
            self._call = call
        item = self._item("in_progress")
        if kind != "function_call":
            item["content"] = []
        opening = self._event("response.output_item.added", {"output_index": len(self._output), "item": item})
        if kind != "function_call":
            opening += self._part("response.content_part.added", {"part": self._content("")})
        return closing + opening

    def _close(self, status: str) -> str:
        if not self._kind:
            return ""
        text = "".join(self._pieces)
        if self._kind == "function_call":
            done = self._item_event(
                "response.function_call_arguments.done", {"arguments": text, "name": self._call.name}
            )
        else:
            if self._kind == "message":
                told = self._part("response.output_text.done", {"text": text, "logprobs": self._logprobs})
            else:
                told = self._part("response.reasoning_text.done", {"text": text})
            done = told + self._part("response.content_part.done", {"part": self._content(text)})
        item = self._item(status)
        done += self._event("response.output_item.done", {"output_index": len(self._output), "item": item})
        self._output.append(item)
        self._kind = ""
        return done

    def _item(self, status: str) -> dict[str, Any]:
        text = "".join(self._pieces)
        if self._kind == "message":
            return _message(self._id, text, status, self._logprobs)
        if self._kind == "reasoning":
            return _reasoning(self._id, text, status)
        return _call(self._id, self._call, text, status)

    def _content(self, text: str) -> dict[str, Any]:
        return _output_text(text, self._logprobs) if self._kind == "message" else _reasoning_text(text)

    def _part(self, name: str, body: dict[str, Any]) -> str:
        return self._item_event(name, {"content_index": 0, **body})

    def _item_event(self, name: str, body: dict[str, Any]) -> str:
        return self._event(name, {"item_id": self._id, "output_index": len(self._output), **body})

    def _event(self, name: str, body: dict[str, Any]) -> str:
        self._number += 1
        told = to_json({"type": name, "sequence_number": self._number, **body})
        return f"event: {name}\ndata: {told.decode()}\n\n"


def _response(
    start: chat_pb2.StreamStart,
    echo: Mapping[str, Any],
    output: Sequence[dict[str, Any]],
    finish: chat_pb2.ChoiceFinish,
    usage: sampling_pb2.Usage | None,
) -> dict[str, Any]:
    cut = finish.reason == sampling_pb2.FINISH_REASON_LENGTH
    return {
        "id": f"resp_{_hex(start)}",
        "object": "response",
        "created_at": start.created,
        "status": _status(finish),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": start.model,
        "output": list(output),
        "previous_response_id": None,
        "store": False,
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
        "background": False,
        "usage": None if usage is None else _usage(usage),
        **_ECHO,
        **echo,
    }


def _status(finish: chat_pb2.ChoiceFinish) -> str:
    whole = (sampling_pb2.FINISH_REASON_STOP, sampling_pb2.FINISH_REASON_TOOL_CALLS)
    return "completed" if finish.reason in whole else "incomplete"


def _hex(start: chat_pb2.StreamStart) -> str:
    return start.id.rpartition("-")[2]


def _id(start: chat_pb2.StreamStart, prefix: str, index: int) -> str:
    return f"{prefix}_{_hex(start)}_{index}"


def _output_text(text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _reasoning_text(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def _message(item_id: str, text: str, status: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    content = [_output_text(text, logprobs)]
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": content}


def _reasoning(item_id: str, text: str, status: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": item_id, "status": status, "summary": [], "content": [_reasoning_text(text)]}


def _call(item_id: str, call: chat_pb2.ToolCallStart, arguments: str, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": item_id,
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }


def _usage(counts: sampling_pb2.Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }


def _logprobs(items: Iterable[sampling_pb2.TokenLogprob]) -> list[dict[str, Any]]:
    return [{**_logprob(item), "top_logprobs": [_logprob(one) for one in item.top_logprobs]} for item in items]


def _logprob(item: sampling_pb2.TokenLogprob | sampling_pb2.TopLogprob) -> dict[str, Any]:
    return {"token": item.token, "logprob": max(item.logprob, _LEAST_LOGPROB), "bytes": list(item.token_bytes)}


def _error_code(error: ServiceError) -> str:
    """Returns the code of a failed response, of which that API has a fixed list; the error event has ours."""
    if error.http_status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.http_status < 500 else "server_error"
