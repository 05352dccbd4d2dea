"""Bodies that hold millions of values: counted, and refused or made into a request where nobody waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.http.openai.requests import CHAT_BODY, COMPLETION_BODY, read_chat, read_completion
from qwenserve.router.http.openai.texts import DETOKENIZE_BODY
from qwenserve.router.http.transport import body as body_module
from qwenserve.router.http.transport.body_values import (
    MAX_ITEMS,
    MAX_MEMBERS,
    MAX_OBJECTS,
    SMALL_BODY,
    Values,
    count_values,
)
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import RequestTooLarge

TOOL = [{"type": "function", "function": {"name": "f"}}]
CALL = [{"id": "a", **TOOL[0]}]
HELLO = [{"role": "user", "content": "hi"}]


def size_of(value: Any) -> Values:
    """Counts by walking."""
    if isinstance(value, dict):
        parts = [size_of(part) for part in value.values()]
        return Values(
            max(0, len(value) - 1) + sum(part.items for part in parts),
            len(value) + sum(part.members for part in parts),
            1 + sum(part.objects for part in parts),
            sum(part.lists for part in parts),
        )
    if isinstance(value, list):
        parts = [size_of(part) for part in value]
        return Values(
            max(0, len(value) - 1) + sum(part.items for part in parts),
            sum(part.members for part in parts),
            sum(part.objects for part in parts),
            1 + sum(part.lists for part in parts),
        )
    return Values(0, 0, 0, 0)


# So much that strings have to be looked at.
MANY = json.dumps([{}] * 1500).encode()

nested = st.recursive(
    st.one_of(st.integers(), st.text(alphabet='ab,:{[]}"\\\n\u00e9', max_size=12), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(alphabet='a,:{["\\', max_size=4), inner, max_size=5)
    ),
    max_leaves=40,
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(nested, min_size=1, max_size=5), st.booleans())
def test_the_count_is_exact_where_there_is_much_and_never_less_than_what_is_there(value: Any, escaped: bool) -> None:
    """What stands in strings does not count, however it is escaped."""
    body = b'{"many":' + MANY + b',"value":' + json.dumps(value, ensure_ascii=escaped).encode() + b"}"
    found, counted = size_of(value), size_of(json.loads(MANY))

    assert count_values(body) == Values(
        1 + found.items + counted.items,
        2 + found.members + counted.members,
        1 + found.objects + counted.objects,
        found.lists + counted.lists,
    )


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1] * (MAX_ITEMS + 2)},
        {"messages": [*HELLO] * (MAX_OBJECTS + 1)},
        {"messages": HELLO, "logit_bias": {str(i): 1 for i in range(MAX_MEMBERS + 1)}},
        {"messages": HELLO, "unknown": [[]] * (MAX_ITEMS + 1)},
        {"messages": HELLO, "stop": ["a"] * (MAX_ITEMS + MAX_MEMBERS + 2)},
    ],
    ids=["ids", "messages", "biases", "lists", "strings"],
)
def test_too_much_is_refused_unread(body: dict[str, Any]) -> None:
    with pytest.raises(RequestTooLarge, match="the body holds"):
        count_values(json.dumps(body).encode())


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "say: {hello}, [world] " * 100_000},
        {"prompt": '{"a": [1, 2, {"b": "c"}]}' * 60_000},
        {"prompt": [1] * 200_000},
        {"messages": HELLO * 5000},
    ],
    ids=["text", "json in a text", "ids of a large window", "many messages"],
)
def test_what_somebody_may_well_send_is_read(body: dict[str, Any]) -> None:
    count_values(json.dumps(body).encode())


class Request:
    """As much of a request as reading its body uses."""

    def __init__(self, body: bytes) -> None:
        self.content = self
        self.headers: dict[str, str] = {}
        self._body = body

    def is_eof(self) -> bool:
        return True

    def read_nowait(self) -> bytes:
        return self._body


async def threads_of(body: dict[str, Any], make: Callable[[bytes], Any]) -> tuple[bool, int]:
    """Returns whether a body was made into a request on the event loop's thread, and its length."""
    made: list[bool] = []

    def noting(raw: bytes) -> Any:
        made.append(threading.current_thread() is threading.main_thread())
        return make(raw)

    raw = json.dumps(body).encode()
    await body_module.read_request(Request(raw), HttpConfig(), noting)  # type: ignore[arg-type]
    (inline,) = made
    return inline, len(raw)


def chat(raw: bytes) -> Any:
    return read_chat(CHAT_BODY.read(raw))


def completion(raw: bytes) -> Any:
    return read_completion(COMPLETION_BODY.read(raw))


@pytest.mark.parametrize(
    ("body", "make"),
    [
        ({"prompt": [1] * 100_000}, completion),
        ({"tokens": [1] * 100_000}, DETOKENIZE_BODY.read),
        ({"messages": HELLO * 5000}, chat),
        ({"messages": HELLO, "tools": TOOL * 2000}, chat),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}] * 2000,
                    }
                ]
            },
            chat,
        ),
    ],
    ids=["ids", "detokenize", "messages", "tools", "calls"],
)
async def test_what_holds_much_is_made_off_the_event_loop(body: dict[str, Any], make: Callable[[bytes], Any]) -> None:
    inline, length = await threads_of(body, make)

    assert length > SMALL_BODY
    assert not inline


@pytest.mark.parametrize(
    "body", [{"prompt": "hello, " * 100_000}, {"prompt": [1] * 5000}, {"prompt": "a"}], ids=["text", "ids", "short"]
)
async def test_what_holds_little_is_made_at_once(body: dict[str, Any]) -> None:
    inline, _ = await threads_of(body, completion)

    assert inline
