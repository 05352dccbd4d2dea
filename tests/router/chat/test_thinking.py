"""How long an answer may think, as requests say it."""

from __future__ import annotations

from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.thinking import NO_LIMIT, thinking_tokens
from qwenserve.runtime.config import RouterConfig
from qwenserve.runtime.errors import InvalidRequest

EFFORTS = {"none": 0, "low": 100, "high": -1}


def asked(variables: dict[str, Any] | None = None, default: int = NO_LIMIT, **fields: Any) -> int:
    return thinking_tokens(chat_pb2.ChatCompletionRequest(**fields), variables or {}, EFFORTS, default)


def test_the_first_that_is_said_counts() -> None:
    every = {"thinking_budget": 2, "reasoning_effort": "low"}

    assert asked(every, thinking_budget=1, reasoning_effort="low", default=9) == 1
    assert asked(every, reasoning_effort="none", default=9) == 2
    assert asked({"reasoning_effort": "none"}, reasoning_effort="low", default=9) == 100
    assert asked({"reasoning_effort": "none"}, default=9) == 0
    assert asked({"thinking_budget": None, "reasoning_effort": None}, default=9) == 9
    assert asked(reasoning_effort="high", default=9) == NO_LIMIT
    assert asked() == NO_LIMIT


@pytest.mark.parametrize(
    ("variables", "fields", "param"),
    [
        ({}, {"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": "many"}, {}, "chat_template_kwargs.thinking_budget"),
        ({"thinking_budget": True}, {}, "chat_template_kwargs.thinking_budget"),
        ({"thinking_budget": 1.5}, {}, "chat_template_kwargs.thinking_budget"),
        ({}, {"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": [1]}, {}, "chat_template_kwargs.reasoning_effort"),
        ({"enable_thinking": True}, {"thinking_budget": 0}, "thinking_budget"),
        ({"enable_thinking": True}, {"reasoning_effort": "none"}, "reasoning_effort"),
    ],
)
def test_what_makes_no_sense_is_named(variables: dict[str, Any], fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        asked(variables, **fields)

    assert raised.value.param == param


def test_who_asks_for_thinking_is_not_held_to_a_default_of_none() -> None:
    assert asked({"enable_thinking": True}, default=0) == NO_LIMIT
    assert asked({"enable_thinking": True}, default=7) == 7
    assert asked({"enable_thinking": False}, default=0) == 0


def test_every_effort_that_clients_send_has_a_meaning() -> None:
    efforts = RouterConfig().reasoning_efforts

    assert list(efforts) == ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    assert efforts["none"] == 0
