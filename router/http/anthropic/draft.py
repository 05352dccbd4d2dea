"""A request of Anthropic's being put together: what its fields write into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.transport.guides import write_format
from qwenserve.runtime.errors import InvalidRequest

_TOOL_MODES = {
    "auto": chat_pb2.ToolChoice.MODE_AUTO,
    "any": chat_pb2.ToolChoice.MODE_REQUIRED,
    "tool": chat_pb2.ToolChoice.MODE_REQUIRED,
    "none": chat_pb2.ToolChoice.MODE_NONE,
}


class MessagesDraft:
    """A request that is being read. `ignored` collects fields without effect, in order. The model thinks only where it
    is asked to, as in Anthropic's API.
    """

    __slots__ = (
        "_noted",
        "conversation",
        "guide_field",
        "ignored",
        "names",
        "request",
        "sampling",
        "stream",
        "thinking_budget",
    )

    def __init__(self) -> None:
        self.request = chat_pb2.ChatCompletionRequest()
        self.conversation = self.request.conversation
        self.conversation.enable_thinking = False
        self.sampling = self.request.sampling
        self.ignored: list[str] = []
        self.guide_field = ""
        self.names: dict[str, str] = {}
        self._noted: set[str] = set()
        self.stream = False
        self.thinking_budget: int | None = None

    def ignore_key(self, key: str, at: str) -> None:
        """Notes a key without effect where it is first met: every message may carry it."""
        if key not in self._noted:
            self._noted.add(key)
            self.ignored.append(f"{at}.{key}")

    def finish(self) -> None:
        """Checks what depends on more than one field. Raises InvalidRequest."""
        budget = self.thinking_budget
        if budget is not None:
            if self.sampling.HasField("max_tokens") and budget >= self.sampling.max_tokens:
                raise InvalidRequest(
                    f"thinking.budget_tokens, {budget}, must be less than max_tokens, {self.sampling.max_tokens}",
                    param="thinking.budget_tokens",
                )
            self.request.thinking_budget = budget


def write_stream(draft: MessagesDraft, value: bool) -> None:
    """Whether the answer is streamed."""
    draft.stream = value


def write_stop_sequences(draft: MessagesDraft, value: list[str]) -> None:
    """Strings that end the answer."""
    draft.request.stop_strings.extend(value)


def write_metadata(draft: MessagesDraft, value: Mapping[str, Any]) -> None:
    """Only the user's id is known."""
    for name, one in value.items():
        if name == "user_id" and isinstance(one, str | None):
            draft.request.user = one or ""
        else:
            draft.ignored.append(f"metadata.{name}")


def write_thinking(draft: MessagesDraft, value: Mapping[str, Any]) -> None:
    """Thinking on or off, and how long."""
    kind = value.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise InvalidRequest("thinking.type must be 'enabled', 'adaptive' or 'disabled'", param="thinking.type")
    draft.conversation.enable_thinking = kind != "disabled"
    budget = value.get("budget_tokens")
    if kind != "enabled":
        if budget is not None:
            raise InvalidRequest(f"thinking.budget_tokens goes with 'enabled', not {kind!r}", param="thinking")
    elif type(budget) is not int or budget < 1:
        raise InvalidRequest("thinking.budget_tokens must be a number above 0", param="thinking.budget_tokens")
    else:
        draft.thinking_budget = budget
    draft.ignored.extend(f"thinking.{name}" for name in value if name not in ("type", "budget_tokens"))


def write_tool_choice(draft: MessagesDraft, value: Mapping[str, Any]) -> None:
    """Whether tools may or must be called, and how many at a time."""
    kind = value.get("type")
    mode = _TOOL_MODES.get(kind) if isinstance(kind, str) else None
    if mode is None:
        raise InvalidRequest("tool_choice.type must be 'auto', 'any', 'tool' or 'none'", param="tool_choice.type")
    choice = draft.request.tool_choice
    choice.mode = mode
    if kind == "tool":
        name = value.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("tool_choice.name must be a non-empty string", param="tool_choice.name")
        choice.names.append(name)
    alone = value.get("disable_parallel_tool_use")
    if not isinstance(alone, bool | None):
        where = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{where} must be true or false", param=where)
    if alone is not None:
        choice.parallel = not alone


def write_output_format(draft: MessagesDraft, value: Mapping[str, Any]) -> None:
    """The form of the answer under its older name."""
    write_format(draft, value, "output_format")


def write_output_config(draft: MessagesDraft, value: Mapping[str, Any]) -> None:
    """The form of the answer; how hard to try is ignored."""
    for name, one in value.items():
        if name == "format" and one is not None:
            if not isinstance(one, dict):
                raise InvalidRequest("output_config.format must be an object with a type", param="output_config.format")
            write_format(draft, one, "output_config.format")
        elif one is not None:
            draft.ignored.append(f"output_config.{name}")
