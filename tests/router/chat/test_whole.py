"""A whole answer is the fold of its stream."""

from __future__ import annotations

import pytest

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.whole import chat_completion, completion
from qwenserve.runtime.errors import WorkerLost
from qwenserve.type.v1 import sampling_pb2

Event = chat_pb2.ChatEvent
STOP = chat_pb2.ChoiceFinish(reason=sampling_pb2.FINISH_REASON_STOP)


def started(**fields: object) -> Event:
    return Event(start=chat_pb2.StreamStart(id="a", created=5, model="m", **fields))  # type: ignore[arg-type]


def finished(choice: int = 0) -> list[Event]:
    return [Event(choice_index=choice, finish=STOP)]


USAGE = Event(usage=sampling_pb2.Usage(prompt_tokens=3, completion_tokens=4))


async def test_parts_are_joined_per_choice_whatever_their_order() -> None:
    fold = Fold()
    fold.events([started(ignored_params=["x"]), Event(choice_index=1, content_delta="b1")])
    fold.events([Event(choice_index=0, reasoning_delta="think"), Event(choice_index=0, content_delta="a")])
    fold.events([*finished(1), Event(choice_index=0, content_delta="A"), *finished(0), USAGE])
    await fold.ended
    fold.check()

    answer = chat_completion(fold)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.message.content for choice in answer.choices] == ["aA", "b1"]
    assert answer.choices[0].message.reasoning_content == "think"
    assert not answer.choices[1].message.HasField("reasoning_content")
    assert (answer.id, answer.created, answer.model) == ("a", 5, "m")
    assert list(answer.ignored_params) == ["x"]
    assert answer.usage.completion_tokens == 4


async def test_calls_keep_their_arguments_and_an_answer_of_calls_alone_has_no_content() -> None:
    fold = Fold()
    fold.events([started()])
    for index in (0, 1):
        fold.events([Event(tool_call_start=chat_pb2.ToolCallStart(index=index, id=f"c{index}", name="f"))])
        for piece in ('{"a"', f": {index}}}"):
            fold.events([Event(tool_call_arguments=chat_pb2.ToolCallArguments(index=index, delta=piece))])
    fold.events([*finished(), USAGE])

    message = chat_completion(fold).choices[0].message

    assert [(call.id, call.name, call.arguments_json) for call in message.tool_calls] == [
        ("c0", "f", '{"a": 0}'),
        ("c1", "f", '{"a": 1}'),
    ]
    assert not message.HasField("content")
    assert message.role == message_pb2.ROLE_ASSISTANT


async def test_an_empty_answer_has_empty_content() -> None:
    fold = Fold()
    fold.events([started(), *finished(), USAGE])

    (choice,) = chat_completion(fold).choices

    assert choice.message.HasField("content")
    assert choice.message.content == ""


async def test_choices_of_a_completion_get_the_ids_of_their_prompt() -> None:
    prompts = [chat_pb2.TokenIdList(ids=[1]), chat_pb2.TokenIdList(ids=[2, 3])]
    fold = Fold()
    fold.events([started(prompt_token_ids=prompts)])
    for choice in (3, 0, 2, 1):
        fold.events([Event(choice_index=choice, content_delta=str(choice), token_ids=[choice]), *finished(choice)])
    fold.events([USAGE])

    choices = completion(fold, 2).choices

    assert [list(choice.prompt_token_ids) for choice in choices] == [[1], [1], [2, 3], [2, 3]]
    assert [(choice.text, list(choice.token_ids)) for choice in choices] == [(str(n), [n]) for n in range(4)]


async def test_a_failure_is_raised_to_whoever_waits() -> None:
    fold = Fold()
    fold.events([started(), Event(content_delta="half")])
    fold.failed(WorkerLost("gone"))

    await fold.ended
    with pytest.raises(WorkerLost):
        fold.check()
