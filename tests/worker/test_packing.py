"""Packing: one entry per request and message, order kept, messages bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.clients.logprobs import unpacked_run
from qwenserve.worker.engine_interface import TokenLogprob
from qwenserve.worker.packing import MESSAGE_IDS, MESSAGE_LOGPROBS, Packer
from qwenserve.worker.v1 import worker_pb2
from tests.worker.running import entries


def with_alternatives(ids: Sequence[int], top: int) -> list[TokenLogprob]:
    return [TokenLogprob(i, -0.5, [(i + rank, -0.5 - rank) for rank in range(top)]) for i in ids]


def logprobs_of(
    message: worker_pb2.SessionResponse | None,
) -> dict[int, list[tuple[int, float, list[tuple[int, float]]]]]:
    """What a router makes of a message's log-probabilities, by handle."""
    assert message is not None
    ids = dict(entries(message))
    return {
        run.handle: [
            (item.token_id, item.logprob, [(top.token_id, top.logprob) for top in item.top_logprobs])
            for item in unpacked_run(ids[run.handle], run)
        ]
        for run in message.logprobs
    }


def all_of(packer: Packer) -> list[worker_pb2.SessionResponse]:
    """Every message that waits."""
    return list(iter(packer.take, None))


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
    assert logprobs_of(message) == {1: [(5, -0.5, [(5, -0.5), (6, -1.0)]), (7, -0.25, [])]}


def test_as_many_alternatives_for_each_need_no_counts():
    packer = Packer()
    packer.tokens(1, (5, 7), with_alternatives((5, 7), 2))
    message = packer.take()

    assert message is not None
    assert not message.logprobs[0].top_counts
    assert [len(top) for _, _, top in logprobs_of(message)[1]] == [2, 2]


def test_a_long_backlog_becomes_several_messages_with_finishes_last():
    packer = Packer()
    for step in range(2 * MESSAGE_IDS):
        packer.tokens(1, (step,), None)
    packer.tokens(1, (-1,), None)
    packer.finish(worker_pb2.Finish(handle=1))

    messages = [packer.take() for _ in range(3)]
    assert [len(message.token_ids) for message in messages if message] == [MESSAGE_IDS, MESSAGE_IDS, 1]
    assert [len(message.finishes) for message in messages if message] == [0, 0, 1]
    assert packer.take() is None


def test_many_rejections_become_several_messages():
    packer = Packer()
    for handle in range(MESSAGE_IDS + 1):
        packer.finish(worker_pb2.Finish(handle=handle))

    assert [len(message.finishes) for message in all_of(packer)] == [MESSAGE_IDS, 1]


