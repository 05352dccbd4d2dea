"""One answer run through a pipeline in different pieces, and folded to what a client ends up with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qwenserve.text.events import Content, Reasoning, TextEvent, ToolCallArguments, ToolCallStart
from qwenserve.text.pipeline import CompletionPipeline, merged


class Call(NamedTuple):
    name: str
    arguments: str


class Answer(NamedTuple):
    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    stop_string: str | None = None
    broken: int = 0


def run(pipeline: CompletionPipeline, pieces: Sequence[Sequence[int]], *, fast_path: bool = False) -> list[TextEvent]:
    """The events of all pieces; with `fast_path`, ids that are plain skip `push`, as the router lets them."""
    events: list[TextEvent] = []
    for piece in pieces:
        texts = [pipeline.plain_texts[token_id] for token_id in piece] if fast_path else [None]
        if None in texts:
            events += pipeline.push(piece)
        elif texts:
            text = "".join(filter(None, texts))
            kind = Reasoning if pipeline.plain_reasoning else Content
            events.append(kind(text, len(texts)))
            pipeline.count_plain(len(texts))
    return events + pipeline.finish()


def refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def fold(events: Sequence[TextEvent], pipeline: CompletionPipeline) -> Answer:
    calls: list[Call] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            assert event.call == len(calls)
            calls.append(Call(event.name, ""))
        elif isinstance(event, ToolCallArguments):
            assert event.call == len(calls) - 1
            calls[-1] = Call(calls[-1].name, calls[-1].arguments + event.text)
    assert pipeline.has_tool_calls == bool(calls)
    for call in calls[:-1] if pipeline.has_cut_call else calls:
        assert isinstance(json.loads(call.arguments, parse_constant=refuse), dict), call
    return Answer(
        content="".join(event.text for event in events if isinstance(event, Content)),
        reasoning="".join(event.text for event in events if isinstance(event, Reasoning)),
        calls=tuple(calls),
        stop_string=pipeline.stop_string,
        broken=pipeline.broken_tool_calls,
    )


# Of a long answer so many places are tried: each costs a run over all of it.
_PLACES = 24


def splits(ids: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Whole, one id at a time, and in two: at every place of a short answer, at places all over a long one."""
    yield [ids]
    yield [[token_id] for token_id in ids]
    places = len(ids) + 1
    for at in range(places) if places <= _PLACES else range(0, places, -(-places // _PLACES)):
        yield [ids[:at], ids[at:]]


def every_way(new: Callable[[], CompletionPipeline], ids: Sequence[int]) -> Answer:
    """The answer, having checked that no split or fast path changes it, its events, their order or token counts."""
    first: tuple[list[TextEvent], Answer, int, int] | None = None
    ways = [(pieces, False) for pieces in splits(ids)]
    half = len(ids) // 2
    ways += [([[token_id] for token_id in ids], True), ([ids[:half], ids[half:]], True)]
    for pieces, fast_path in ways:
        pipeline = new()
        events = run(pipeline, pieces, fast_path=fast_path)
        assert sum(event.tokens for event in events) == pipeline.completion_tokens
        seen = (merged(events), fold(events, pipeline), pipeline.completion_tokens, pipeline.reasoning_tokens)
        first = first or seen
        assert seen == first, (pieces, fast_path)
    assert first is not None
    return first[1]
