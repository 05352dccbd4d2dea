"""Admission: slots, order, turns, displacement, deadlines."""

from __future__ import annotations

from qwenserve.worker.admission import Admission, Offered, Ticket, Verdict

START, WAIT, REFUSE = Offered(Verdict.START), Offered(Verdict.WAIT), Offered(Verdict.REFUSE)


def ticket(
    key: int,
    owner: int = 1,
    priority: int = 0,
    deadline: float | None = None,
    tokens: int = 10,
    arrived: float = 0.0,
) -> Ticket:
    return Ticket(key, owner, priority, tokens, deadline, arrived)


def order_of(admission: Admission, running: int) -> list[int]:
    """Keys in the order in which they start when slots free up one at a time, the one of `running` first."""
    started: list[int] = []
    while True:
        admission.remove(running)
        following = admission.next_to_start(0.0)
        if following is None:
            return started
        running = following.key
        started.append(running)


def test_free_slots_are_given_at_once():
    admission = Admission(max_running=2, max_queued=1)

    assert [admission.offer(ticket(key)) for key in range(4)] == [START, START, WAIT, REFUSE]
    assert (admission.running, admission.queued) == (2, 1)


def test_no_queue_refuses_at_once():
    admission = Admission(max_running=1, max_queued=0)
    admission.offer(ticket(1))

    assert admission.offer(ticket(2)) == REFUSE


def test_one_session_is_served_in_order_of_arrival():
    admission = Admission(1, 10)
    for key in range(5):
        admission.offer(ticket(key))

    assert order_of(admission, 0) == [1, 2, 3, 4]


def test_higher_priority_goes_first():
    admission = Admission(1, 10)
    admission.offer(ticket(0))
    for key, priority in ((1, 0), (2, 5), (3, -1), (4, 5)):
        admission.offer(ticket(key, priority=priority))

    assert order_of(admission, 0) == [2, 4, 1, 3]


def test_what_waits_rises_by_one_a_second():
    """A flood of the highest priority holds up the lowest for as long as they lie apart, and no longer."""
    admission = Admission(1, 1000)
    admission.offer(ticket(0))
    admission.offer(ticket(1, priority=-100, arrived=0.0))
    running, now = 0, 0.0
    while running != 1:
        now += 1.0
        admission.offer(ticket(1000 + int(now), owner=2, priority=100, arrived=now))
        admission.remove(running)
        following = admission.next_to_start(now)
        assert following is not None
        running = following.key

    assert 199 <= now <= 202


def test_a_queue_is_bounded_by_prompt_tokens_too():
    admission = Admission(1, 10, max_queued_tokens=100)
    admission.offer(ticket(0))

    assert admission.offer(ticket(1, tokens=500)) == WAIT, "one may wait, however long it is"
    admission.remove(1)
    assert [admission.offer(ticket(key, tokens=50)) for key in (2, 3, 4)] == [WAIT, WAIT, REFUSE]
    assert admission.queued_prompt_tokens == 100


def test_a_session_with_less_waiting_displaces_only_what_makes_enough_room():
    admission = Admission(1, 10, max_queued_tokens=100)
    admission.offer(ticket(0))
    for key in (1, 2, 3):
        admission.offer(ticket(key, tokens=30))

    assert admission.offer(ticket(4, owner=2, tokens=60)) == REFUSE
    assert admission.offer(ticket(5, owner=2, tokens=40)) == Offered(Verdict.WAIT, ticket(3, tokens=30))
    assert admission.queued_prompt_tokens == 100


def test_sessions_take_turns_among_equals():
    admission = Admission(1, 10)
    admission.offer(ticket(0))
    for key, owner in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 3)):
        admission.offer(ticket(key, owner))

    assert order_of(admission, 0) == [1, 4, 5, 2, 3]


def test_nothing_overtakes_the_queue_when_a_slot_is_free():
    admission = Admission(1, 10)
    admission.offer(ticket(0))
    admission.offer(ticket(1))
    admission.remove(0)

    assert admission.offer(ticket(2)) == WAIT
    following = admission.next_to_start(0.0)
    assert following is not None
    assert following.key == 1


def test_a_full_queue_makes_room_for_the_session_that_has_less():
    admission = Admission(1, 3)
    admission.offer(ticket(0))
    for key, priority in ((1, 0), (2, 0), (3, 1)):
        admission.offer(ticket(key, owner=1, priority=priority))

    assert admission.offer(ticket(4, owner=2)) == Offered(Verdict.WAIT, ticket(2))
    assert admission.offer(ticket(5, owner=2)) == REFUSE
    assert admission.queued == 3


def test_waiting_ones_can_be_removed():
    admission = Admission(1, 10)
    for key in range(4):
        admission.offer(ticket(key))
    admission.remove(2)
    admission.remove(2)

    assert order_of(admission, 0) == [1, 3]
    assert (admission.running, admission.queued, admission.queued_prompt_tokens) == (0, 0, 0)


def test_prompt_tokens_in_the_queue_are_counted():
    admission = Admission(1, 10)
    for key, tokens in ((0, 100), (1, 7), (2, 5)):
        admission.offer(ticket(key, tokens=tokens))

    assert admission.queued_prompt_tokens == 12


def test_deadlines_expire_once_wherever_the_request_is():
    admission = Admission(1, 10)
    admission.offer(ticket(0, deadline=5.0))
    admission.offer(ticket(1, deadline=3.0))
    admission.offer(ticket(2))
    admission.offer(ticket(3, deadline=4.0))
    admission.remove(3)

    assert admission.next_deadline() == 3.0
    assert admission.expired(2.9) == []
    assert [found.key for found in admission.expired(6.0)] == [1, 0]
    assert admission.expired(7.0) == []
    assert admission.next_deadline() is None


def test_deadlines_of_requests_that_have_gone_do_not_pile_up():
    admission = Admission(1, 10)
    for key in range(10_000):
        admission.offer(ticket(key, deadline=1e6 + key))
        admission.remove(key)

    assert len(admission._deadlines) < 200
    assert admission.next_deadline() is None
