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


def chat_body(fold: Fold, shown: parts.Shown) -> bytes:
    """Returns a complete answer as a chat completion in JSON."""
    rendered = []
    for index, choice in fold.choices():
        items = choice.logprobs if shown.thought_logprobs else choice.logprobs[choice.thought_logprobs :]
        probabilities = _json(parts.chat_logprobs(items, shown)) if shown.logprobs else "null"
        more = f',"token_ids":{choice.token_ids}' if shown.token_ids else ""
        rendered.append(
            f'{{"index":{index},"message":{_message(choice, shown)},"logprobs":{probabilities},'
            f"{_finish(choice.finish, shown)}{more}}}"
        )
    more = f',"prompt_token_ids":{fold.prompt_token_ids()}' if shown.token_ids else ""
    if shown.prompt_top is not None:
        more += f',"prompt_logprobs":{_json(parts.prompt_logprobs(fold.prompt_logprobs(), shown.prompt_top))}'
    return _body("chat.completion", fold, rendered, more)


def completion_body(fold: Fold, leads: Sequence[int], choices_per_prompt: int, shown: parts.Shown) -> bytes:
    """Returns a complete answer as a completion in JSON. `leads` has the length of the echoed prompt in each choice's
    text.
    """
    rendered = []
    for (index, choice), lead in zip(fold.choices(), leads, strict=True):
        probabilities = "null"
        if shown.logprobs:
            items = [*choice.prompt_logprobs, *choice.logprobs] if shown.echo else choice.logprobs
            offset = 0 if items and items[0].no_logprob else lead
            probabilities = _json(parts.completion_logprobs(items, offset, shown))
        more = ""
        if shown.prompt_top is not None:
            more += f',"prompt_logprobs":{_json(parts.prompt_logprobs(choice.prompt_logprobs, shown.prompt_top))}'
        if shown.token_ids:
            prompt = fold.prompt_token_ids(index // choices_per_prompt)
            more += f',"token_ids":{choice.token_ids},"prompt_token_ids":{prompt}'
        rendered.append(
            f'{{"index":{index},"text":{quoted(choice.text)},"logprobs":{probabilities},'
            f"{_finish(choice.finish, shown)}{more}}}"
        )
    return _body("text_completion", fold, rendered, "")


def _body(kind: str, fold: Fold, choices: Sequence[str], more: str) -> bytes:
    start = fold.start
    usage = parts.usage(fold.usage or sampling_pb2.Usage())
    return (
        f'{{"id":{quoted(start.id)},"object":"{kind}","created":{start.created},"model":{quoted(start.model)},'
        f'"system_fingerprint":{quoted(start.system_fingerprint)},'
        f'"choices":[{",".join(choices)}],"usage":{usage}{more}}}'
    ).encode()


def _message(choice: FoldedChoice, shown: parts.Shown) -> str:
    # Null and not absent: usual clients read the attributes without asking.
    more = ',"refusal":null,"reasoning_content":null'
    if choice.reasoning and shown.reasoning:
        # Both names are in use among clients.
        thought = quoted("".join(choice.reasoning))
        more = f',"refusal":null,"reasoning_content":{thought},"reasoning":{thought}'
    if choice.calls:
        calls = [
            f'{{"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":{quoted("".join(arguments))}}}}}'
            for call, arguments in choice.calls
        ]
        more += f',"tool_calls":[{",".join(calls)}]'
    content = choice.message_text
    text = "null" if content is None else quoted(content)
    return f'{{"role":"assistant","content":{text}{more}}}'


def _finish(finish: chat_pb2.ChoiceFinish, wanted: parts.Shown) -> str:
    reason, stop = parts.FINISH_REASONS[finish.reason], parts.stop_reason(finish, wanted.stop_ids)
    shown = quoted(stop) if isinstance(stop, str) else "null" if stop is None else stop
    ended = "null" if reason is None else quoted(reason)
    return f'"finish_reason":{ended},"stop_reason":{shown}{parts.thinking_cut(finish)}'


def _json(value: dict[str, Any] | list[Any]) -> str:
    return to_json(value).decode()
