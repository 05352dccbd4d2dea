"""Whole answers as OpenAI's JSON, put together as text from the folded events, like a stream's chunks.

Making the API's whole message first, and reading every field of it again, cost twice as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.fold import Fold, FoldedChoice
from qwenserve.router.http.openai import parts
from qwenserve.router.http.transport.json_body import to_json
from qwenserve.runtime.json_text import quoted
from qwenserve.type.v1 import sampling_pb2


def chat_body(fold: Fold, *, logprobs: bool, token_ids: bool) -> bytes:
    """Returns a complete answer as a chat completion in JSON."""
    rendered = []
    for index, choice in fold.choices():
        probabilities = _json(parts.chat_logprobs(choice.logprobs)) if logprobs else "null"
        more = f',"token_ids":{choice.token_ids}' if token_ids else ""
        rendered.append(
            f'{{"index":{index},"message":{_message(choice)},"logprobs":{probabilities},'
            f"{_finish(choice.finish)}{more}}}"
        )
    more = f',"prompt_token_ids":{fold.prompt_token_ids()}' if token_ids else ""
    return _body("chat.completion", fold, rendered, more)


def completion_body(
    fold: Fold, leads: Sequence[int], choices_per_prompt: int, *, logprobs: bool, token_ids: bool
) -> bytes:
    """Returns a complete answer as a completion in JSON. `leads` has the length of the echoed prompt in each choice's
    text.
    """
    rendered = []
    for (index, choice), lead in zip(fold.choices(), leads, strict=True):
        probabilities = _json(parts.completion_logprobs(choice.logprobs, lead)) if logprobs else "null"
        more = ""
        if token_ids:
            prompt = fold.prompt_token_ids(index // choices_per_prompt)
            more = f',"token_ids":{choice.token_ids},"prompt_token_ids":{prompt}'
        rendered.append(
            f'{{"index":{index},"text":{quoted(choice.text)},"logprobs":{probabilities},{_finish(choice.finish)}{more}}}'
        )
    return _body("text_completion", fold, rendered, "")


def _body(kind: str, fold: Fold, choices: Sequence[str], more: str) -> bytes:
    start = fold.start
    usage = parts.usage(fold.usage or sampling_pb2.Usage())
    return (
        f'{{"id":{quoted(start.id)},"object":"{kind}","created":{start.created},"model":{quoted(start.model)},'
        f'"choices":[{",".join(choices)}],"usage":{usage}{more}}}'
    ).encode()


def _message(choice: FoldedChoice) -> str:
    more = ""
    if choice.reasoning:
        # Both names are in use among clients.
        shown = quoted("".join(choice.reasoning))
        more = f',"reasoning_content":{shown},"reasoning":{shown}'
    if choice.calls:
        calls = [
            f'{{"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":{quoted("".join(arguments))}}}}}'
            for call, arguments in choice.calls
        ]
        more += f',"tool_calls":[{",".join(calls)}]'
    content = choice.message_text
    shown = "null" if content is None else quoted(content)
    return f'{{"role":"assistant","content":{shown}{more}}}'


def _finish(finish: chat_pb2.ChoiceFinish) -> str:
    reason, stop = parts.FINISH_REASONS[finish.reason], parts.stop_reason(finish)
    shown = quoted(stop) if isinstance(stop, str) else "null" if stop is None else stop
    ended = "null" if reason is None else quoted(reason)
    return f'"finish_reason":{ended},"stop_reason":{shown}{parts.thinking_cut(finish)}'


def _json(value: dict[str, Any]) -> str:
    return to_json(value).decode()
