"""Several routers that know of each other only through stale load stamps spread requests over the workers all the same.

Simulated on a clock of 10 ms ticks. A worker has slots, and computes 200 prompt tokens and one token of each running
request a tick. Stamps reach a router a tick later: every tick from workers that answer it, once a second from others.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from qwenserve.router.routing.policy import Candidate, Policy, PolicyName, RoutedPrompt, make_policy, with_unread
from qwenserve.runtime.block_hash import PromptBlocks

SLOTS = 16
PREFILL = 200
STAMP_TICKS = 100


@dataclass
class Request:
    router: int
    prompt: int
    left: int
    work: int = 0


@dataclass
class Worker:
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    work: int = 0

    def tick(self) -> None:
        while self.waiting and len(self.running) < SLOTS:
            self.running.append(self.waiting.popleft())
        budget = PREFILL
        for request in self.running:
            if request.prompt:
                part = min(request.prompt, budget)
                request.prompt -= part
                budget -= part
                self.work += part
            else:
                request.left -= 1
                # A step's token costs as much as a few of a prompt.
                self.work += 4
        self.running = [request for request in self.running if request.left]

    def stamp(self) -> tuple[int, int, int]:
        pending = sum(request.prompt for request in (*self.running, *self.waiting))
        return len(self.running), len(self.waiting), pending

    def answers(self, router: int) -> bool:
        return any(request.router == router for request in self.running)


class Router:
    """Its policy, the last stamp of each worker, and what it sent that no stamp counts yet."""

    def __init__(self, policy: Policy, workers: int) -> None:
        self.policy = policy
        self.stamps = [(0, 0, 0)] * workers
        self.unread: list[list[int]] = [[] for _ in range(workers)]

    def choose(self, token_ids: list[int], session: str) -> int:
        prompt = RoutedPrompt(PromptBlocks(token_ids), session)
        best = self.policy.rank([self._candidate(n) for n in range(len(self.stamps))], prompt)[0]
        self.policy.chosen(best, prompt)
        number = int(best.address)
        self.unread[number].append(len(token_ids))
        return number

    def _candidate(self, number: int) -> Candidate:
        running, waiting, pending = self.stamps[number]
        unread = self.unread[number]
        running, waiting = with_unread(running, waiting, len(unread), SLOTS)
        return Candidate(str(number), f"w{number}", True, running, waiting, SLOTS, pending + sum(unread), 16)


def skew(name: PolicyName, routers: int, workers: int, *, ticks: int, load: float, shared: int = 0) -> float:
    """Returns the most work that a worker did over the mean of all. `load` is the share of their prefill in use."""
    draw = random.Random(1)
    fleet = [Worker() for _ in range(workers)]
    tier = [Router(make_policy(name, draw.getrandbits(16)), workers) for _ in range(routers)]
    beginnings = [[draw.randrange(100_000) for _ in range(shared)] for _ in range(8)]
    due = 0.0
    for now in range(ticks):
        due += load * workers * PREFILL / 600
        while due >= 1:
            due -= 1
            length = draw.choice((100, 400, 1300))
            ids = [*draw.choice(beginnings), *(draw.randrange(100_000) for _ in range(length))]
            number = draw.randrange(routers)
            chosen = tier[number].choose(ids, f"s{draw.randrange(500)}")
            fleet[chosen].waiting.append(Request(number, len(ids), draw.randrange(5, 60)))
        told = [worker.stamp() for worker in fleet]
        heard = [
            [worker.answers(number) or now % STAMP_TICKS == number for worker in fleet] for number in range(routers)
        ]
        for worker in fleet:
            worker.tick()
        for number, router in enumerate(tier):
            for place, stamp in enumerate(told):
                if heard[number][place]:
                    router.stamps[place], router.unread[place] = stamp, []
    work = [worker.work for worker in fleet]
    return max(work) * workers / sum(work)


@pytest.mark.parametrize("name", ["prefix", "least_loaded", "power_of_two", "round_robin", "session_affinity"])
def test_the_busiest_worker_has_little_more_to_do_than_the_mean(name: PolicyName) -> None:
    assert skew(name, 4, 4, ticks=800, load=0.7) <= 1.25


def test_many_routers_and_workers_are_as_even() -> None:
    assert skew("prefix", 8, 16, ticks=400, load=0.7) <= 1.25


def test_common_beginnings_do_not_gather_all_on_one_worker() -> None:
    assert skew("prefix", 4, 4, ticks=800, load=0.7, shared=320) <= 1.25
