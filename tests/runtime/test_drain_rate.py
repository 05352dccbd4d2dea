"""What callers of a full queue are told."""

from __future__ import annotations

import pytest

from qwenserve.runtime.drain_rate import DrainRate


@pytest.mark.parametrize(
    ("each_s", "queued", "wait_s"),
    [(1.0, 20, 10.0), (0.1, 200, 10.0), (0.001, 4, 0.5), (10.0, 100, 60.0), (2.0, 1, 1.0), (2.0, 0, 1.0)],
)
def test_half_of_the_queue_will_have_left(each_s: float, queued: int, wait_s: float) -> None:
    rate = DrainRate()
    for start in range(100):
        rate.started(start * each_s)

    assert rate.wait_s(queued, 100 * each_s) == pytest.approx(wait_s)


def test_a_queue_that_stands_still_is_told_to_wait_longer_and_longer() -> None:
    rate = DrainRate()
    rate.started(0.0)

    waits = [rate.wait_s(2, now) for now in (1.0, 5.0, 30.0, 1000.0)]

    assert waits == [1.0, 5.0, 30.0, 60.0]


def test_before_anything_has_left_there_is_a_guess() -> None:
    assert 0 < DrainRate().wait_s(100, 50.0) < 10