def test_plain_tokens_do_not_wait_behind_logprobs():
    """Each message brings all plain tokens, and its share of log-probabilities: the requests take turns."""
    packer = Packer()
    heavy = range(1, 9)
    for _ in range(MESSAGE_LOGPROBS // 21):
        for handle in heavy:
            packer.tokens(handle, (handle,), with_alternatives((handle,), 20))
    packer.tokens(100, (1, 2, 3), None)
    packer.finish(worker_pb2.Finish(handle=100))
    for handle in heavy:
        packer.finish(worker_pb2.Finish(handle=handle))
    first, *rest = all_of(packer)

    assert entries(first)[0] == (100, [1, 2, 3])
    assert first.finishes[0].handle == 100
    assert len(rest) in (len(heavy) - 1, len(heavy))
    for message in (first, *rest):
        numbers = sum(len(run.logprobs) + len(run.top_logprobs) for run in message.logprobs)
        assert 0 < numbers <= MESSAGE_LOGPROBS + 20


def test_one_request_with_many_logprobs_is_split():
    packer = Packer()
    ids = tuple(range(1000))
    packer.tokens(1, ids, with_alternatives(ids, 20))
    packer.tokens(2, (7,), with_alternatives((7,), 20))
    packer.finish(worker_pb2.Finish(handle=1))
    messages = all_of(packer)

    assert [handle for handle, _ in entries(messages[0])] == [1, 2]
    told = [item for message in messages for item in logprobs_of(message).get(1, ())]
    assert told == [(i, -0.5, [(i + rank, -0.5 - rank) for rank in range(20)]) for i in ids]
    assert [len(message.finishes) for message in messages] == [0] * (len(messages) - 1) + [1]


@pytest.mark.parametrize("top", [None, 0, 20])
def test_a_request_for_which_too_much_waits_is_named_until_it_is_taken_or_dropped(top: int | None):
    def add(packer: Packer, handle: int) -> None:
        packer.tokens(handle, (1,), None if top is None else with_alternatives((1,), top))

    for end in (Packer.take, lambda packer: packer.drop(1)):
        packer = Packer(request_bytes=4096)
        while not packer.overfull:
            add(packer, 1)
        add(packer, 2)
        assert packer.overfull == {1}
        assert packer.largest() == 1
        assert 4096 < packer.waiting_bytes < 6000
        while packer.overfull:
            end(packer)
        assert packer.waiting_bytes < 4096


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("tokens"), st.integers(1, 6), st.integers(1, 400)),
            st.tuples(st.just("step"), st.just(0), st.integers(1, 400)),
            st.tuples(st.just("prompt"), st.integers(1, 6), st.integers(1, 400)),
            st.tuples(st.just("finish"), st.integers(1, 6), st.just(0)),
            st.tuples(st.just("take"), st.just(0), st.integers(1, 3)),
            st.tuples(st.just("drop"), st.integers(1, 6), st.just(0)),
        ),
        max_size=60,
    )
)
def test_whatever_is_taken_when_each_request_gets_all_of_its_own_in_order(script: list[tuple[str, int, int]]):
    """Even handles have log-probabilities. After an end, or what was dropped, nothing of a handle comes."""
    packer = Packer()
    given_ids: dict[int, list[int]] = {}
    prompts: dict[int, int] = {}
    ended: set[int] = set()
    dropped: set[int] = set()
    messages: list[worker_pb2.SessionResponse] = []
    for step, (what, handle, number) in enumerate(script):
        if what == "take":
            messages += [message for _ in range(number) if (message := packer.take()) is not None]
        elif what == "step":
            plain: dict[int, Sequence[int]] = {}
            for handle in {1, 3, 5} - ended - dropped:
                if handle not in given_ids:
                    packer.first(handle)
                plain[handle] = [step * 1000 + handle + i for i in range(number)]
                given_ids.setdefault(handle, []).extend(plain[handle])
            packer.step(plain)
        elif handle in ended | dropped:
            continue
        elif what == "prompt":
            if handle not in given_ids:
                packer.prompt_logprobs(handle, with_alternatives(range(number), handle))
                prompts[handle] = prompts.get(handle, 0) + number
        elif what == "tokens":
            ids = [step * 1000 + i for i in range(number)]
            if handle not in given_ids:
                packer.first(handle)
            given_ids.setdefault(handle, []).extend(ids)
            packer.tokens(handle, ids, None if handle % 2 else with_alternatives(ids, handle % 3))
        elif what == "finish":
            ended.add(handle)
            packer.finish(worker_pb2.Finish(handle=handle))
        else:
            dropped.add(handle)
            packer.drop(handle)
    messages += all_of(packer)

    got: dict[int, list[int]] = {}
    finished: list[int] = []
    scored: dict[int, int] = {}
    for message in messages:
        numbers = len(message.token_ids)
        assert numbers <= MESSAGE_IDS + MESSAGE_LOGPROBS + 2
        for run in message.prompt_logprobs:
            assert run.start == 1 + scored.get(run.handle, 0)
            assert run.handle not in got
            scored[run.handle] = scored.get(run.handle, 0) + len(run.logprobs)
        for handle, ids in entries(message):
            assert handle not in finished
            assert handle in dropped or scored.get(handle, 0) == prompts.get(handle, 0)
            got.setdefault(handle, []).extend(ids)
            if handle % 2 == 0:
                assert [token for token, _, _ in logprobs_of(message)[handle]] == ids
        finished += [finish.handle for finish in message.finishes]
    assert sorted(finished) == sorted(ended)
    for handle, ids in given_ids.items():
        taken = got.get(handle, [])
        assert taken == (ids[: len(taken)] if handle in dropped else ids)
    assert packer.waiting_bytes == 0
    assert packer.overfull == set()


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
    scores = [TokenLogprob(token, -token / 8, ((token, -0.5), (token + 1, -0.75))) for token in range(1, 2500)]
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
    messages = []
    for _ in range(2):
        packer.prompt_logprobs(3, [TokenLogprob(5, -1.0, ())])
        packer.finish(worker_pb2.Finish(handle=3))
        messages += all_of(packer)

    assert [run.start for message in messages for run in message.prompt_logprobs] == [1, 1]
