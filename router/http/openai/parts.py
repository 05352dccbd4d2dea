"""Pieces of answers that whole and streamed ones share: log-probabilities, usage, finish reasons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.type.v1 import sampling_pb2

# JSON has no minus infinity; this is low enough to read as "never".
_LEAST_LOGPROB = -9999.0

# Never "stop" for what was not one: an aborted answer has a reason that OpenAI's API lacks.
FINISH_REASONS = {
    sampling_pb2.FINISH_REASON_UNSPECIFIED: None,
    sampling_pb2.FINISH_REASON_STOP: "stop",
    sampling_pb2.FINISH_REASON_LENGTH: "length",
    sampling_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    sampling_pb2.FINISH_REASON_ABORTED: "abort",
}


def stop_reason(finish: chat_pb2.ChoiceFinish) -> str | int | None:
    """Returns the stop string or token id that ended a choice, where one did."""
    if finish.HasField("stop_string"):
        return finish.stop_string
    if finish.HasField("stop_token_id"):
        return finish.stop_token_id
    return None


def thinking_cut(finish: chat_pb2.ChoiceFinish) -> str:
    """Returns the member that says that the thought was closed at its budget; empty where it was not."""
    return ',"thinking_cut":true' if finish.thinking_cut else ""


def usage(counts: sampling_pb2.Usage) -> str:
    """Returns token counts in OpenAI's form, as JSON. `continued_legs` is ours, and there only where it is not 0."""
    prompt, completion = counts.prompt_tokens, counts.completion_tokens
    continued = f',"continued_legs":{counts.continued_legs}' if counts.continued_legs else ""
    return (
        f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{{"cached_tokens":{counts.cached_tokens}}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{counts.reasoning_tokens}}}{continued}}}'
    )


def chat_logprobs(items: Iterable[sampling_pb2.TokenLogprob]) -> dict[str, Any]:
    """Returns log-probabilities as chats have them."""
    return {
        "content": [
            {**_entry(item), "top_logprobs": [_entry(alternative) for alternative in item.top_logprobs]}
            for item in items
        ],
        "refusal": None,
    }


def completion_logprobs(items: Iterable[sampling_pb2.TokenLogprob], offset: int) -> dict[str, Any]:
    """Returns log-probabilities as completions have them. `offset` is where the first token's text begins."""
    tokens: list[str] = []
    offsets: list[int] = []
    logprobs: list[float] = []
    alternatives: list[dict[str, float]] = []
    for item in items:
        tokens.append(item.token)
        offsets.append(offset)
        logprobs.append(max(item.logprob, _LEAST_LOGPROB))
        alternatives.append({top.token: max(top.logprob, _LEAST_LOGPROB) for top in item.top_logprobs})
        offset += len(item.token)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": alternatives, "text_offset": offsets}


def _entry(item: sampling_pb2.TokenLogprob | sampling_pb2.TopLogprob) -> dict[str, Any]:
    return {
        "token": item.token,
        "logprob": max(item.logprob, _LEAST_LOGPROB),
        "bytes": list(item.token_bytes),
    }
