"""How long an answer may think: read from a request, in tokens. Pure.

At the limit a closing text and the closing tag are appended to what the model has thought, and it goes on with the
answer in another leg (`router.generation`). So it works on any engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qwenserve.chat.v1 import chat_pb2
from qwenserve.runtime.errors import InvalidRequest

NO_LIMIT = -1
BEGIN_OF_THOUGHT = "<think>\n"
# What ends a thought, after the closing text.
END_OF_THOUGHT = "\n</think>\n\n"
_KWARGS = "chat_template_kwargs"


class ThinkingBudget(NamedTuple):
    """At most `tokens` ids of thought, 1 or more; `closing` are the ids that end it there, `ends` those with which a
    model ends one itself.
    """

    tokens: int
    closing: Sequence[int]
    ends: frozenset[int]


class _Asked(NamedTuple):
    tokens: int
    param: str


def thinking_tokens(
    request: chat_pb2.ChatCompletionRequest,
    variables: Mapping[str, Any],
    efforts: Mapping[str, int],
    default: int,
) -> int:
    """Returns the most tokens that an answer may think; 0: not at all; NO_LIMIT.

    The first that is there: `thinking_budget`, the template variable of that name, `reasoning_effort`, the template
    variable of that name (both through `efforts`), `default`. `variables` are those that the request sends. Raises
    InvalidRequest naming the field.
    """
    asked = _asked(request, variables, efforts)
    thinks = variables.get("enable_thinking")
    if asked is None:
        # A request that asks for thinking by name is not bound by a deployment's default of none.
        return NO_LIMIT if default == 0 and thinks else default
    if asked.tokens == 0 and thinks:
        raise InvalidRequest(
            f"{asked.param} means no thinking, but enable_thinking is true; send one", param=asked.param
        )
    return asked.tokens


def _asked(
    request: chat_pb2.ChatCompletionRequest, variables: Mapping[str, Any], efforts: Mapping[str, int]
) -> _Asked | None:
    if request.HasField("thinking_budget"):
        return _budget(request.thinking_budget, "thinking_budget")
    if variables and variables.get("thinking_budget") is not None:
        return _budget(variables["thinking_budget"], f"{_KWARGS}.thinking_budget")
    if effort := request.reasoning_effort:
        return _effort(effort, "reasoning_effort", efforts)
    if variables and variables.get("reasoning_effort") is not None:
        return _effort(variables["reasoning_effort"], f"{_KWARGS}.reasoning_effort", efforts)
    return None


def _budget(value: Any, param: str) -> _Asked:
    # A template's variable may be anything that JSON has, and true is a number to Python.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{param} must be 0 or more tokens, got {value!r}", param=param)
    return _Asked(value, param)


def _effort(value: Any, param: str, efforts: Mapping[str, int]) -> _Asked:
    tokens = efforts.get(value) if isinstance(value, str) else None
    if tokens is None:
        raise InvalidRequest(f"{param} must be one of {', '.join(efforts)}; got {value!r}", param=param)
    return _Asked(tokens, param)
