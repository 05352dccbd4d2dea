"""Packing: one entry per request and message, order kept, messages bounded."""

from __future__ import annotations

from qwenserve.worker.engine_interface import TokenLogprob
from qwenserve.worker.packing import MESSAGE_IDS, Packer
from qwenserve.worker.v1 import worker_pb2
from tests.worker.running import entries


def test_nothing_is_no_message():
    assert Packer().take() is None


def test_one_step_is_one_message():
    packer = Packer()
    packer.tokens(1, (10,), None)
    packer.tokens(2, [20, 21], None)

    assert entries(packer.take()) == [(1, [10]), (2, [20, 21])]
    assert packer.take() is None


def test_one_token_each_needs_no_counts():
    """Whatever ended meanwhile; a second token for anybody brings them back."""
    packer = Packer()
    packer.tokens(1, (10,), None)
    packer.tokens(2, (20,), None)
    packer.finish(worker_pb2.Finish(handle=2))
    plain = packer.take()
    packer.tokens(1, (11,), None)
    packer.tokens(1, (12,), None)
    merged = packer.take()

    assert plain is not None
    assert merged is not None
    assert (list(plain.counts), entries(plain)) == ([], [(1, [10]), (2, [20])])
    assert (list(merged.counts), entries(merged)) == ([2], [(1, [11, 12])])


def test_first_tokens_come_before_all_others():
    """In the order in which they came, merged with later steps' as any."""
    packer = Packer()
    packer.tokens(1, (10,), None)
    for handle in (3, 2):
        packer.first(handle)
        packer.tokens(handle, (10 * handle,), None)
    packer.tokens(1, (11,), None)
    packer.tokens(2, (21,), None)

    assert entries(packer.take()) == [(3, [30]), (2, [20, 21]), (1, [10, 11])]


def test_a_first_token_is_one_once():
    packer = Packer()
    packer.first(2)
    packer.tokens(2, (20,), None)
    packer.take()
    packer.tokens(1, (10,), None)
    packer.tokens(2, (21,), None)

    assert entries(packer.take()) == [(1, [10]), (2, [21])]


def test_steps_merge_while_nobody_takes():
    packer = Packer()
    for step in range(3):
        packer.tokens(1, (step,), None)
        packer.tokens(2, (step + 10,), None)

    assert entries(packer.take()) == [(1, [0, 1, 2]), (2, [10, 11, 12])]


def test_the_engines_lists_are_left_alone():
    packer = Packer()
    given = [1]
    packer.tokens(1, given, None)
    packer.tokens(1, [2], None)
    packer.tokens(1, [3], None)

    assert entries(packer.take()) == [(1, [1, 2, 3])]
    assert given == [1]


def test_logprobs_of_a_request_come_in_one_run():
    packer = Packer()
    packer.tokens(1, (5,), [TokenLogprob(5, -0.5, [(5, -0.5), (6, -1.0)])])
    packer.tokens(1, (7,), [TokenLogprob(7, -0.25, [])])
    message = packer.take()

    assert message is not None
    (run,) = message.logprobs
    assert [(token.token_id, token.logprob, len(token.top_logprobs)) for token in run.tokens] == [
        (5, -0.5, 2),
        (7, -0.25, 0),
    ]


def test_a_long_backlog_becomes_several_messages_with_finishes_last():
    packer = Packer()
    for step in range(2 * MESSAGE_IDS):
        packer.tokens(1, (step,), None)
    packer.tokens(1, (-1,), None)
    packer.finish(worker_pb2.Finish(handle=1))

    assert packer.full_messages == 2
    messages = [packer.take() for _ in range(3)]
    assert [len(message.token_ids) for message in messages if message] == [MESSAGE_IDS, MESSAGE_IDS, 1]
    assert [len(message.finishes) for message in messages if message] == [0, 0, 1]
    assert packer.take() is None


def test_many_rejections_become_several_messages():
    packer = Packer()
    for handle in range(MESSAGE_IDS + 1):
        packer.finish(worker_pb2.Finish(handle=handle))

    assert packer.full_messages == 1


def test_a_ping_is_an_empty_message_after_the_rest():
    packer = Packer()
    packer.ping()
    packer.tokens(1, (1,), None)
    packer.ping()

    assert entries(packer.take()) == [(1, [1])]
    assert entries(packer.take()) == []
    assert entries(packer.take()) == []
    assert packer.take() is None


def test_a_prompts_logprobs_are_packed_in_order_over_as_many_messages_as_they_need():
    packer = Packer()
    scores = [TokenLogprob(token, -token / 8, ((token, -0.5), (token + 1, -0.75))) for token in range(1, 500)]
    packer.prompt_logprobs(3, scores[:7])
    packer.prompt_logprobs(3, scores[7:])
    packer.first(3)
    packer.tokens(3, (9,), None)
    packer.finish(worker_pb2.Finish(handle=3))
    messages = []
    while (message := packer.take()) is not None:
        messages.append(message)
    runs = [run for message in messages for run in message.prompt_logprobs]

    assert len(messages) > 2
    assert [run.start for run in runs] == [
        1,
        *(1 + sum(len(r.logprobs) for r in runs[:n]) for n in range(1, len(runs))),
    ]
    assert [value for run in runs for value in run.logprobs] == [score.logprob for score in scores]
    assert [token for run in runs for token in run.top_token_ids] == [t for score in scores for t, _ in score.top]
    assert [value for run in runs for value in run.top_logprobs] == [v for score in scores for _, v in score.top]
    assert entries(messages[-1]) == [(3, [9])]
    assert not any(message.handles for message in messages[:-1])


def test_a_handle_that_comes_again_starts_at_its_prompts_second_id():
    packer = Packer()
    for _ in range(2):
        packer.prompt_logprobs(3, [TokenLogprob(5, -1.0, ())])
        packer.finish(worker_pb2.Finish(handle=3))
    message = packer.take()

    assert message is not None
    assert [run.start for run in message.prompt_logprobs] == [1, 1]
