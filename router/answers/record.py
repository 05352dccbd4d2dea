"""A kept answer: how it is written to the store, and how it is checked when it is read back. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from qwenserve.cluster.v1 import recorded_answer_pb2
from qwenserve.runtime.values import frozen_value
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

# Finishes of engines that did not fail. ABORTED: the text had ended before, at a stop string.
_ENDS = frozenset(
    {
        sampling_pb2.FINISH_REASON_STOP,
        sampling_pb2.FINISH_REASON_LENGTH,
        sampling_pb2.FINISH_REASON_ABORTED,
    }
)


@frozen_value
class Recording:
    """What was generated for one choice. `created` is in seconds since 1970. `thinking_cut`: its thought was closed
    where its budget was spent.
    """

    ids: Sequence[int]
    logprobs: Sequence[sampling_pb2.TokenLogprob]
    finish: worker_pb2.Finish
    created: float
    thinking_cut: bool = False


class Unusable(Exception):
    """The stored value is not an answer to this request."""


def encode(recording: Recording) -> bytes:
    """Returns the bytes to keep."""
    message = recorded_answer_pb2.RecordedAnswer(
        token_ids=recording.ids,
        reason=recording.finish.reason,
        created_ms=int(recording.created * 1000),
        thinking_cut=recording.thinking_cut,
    )
    if recording.finish.HasField("stop_token_id"):
        message.stop_token_id = recording.finish.stop_token_id
    for item in recording.logprobs:
        bare = message.logprobs.add(token_id=item.token_id, logprob=item.logprob)
        for top in item.top_logprobs:
            bare.top_logprobs.add(token_id=top.token_id, logprob=top.logprob)
    return message.SerializeToString()


def decode(value: bytes, sampling: sampling_pb2.SamplingParams, vocab_size: int) -> Recording:
    """Returns the answer in `value`, checked against what was asked. Raises Unusable.

    A checksum shows damage, not who wrote it: without an encryption key anybody who can write to the store can.
    """
    try:
        message = recorded_answer_pb2.RecordedAnswer.FromString(value)
    except DecodeError:
        raise Unusable("not an answer") from None
    ids = array("i", message.token_ids)
    if not ids or len(ids) > sampling.max_tokens or min(ids) < 0 or max(ids) >= vocab_size:
        raise Unusable("token ids that were not asked for")
    if message.reason not in _ENDS:
        raise Unusable("no end")
    if message.HasField("stop_token_id") and message.stop_token_id != ids[-1]:
        raise Unusable("no end")
    if sampling.HasField("top_logprobs"):
        if [item.token_id for item in message.logprobs] != list(ids):
            raise Unusable("log-probabilities of other ids")
        for item in message.logprobs:
            tops = item.top_logprobs
            if len(tops) > sampling.top_logprobs or any(not 0 <= top.token_id < vocab_size for top in tops):
                raise Unusable("log-probabilities that were not asked for")
            if not all(math.isfinite(number) for number in (item.logprob, *(top.logprob for top in tops))):
                raise Unusable("log-probabilities that are no numbers")
    elif message.logprobs:
        raise Unusable("log-probabilities that were not asked for")
    finish = worker_pb2.Finish(reason=message.reason)
    if message.HasField("stop_token_id"):
        finish.stop_token_id = message.stop_token_id
    return Recording(ids, message.logprobs, finish, message.created_ms / 1000, message.thinking_cut)
