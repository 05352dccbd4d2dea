"""Results of tool calls in the order of the calls.

Chat templates write results one after the other, without saying whose they are: a model reads the first one as the
first call's. Clients send them in the order in which they came, with the id of the call that each belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_SHOWN_CHARACTERS = 100


class ToolResultError(ValueError):
    """A result that belongs to no call, or to one that has a result; `message_index` is that of its message."""

    def __init__(self, message: str, message_index: int) -> None:
        super().__init__(message)
        self.message = message
        self.message_index = message_index


def in_call_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the results that follow an assistant's calls sorted by these.

    Results without an id take the calls that the others leave, in the order in which they were sent. Where the calls
    have no ids, the order stays. Raises ToolResultError.
    """
    ordered = messages
    for begin, end in _runs(messages):
        ids = [call.get("id") for call in messages[begin - 1]["tool_calls"]]
        if all(ids) and any("tool_call_id" in message for message in messages[begin:end]):
            if ordered is messages:
                ordered = list(messages)
            ordered[begin:end] = _sorted(messages[begin:end], ids, begin)
    return ordered


def _runs(messages: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Where results begin and end that follow a message with calls."""
    index = 0
    while index < len(messages):
        begin = index + 1
        if messages[index].get("tool_calls"):
            index = begin
            while index < len(messages) and messages[index]["role"] == "tool":
                index += 1
            if index > begin:
                yield begin, index
        else:
            index = begin


def _sorted(results: Sequence[dict[str, Any]], ids: Sequence[str], begin: int) -> list[dict[str, Any]]:
    # Ids that clients make themselves may be the same for several calls: their results come in order.
    free: dict[str, list[int]] = {}
    for place, own_id in reversed(list(enumerate(ids))):
        free.setdefault(own_id, []).append(place)
    places: list[int | None] = []
    for number, result in enumerate(results):
        call_id: str | None = result.get("tool_call_id")
        if call_id is None:
            places.append(None)
        elif call_id not in free:
            raise ToolResultError(f"{_shown(call_id)} is the id of no call in messages[{begin - 1}]", begin + number)
        elif not free[call_id]:
            raise ToolResultError(f"the call {_shown(call_id)} has a result already", begin + number)
        else:
            places.append(free[call_id].pop())
    left = iter(sorted(place for rest in free.values() for place in rest))
    # Where there are more results than calls, the last ones stay last.
    sorting = [next(left, len(ids)) if place is None else place for place in places]
    return [results[at] for at in sorted(range(len(results)), key=sorting.__getitem__)]


def _shown(call_id: str) -> str:
    return repr(call_id[:_SHOWN_CHARACTERS])
