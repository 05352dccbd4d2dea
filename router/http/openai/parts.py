"""Pieces of answers that whole and streamed ones share: log-probabilities, usage, finish reasons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.runtime.values import frozen_value
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


@frozen_value
class Shown:
    """What of an answer its caller sees. `stop_ids` are the token ids that the caller asked to stop at; `reasoning`
    and `thought_logprobs` say whether thought text, and its tokens' log-probabilities, are shown. Those of a prompt's
    tokens are among the others with `echo`, and have a member of their own with `prompt_top` alternatives. `top` is the
    number of alternatives of the others.
    """

    logprobs: bool = False
    token_ids: bool = False
    tokens_as_ids: bool = False
    reasoning: bool = True
    thought_logprobs: bool = False
    stop_ids: frozenset[int] = frozenset()
    top: int = 0
    echo: bool = False
    prompt_top: int | None = None


# What most requests want.
TEXT_ALONE = Shown()


def stop_reason(finish: chat_pb2.ChoiceFinish, stop_ids: frozenset[int]) -> str | int | None:
    """Returns the stop string, or the token id among those asked for, that ended a choice. An end token of the model's
    own is no reason: clients take null for a natural end.
    """
    if finish.HasField("stop_string"):
        return finish.stop_string
    if finish.HasField("stop_token_id") and finish.stop_token_id in stop_ids:
        return finish.stop_token_id
    return None


def thinking_cut(finish: chat_pb2.ChoiceFinish) -> str:
    """Returns the member that says that the thought was closed at its budget; empty where it was not."""
    return ',"thinking_cut":true' if finish.thinking_cut else ""


def usage(counts: sampling_pb2.Usage) -> str:
    """Returns token counts in OpenAI's form, as JSON. `continued_legs` and `penalties_approximate` are ours, and there
    only where something is to be told.
    """
    prompt, completion = counts.prompt_tokens, counts.completion_tokens
    continued = f',"continued_legs":{counts.continued_legs}' if counts.continued_legs else ""
    if counts.penalties_approximate:
        continued += ',"penalties_approximate":true'
    return (
        f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{{"cached_tokens":{counts.cached_tokens}}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{counts.reasoning_tokens}}}{continued}}}'
    )


def usage_so_far(prompt: int, completion: int) -> str:
    """Returns token counts of an answer that goes on, as JSON."""
    return f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion}}}'


def chat_logprobs(items: Iterable[sampling_pb2.TokenLogprob], shown: Shown) -> dict[str, Any]:
    """Returns log-probabilities as chats have them."""
    as_ids = shown.tokens_as_ids
    return {
        "content": [
            {**_entry(item, as_ids), "top_logprobs": [_entry(top, as_ids) for top in item.top_logprobs]}
            for item in items
        ],
        "refusal": None,
    }


def completion_logprobs(items: Iterable[sampling_pb2.TokenLogprob], offset: int, shown: Shown) -> dict[str, Any]:
    """Returns log-probabilities as completions have them. `offset` is where the first token's text begins. The token
    itself is among its alternatives, whether it is one of the most likely or not.
    """
    tokens: list[str] = []
    offsets: list[int] = []
    logprobs: list[float | None] = []
    alternatives: list[dict[str, float] | None] = []
    for item in items:
        token = _name(item, shown.tokens_as_ids)
        tokens.append(token)
        offsets.append(offset)
        if item.no_logprob:
            logprobs.append(None)
            alternatives.append(None)
            offset += len(item.token)
            continue
        logprob = max(item.logprob, _LEAST_LOGPROB)
        logprobs.append(logprob)
        tops = {
            _name(top, shown.tokens_as_ids): max(top.logprob, _LEAST_LOGPROB) for top in item.top_logprobs[: shown.top]
        }
        tops.setdefault(token, logprob)
        alternatives.append(tops)
        offset += len(item.token)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": alternatives, "text_offset": offsets}


def prompt_logprobs(items: Iterable[sampling_pb2.TokenLogprob], top: int) -> list[dict[str, Any] | None]:
    """Returns the log-probabilities of a prompt's tokens in vLLM's form: by token id, null for the first one. The rank
    of a token that is none of the alternatives is not known.
    """
    return [None if item.no_logprob else _by_id(item, top) for item in items]


def _by_id(item: sampling_pb2.TokenLogprob, top: int) -> dict[str, Any]:
    ranks = {alternative.token_id: rank for rank, alternative in enumerate(item.top_logprobs, 1)}
    found = {str(item.token_id): _ranked(item, ranks.get(item.token_id))}
    for alternative in item.top_logprobs[:top]:
        found.setdefault(str(alternative.token_id), _ranked(alternative, ranks[alternative.token_id]))
    return found


def _ranked(item: sampling_pb2.TokenLogprob | sampling_pb2.TopLogprob, rank: int | None) -> dict[str, Any]:
    return {"logprob": max(item.logprob, _LEAST_LOGPROB), "rank": rank, "decoded_token": item.token}


def _name(item: sampling_pb2.TokenLogprob | sampling_pb2.TopLogprob, as_id: bool) -> str:
    return f"token_id:{item.token_id}" if as_id else item.token


def _entry(item: sampling_pb2.TokenLogprob | sampling_pb2.TopLogprob, as_id: bool) -> dict[str, Any]:
    return {
        "token": _name(item, as_id),
        "logprob": max(item.logprob, _LEAST_LOGPROB),
        "bytes": list(item.token_bytes),
    }
