"""What a router knows of kept answers: it never keeps one from being found for long, and saves most questions."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.answers import known
from qwenserve.router.answers.known import KnownAnswers
from qwenserve.store.interface import StoreRefused
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore

BELIEVED_S = 0.2
TTL_S = 3600.0


def key(name: object) -> str:
    return f"answer:{hashlib.sha256(str(name).encode()).hexdigest()}"


class Elsewhere(MemoryBackend):
    """A store as if it were in another process; it can be cut off."""

    remote = True
    cut_off = False

    async def since(self, key, after, limit):
        if self.cut_off:
            raise StoreRefused("cut off")
        return await super().since(key, after, limit)


class Routers:
    """Some routers at one store, and their clock."""

    def __init__(self, count: int = 2) -> None:
        self.now = 100.0
        self.backend = Elsewhere(1 << 24, self.clock)
        self.store = SharedStore(self.backend, timeout_s=5.0, where="test", clock=self.clock)
        self.routers = [KnownAnswers(self.store, self.clock) for _ in range(count)]

    def clock(self) -> float:
        return self.now

    async def keep(self, router: int, *names: object) -> None:
        """A router writes answers."""
        keys = [key(name) for name in names]
        news = self.routers[router].news(keys)
        assert await self.store.put_all([(each, b"x") for each in keys], ttl_s=TTL_S, news=news)

    async def ask(self, router: int, names: Sequence[object]) -> list[object]:
        """Looks all of them up within no time; returns those for which the store is asked."""
        asked = []
        for name in names:
            if self.routers[router].may_have(key(name)):
                asked.append(name)
            for _ in range(20):  # what was begun comes to its end
                await asyncio.sleep(0)
        return asked

    async def close(self) -> None:
        for router in self.routers:
            await router.close()
        await self.store.close()


@pytest.fixture
async def two():
    routers = Routers()
    yield routers
    await routers.close()


async def learned(routers: Routers, router: int) -> None:
    """Lets a router learn what is kept."""
    await routers.ask(router, [f"warm {number}" for number in range(16)])
    assert await routers.ask(router, ["nothing of this kind"]) == []


async def test_where_look_ups_come_slowly_each_asks(two: Routers):
    """To learn would cost more than to ask, and what is learned would be old."""
    for number in range(30):
        assert await two.ask(0, [number]) == [number]
        two.now += BELIEVED_S / 5


async def test_where_they_come_quickly_only_what_may_be_kept_is_asked_for(two: Routers):
    """Whether it was kept before a router learned, by another one since, or by itself."""
    await two.keep(1, "before")
    two.now += 10 * TTL_S / 11  # longer than the log keeps it
    await learned(two, 0)
    assert await two.ask(0, ["before", "new", "newer"]) == ["before"]
    await two.keep(0, "own")
    assert await two.ask(0, ["own", "new"]) == ["own"]
    await two.keep(1, *range(40))
    two.now += BELIEVED_S * 0.8
    await two.ask(0, ["a look that renews"])
    assert await two.ask(0, [*range(40), "new"]) == [*range(40)]


async def test_nothing_is_believed_for_long(two: Routers):
    """A router that cannot look asks, as if it had never known."""
    await learned(two, 0)
    two.backend.cut_off = True
    two.now += BELIEVED_S * 1.01
    await two.keep(1, "kept meanwhile")
    assert await two.ask(0, ["kept meanwhile", "new"]) == ["kept meanwhile", "new"]
    two.backend.cut_off = False
    await learned(two, 0)
    assert await two.ask(0, ["kept meanwhile", "new"]) == ["kept meanwhile"]


async def test_what_the_log_has_dropped_is_learned_anew(two: Routers, monkeypatch: pytest.MonkeyPatch):
    """After a gap nothing is believed, and the keys are read once more; not at once again, though."""
    monkeypatch.setattr(known, "_LOG_ENTRIES", 8)
    monkeypatch.setattr(known, "_PIECE", 3)
    await learned(two, 0)
    for number in range(12):
        await two.keep(1, number)
    two.now += BELIEVED_S
    # It was learned just before.
    assert await two.ask(0, ["new"] * 30) == ["new"] * 30
    two.now += 61.0
    await learned(two, 0)
    assert await two.ask(0, [*range(12), "new"]) == [*range(12)]


async def test_what_expired_is_forgotten(two: Routers):
    """Now and then the keys are read anew."""
    await two.keep(1, "old")
    await learned(two, 0)
    assert await two.ask(0, ["old"]) == ["old"]
    for _ in range(40):  # it is never away for so long that it would have to learn for that
        two.now += TTL_S / 30
        await learned(two, 0)
    assert await two.ask(0, ["old"]) == []


@pytest.mark.parametrize("lie", [b"", b"\xff", b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\x07"])
async def test_lies_in_the_log_only_make_it_ask(two: Routers, lie: bytes):
    """Whatever an entry says, answers that are kept are found, and looking goes on."""
    await learned(two, 0)
    assert await two.store.append("answers", lie, keep=10, ttl_s=TTL_S)
    await two.backend.append("answers", lie, 10, TTL_S)  # not even sealed
    await two.keep(1, "kept")
    two.now += BELIEVED_S * 0.8
    await two.ask(0, ["a look that renews"])
    assert await two.ask(0, ["kept", "new"]) == ["kept"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 0.17, 0.26, 0.26, 700.0, 4000.0])),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("hurry"), st.integers(0, 1)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
async def test_whatever_happens_a_kept_answer_is_asked_for_a_moment_later(steps: list[tuple[str, float]]):
    """Whoever kept it and whatever was lost between: what was kept longer ago than is believed is never passed over."""
    routers = Routers()
    kept: dict[float, float] = {}
    for step, value in [("hurry", 1), *steps]:
        if step == "keep":
            await routers.keep(0, value)
            kept[value] = routers.now
        elif step == "wait":
            routers.now += value
            kept = {name: when for name, when in kept.items() if routers.now - when < TTL_S}
        elif step == "cut":
            routers.backend.cut_off = not routers.backend.cut_off
        else:
            await routers.ask(int(value), [f"hurry {number}" for number in range(20)])
        there = [name for name, when in kept.items() if when < routers.now - BELIEVED_S]
        assert await routers.ask(1, there) == there
        assert await routers.ask(0, list(kept)) == list(kept)
    await routers.close()
