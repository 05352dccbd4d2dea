"""Kept answers: what is written is read, and what does not fit the request is not believed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenserve.cluster.v1 import recorded_answer_pb2
from qwenserve.router.answers.record import Recording, Unusable, decode, encode
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

VOCAB = 1000
PLAIN = sampling_pb2.SamplingParams(max_tokens=8)
REPORTED = sampling_pb2.SamplingParams(max_tokens=8, top_logprobs=2)
STOP = sampling_pb2.FINISH_REASON_STOP

Message = recorded_answer_pb2.RecordedAnswer


def logprob(token_id: int, *tops: int) -> sampling_pb2.TokenLogprob:
    alternatives = [sampling_pb2.TopLogprob(token_id=top, logprob=-1.5, token="text") for top in tops]
    return sampling_pb2.TokenLogprob(token_id=token_id, logprob=-0.5, top_logprobs=alternatives, token="text")


def test_what_is_written_is_read():
    """Ids, end and log-probabilities come back; texts of tokens are left out, each router makes them itself."""
    finish = worker_pb2.Finish(reason=STOP, stop_token_id=9, cached_tokens=3, queue_us=7)
    recording = Recording([5, 9], [logprob(5, 5, 6), logprob(9)], finish, 12.5)

    read = decode(encode(recording), REPORTED, VOCAB)

    assert list(read.ids) == [5, 9]
    assert [(item.token_id, item.token, len(item.top_logprobs)) for item in read.logprobs] == [(5, "", 2), (9, "", 0)]
    assert (read.finish, read.created) == (worker_pb2.Finish(reason=STOP, stop_token_id=9), 12.5)


GOOD = Message(token_ids=[5, 9], reason=STOP, stop_token_id=9, created_ms=1)


def changed(change: Callable[[Message], object]) -> Message:
    message = Message()
    message.CopyFrom(GOOD)
    change(message)
    return message


@pytest.mark.parametrize(
    "message",
    [
        changed(lambda m: m.ClearField("token_ids")),
        changed(lambda m: m.token_ids.append(VOCAB)),
        changed(lambda m: m.token_ids.append(-1)),
        changed(lambda m: m.token_ids.extend([1] * 7)),
        changed(lambda m: m.ClearField("reason")),
        changed(lambda m: setattr(m, "reason", 77)),
        changed(lambda m: setattr(m, "reason", sampling_pb2.FINISH_REASON_TOOL_CALLS)),
        changed(lambda m: setattr(m, "stop_token_id", 5)),
        changed(lambda m: m.logprobs.append(logprob(5))),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(message: Message):
    """A whole value can still be a forged one."""
    decode(GOOD.SerializeToString(), PLAIN, VOCAB)
    with pytest.raises(Unusable):
        decode(message.SerializeToString(), PLAIN, VOCAB)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [logprob(5)],
        [logprob(5), logprob(8)],
        [logprob(5, 1, 2, 3), logprob(9)],
        [logprob(5, VOCAB), logprob(9)],
        [sampling_pb2.TokenLogprob(token_id=5, logprob=math.nan), logprob(9)],
    ],
)
def test_log_probabilities_must_fit(items: list[sampling_pb2.TokenLogprob]):
    """One for each id, no more alternatives than asked for, all of them numbers."""
    good = changed(lambda m: m.logprobs.extend([logprob(5, 1, 2), logprob(9)]))
    decode(good.SerializeToString(), REPORTED, VOCAB)
    with pytest.raises(Unusable):
        decode(changed(lambda m: m.logprobs.extend(items)).SerializeToString(), REPORTED, VOCAB)


@given(value=st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_unusable(value: bytes):
    """Nothing else is raised, whatever lies there."""
    try:
        read = decode(value, PLAIN, VOCAB)
    except Unusable:
        return
    assert all(0 <= token_id < VOCAB for token_id in read.ids)
