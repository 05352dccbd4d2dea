"""Which workers can serve a request, and what the others lack."""

from __future__ import annotations

import pytest

from qwenserve.router.routing.requirements import Capabilities, Requirements, best_suited

FULL = Capabilities("full", 100, 20, guide_kinds=frozenset({1, 2}))
POOR = Capabilities("poor", 50, 5, frozenset({"min_p", "cache_salt"}))
BLIND = Capabilities("blind", 100, 0, frozenset({"top_logprobs", "min_p"}))


@pytest.mark.parametrize(
    ("needs", "worker", "lacking"),
    [
        (Requirements(), POOR, set()),
        (Requirements(frozenset({"min_p", "seed"})), FULL, set()),
        (Requirements(frozenset({"min_p", "seed"})), POOR, {"min_p"}),
        (Requirements(tokens=50), POOR, set()),
        (Requirements(tokens=51), POOR, {"max_tokens"}),
        (Requirements(top_logprobs=5), POOR, set()),
        (Requirements(top_logprobs=6), POOR, {"top_logprobs"}),
        (Requirements(frozenset({"top_logprobs"}), top_logprobs=6), BLIND, {"top_logprobs"}),
        (Requirements(guide_kind=2), FULL, set()),
        (Requirements(guide_kind=3), FULL, {"guide"}),
        (
            Requirements(frozenset({"cache_salt"}), 51, 6, 1),
            POOR,
            {"cache_salt", "max_tokens", "top_logprobs", "guide"},
        ),
    ],
)
def test_a_worker_lacks_what_it_cannot_do(needs: Requirements, worker: Capabilities, lacking: set[str]) -> None:
    assert needs.lacking(worker) == lacking
    assert needs.met_by(worker) is (not lacking)


def test_poor_workers_limit_nothing_where_another_can_do_all() -> None:
    assert best_suited([POOR, FULL, BLIND], Requirements(frozenset({"min_p"}), 60)) == [FULL]
    assert best_suited([POOR, FULL], Requirements(frozenset({"seed"}), 40)) == [POOR, FULL]


def test_where_none_can_do_all_those_with_the_least_to_leave_out_are_best() -> None:
    assert best_suited([POOR, BLIND], Requirements(frozenset({"min_p", "cache_salt"}))) == [BLIND]
    assert best_suited([], Requirements()) == []
