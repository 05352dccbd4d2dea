"""A request of OpenAI's Responses API being put together: what its fields write into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.http.transport.guides import write_format
from qwenserve.runtime.errors import InvalidRequest

_TOOL_MODES = {
    "none": chat_pb2.ToolChoice.MODE_NONE,
    "auto": chat_pb2.ToolChoice.MODE_AUTO,
    "required": chat_pb2.ToolChoice.MODE_REQUIRED,
}
_LOGPROBS = "message.output_text.logprobs"


class ResponsesDraft:
    """A request that is being read. `ignored` collects fields without effect, in order; `echo` what the response
    repeats of its request.
    """

    __slots__ = (
        "conversation",
        "echo",
        "guide_field",
        "ignored",
        "instructions",
        "names",
        "request",
        "sampling",
        "stream",
        "top_logprobs",
        "wants_logprobs",
    )

    def __init__(self) -> None:
        self.request = chat_pb2.ChatCompletionRequest()
        self.conversation = self.request.conversation
        self.sampling = self.request.sampling
        self.ignored: list[str] = []
        self.guide_field = ""
        self.names: dict[str, str] = {}
        self.stream = False
        self.instructions = ""
        self.wants_logprobs = False
        self.top_logprobs: int | None = None
        self.echo: dict[str, Any] = {}

    def finish(self) -> None:
        """Writes what depends on more than one field."""
        if self.instructions:
            others = list(self.conversation.messages)
            first = message_pb2.Message(role=message_pb2.ROLE_SYSTEM, content=self.instructions)
            del self.conversation.messages[:]
            self.conversation.messages.extend([first, *others])
        if self.wants_logprobs:
            self.sampling.top_logprobs = self.top_logprobs or 0
        elif self.top_logprobs:
            # As there: alternatives are given with the log-probabilities, and these only where they are included.
            self.ignored.append("top_logprobs")


def write_stream(draft: ResponsesDraft, value: bool) -> None:
    """Whether the answer is streamed."""
    draft.stream = value


def write_instructions(draft: ResponsesDraft, value: str) -> None:
    """What stands before all messages."""
    draft.instructions = draft.echo["instructions"] = value


def write_number(name: str, attribute: str) -> Any:
    """Returns what writes a sampling parameter that the response repeats."""

    def write(draft: ResponsesDraft, value: Any) -> None:
        setattr(draft.sampling, attribute, value)
        draft.echo[name] = value

    return write


def write_top_logprobs(draft: ResponsesDraft, value: int) -> None:
    """Number of alternatives."""
    draft.top_logprobs = draft.echo["top_logprobs"] = value


def write_include(draft: ResponsesDraft, value: list[str]) -> None:
    """Only log-probabilities can be had in addition; thoughts are there without asking, and not encrypted."""
    for name in value:
        if name == _LOGPROBS:
            draft.wants_logprobs = True
        else:
            draft.ignored.append(f"include.{name}")


def write_reasoning(draft: ResponsesDraft, value: Mapping[str, Any]) -> None:
    """How much to think; the deployment says what each effort means."""
    effort = value.get("effort")
    if effort is not None:
        if not isinstance(effort, str):
            raise InvalidRequest("reasoning.effort must be a string", param="reasoning.effort")
        draft.request.reasoning_effort = effort
        draft.echo["reasoning"] = {"effort": effort}
    draft.ignored.extend(f"reasoning.{name}" for name, one in value.items() if name != "effort" and one is not None)


def write_text(draft: ResponsesDraft, value: Mapping[str, Any]) -> None:
    """The form of the answer: text, a JSON object, or what a schema says."""
    form = value.get("format")
    if form is not None:
        if not isinstance(form, dict):
            raise InvalidRequest("text.format must be an object with a type", param="text.format")
        write_format(draft, form, "text.format")
        draft.echo["text"] = {"format": form}
    for name, one in value.items():
        if name != "format" and one not in (None, "medium"):
            draft.ignored.append(f"text.{name}")


def write_tool_choice(draft: ResponsesDraft, value: Any) -> None:
    """Which tools may or must be called. The router says what an engine can be bound to."""
    choice = draft.request.tool_choice
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(value, str) and value in _TOOL_MODES:
        choice.mode = _TOOL_MODES[value]
    elif kind == "function":
        choice.mode = chat_pb2.ToolChoice.MODE_REQUIRED
        choice.names.append(_name(value, "tool_choice"))
    elif kind == "allowed_tools":
        mode, tools = value.get("mode"), value.get("tools")
        if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
            raise InvalidRequest(
                "tool_choice must have a mode, 'auto' or 'required', and a list of tools", param="tool_choice"
            )
        choice.mode = _TOOL_MODES[mode]
        choice.names.extend(_name(tool, f"tool_choice.tools[{index}]") for index, tool in enumerate(tools))
    else:
        raise InvalidRequest(
            "tool_choice must be 'none', 'auto', 'required', a function or allowed_tools", param="tool_choice"
        )
    draft.echo["tool_choice"] = value


def write_parallel_tool_calls(draft: ResponsesDraft, value: bool) -> None:
    """Whether an answer may hold several calls."""
    draft.request.tool_choice.parallel = draft.echo["parallel_tool_calls"] = value


def write_metadata(draft: ResponsesDraft, value: Mapping[str, str]) -> None:
    """Labels."""
    draft.request.metadata.update(value)
    draft.echo["metadata"] = dict(value)


def _name(value: Any, at: str) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{at}.name must be a non-empty string", param=f"{at}.name")
    return name
