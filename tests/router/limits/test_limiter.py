"""What keys may use, counted on a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.prepare import Prepared
from qwenserve.router.limits.limiter import Limiter
from qwenserve.router.routing.requirements import Requirements
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import RateLimited, Unauthenticated, Unavailable
from qwenserve.runtime.keys import KeyRecord, digest, keys_text
from qwenserve.store.interface import StoreUnreachable
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore
from qwenserve.type.v1 import sampling_pb2


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def record(name: str, **limits: Any) -> KeyRecord:
    return KeyRecord(name=name, sha256=digest(f"key of {name}"), **limits)


def limiter_of(tmp_path: Path, clock: Clock, *records: KeyRecord, **more: Any) -> tuple[Limiter, KeyRing]:
    file = tmp_path / "keys.yaml"
    file.write_text(keys_text(records))
    keys = KeyRing((), file=file)
    store = SharedStore(more.pop("backend", MemoryBackend(0, clock)), timeout_s=5, where="test")
    return Limiter(keys, store, clock=clock, **more), keys


def prepared(prompt: int = 10, max_tokens: int = 10, *, choices: int = 1, priority: int = 0) -> Prepared:
    return Prepared(
        prompts=[[1] * prompt],
        rendered="",
        sampling=sampling_pb2.SamplingParams(max_tokens=max_tokens),
        ignored=[],
        new_pipeline=lambda _: pytest.fail("nothing is generated here"),
        starts_in_reasoning=False,
        choices=choices,
        priority=priority,
        cache_salt="",
        unsupported=frozenset(),
        needs=Requirements(frozenset(), 0, 0),
        session="",
        end_ids=frozenset(),
    )


async def admit(limiter: Limiter, key: str, **fields: Any) -> tuple[Call, Prepared]:
    async with limiter.admitted(Call("r", key_id=key), prepared(**fields)) as admitted:
        return admitted


async def test_a_storm_gives_every_key_its_share_and_no_more(tmp_path: Path, clock: Clock):
    """A hundred keys, each asking far too often, again and again: no minute, wherever it begins, holds more than a key
    may have, and none holds less than is possible.
    """
    names = [f"k{n}" for n in range(100)]
    allowed = [3 + n % 5 for n in range(100)]
    limiter, _ = limiter_of(tmp_path, clock, *(record(name, rpm=3 + n % 5) for n, name in enumerate(names)))

    async def ask(name: str) -> bool:
        try:
            call, _ = await admit(limiter, name)
        except RateLimited:
            return False
        assert call.admission is not None
        call.admission.settle(0)
        return True

    async def storm() -> list[int]:
        answers = await asyncio.gather(*(asyncio.gather(*(ask(name) for _ in range(10))) for name in names))
        return [sum(each) for each in answers]

    clock.now += 1000  # nothing is saved up
    given = [await storm()]
    for pause in (0.5, 29.5, 30, 1):
        clock.now += pause
        given.append(await storm())
    assert given == [allowed, *[[0] * 100] * 3, allowed]
    await limiter.close()


async def test_the_time_to_wait_is_the_time_after_which_it_works(tmp_path: Path, clock: Clock):
    """Neither too early nor too late."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", rpm=6))
    for _ in range(6):
        await admit(limiter, "a")

    with pytest.raises(RateLimited) as refused:
        await admit(limiter, "a")

    assert refused.value.retry_after_s is not None
    assert 60 <= refused.value.retry_after_s <= 61
    clock.now += refused.value.retry_after_s - 0.1
    with pytest.raises(RateLimited):
        await admit(limiter, "a")
    clock.now += 0.1
    await admit(limiter, "a")


async def test_what_is_known_to_be_refused_is_not_asked_for(tmp_path: Path, clock: Clock):
    """Once a minute's requests are made the next is refused without the store, until the time that was told; the same
    where as many are under way as may be. A key that lacks tokens may still have a smaller request.
    """
    limiter, _ = limiter_of(tmp_path, clock, record("a", rpm=2), record("b", concurrency=1), record("c", tpm=20))
    call = Call("r", key_id="a")
    for _ in range(2):
        limiter.check(call)
        await admit(limiter, "a")
    with pytest.raises(RateLimited) as refused:
        await admit(limiter, "a")
    assert refused.value.retry_after_s is not None
    clock.now += refused.value.retry_after_s - 1
    with pytest.raises(RateLimited) as again:
        limiter.check(call)
    assert again.value.retry_after_s == pytest.approx(1)
    clock.now += 1
    limiter.check(call)
    await admit(limiter, "a")

    await admit(limiter, "b")
    with pytest.raises(RateLimited):
        limiter.check(Call("r", key_id="b"))
    await admit(limiter, "c", prompt=5, max_tokens=5)
    with pytest.raises(RateLimited):
        await admit(limiter, "c", prompt=10, max_tokens=10)
    limiter.check(Call("r", key_id="c"))
    await admit(limiter, "c", prompt=5, max_tokens=5)


async def test_tokens_are_reserved_and_what_is_not_used_comes_back(tmp_path: Path, clock: Clock):
    """Two long answers do not fit into a minute until the first turns out short."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", tpm=100))
    call, _ = await admit(limiter, "a", prompt=10, max_tokens=50)
    with pytest.raises(RateLimited):
        await admit(limiter, "a", prompt=10, max_tokens=50)
    assert limiter.headers("a")["x-ratelimit-remaining-tokens"] == "40"

    assert call.admission is not None
    call.admission.settle(15)
    call.admission.settle(0)
    await limiter.close()
    await admit(limiter, "a", prompt=10, max_tokens=50)

    assert limiter.headers("a") == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "25",
        "x-ratelimit-reset-tokens": "61.000s",
    }


async def test_an_answer_without_a_limit_gets_what_is_left_of_a_minute(tmp_path: Path, clock: Clock):
    """The answer's limit is what the key can pay for; a prompt beyond that is refused, without a time to wait."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", tpm=100))

    _, within = await admit(limiter, "a", prompt=20, max_tokens=40_000, choices=2)
    assert within.sampling.max_tokens == 40
    with pytest.raises(RateLimited) as refused:
        await admit(limiter, "a", prompt=100)
    assert refused.value.retry_after_s is None


async def test_answers_at_a_time_are_counted_until_they_end(tmp_path: Path, clock: Clock):
    """Ended ones make room, failed ones too; other keys are not concerned."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", concurrency=2), record("b", concurrency=2))
    first, _ = await admit(limiter, "a")
    await admit(limiter, "a")
    with pytest.raises(RateLimited) as refused:
        await admit(limiter, "a")
    assert refused.value.retry_after_s is not None
    await admit(limiter, "b")

    assert first.admission is not None
    first.admission.settle(3)
    with pytest.raises(LookupError):
        async with limiter.admitted(Call("r", key_id="a"), prepared()):
            raise LookupError
    await admit(limiter, "a")
    with pytest.raises(RateLimited):
        await admit(limiter, "a")


async def test_length_and_priority_are_bounded(tmp_path: Path, clock: Clock):
    """What asks for more gets the most that the key may have; what asks for less keeps it."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", max_tokens=20, priority=-5))

    _, much = await admit(limiter, "a", max_tokens=100, priority=50)
    _, little = await admit(limiter, "a", max_tokens=7, priority=-50)

    assert (much.sampling.max_tokens, much.priority) == (20, -5)
    assert (little.sampling.max_tokens, little.priority) == (7, -50)


async def test_keys_without_limits_and_calls_without_keys_pass(tmp_path: Path, clock: Clock):
    """Nothing is counted, nothing is told."""
    limiter, _ = limiter_of(tmp_path, clock, record("a"))

    for key in ("a", "", "00112233"):
        call, _ = await admit(limiter, key)
        assert call.admission is None
        assert limiter.headers(key) == {}


class Elsewhere(MemoryBackend):
    """A store that routers share."""

    remote = True


async def test_answers_at_a_time_are_counted_over_all_routers(tmp_path: Path, clock: Clock):
    """A storm over two routers: never more than the key may have, and as many as that; what a router that has died had
    under way counts for its lease.
    """
    backend = Elsewhere(0, clock)
    one, _ = limiter_of(tmp_path, clock, record("a", concurrency=3), backend=backend)
    other, _ = limiter_of(tmp_path, clock, record("a", concurrency=3), backend=backend)
    running: list[Call] = []
    most = 0

    async def ask(limiter: Limiter) -> None:
        nonlocal most
        with contextlib.suppress(RateLimited):
            call, _ = await admit(limiter, "a")
            running.append(call)
            most = max(most, len(running))

    for _ in range(10):
        await asyncio.gather(*(ask(limiter) for limiter in (one, other) for _ in range(5)))
        assert len(running) == 3
        ended = running.pop(0)
        assert ended.admission is not None
        ended.admission.settle(0)
        await asyncio.sleep(0)
    assert most == 3

    await one.close()
    await other.close()
    third, _ = limiter_of(tmp_path, clock, record("a", concurrency=3), backend=backend)
    await admit(third, "a")
    with pytest.raises(RateLimited):
        await admit(third, "a")
    clock.now += 31
    await admit(third, "a")
    await third.close()


async def test_what_generates_nothing_counts_as_a_request(tmp_path: Path, clock: Clock):
    """And among what is under way meanwhile; it takes no tokens."""
    limiter, _ = limiter_of(tmp_path, clock, record("a", rpm=3, tpm=20, concurrency=1), record("b"))
    call = Call("r", key_id="a")

    async with limiter.counted(call):
        with pytest.raises(RateLimited):
            async with limiter.counted(call):
                pass
    async with limiter.counted(call):
        pass
    await admit(limiter, "a", prompt=10, max_tokens=10)
    assert limiter.headers("a")["x-ratelimit-remaining-requests"] == "0"
    async with limiter.counted(Call("r", key_id="b")), limiter.counted(Call("r")):
        pass
    await limiter.close()


class Broken(MemoryBackend):
    """A store that cannot be reached."""

    remote = True

    async def take(self, *_: Any) -> Any:
        raise StoreUnreachable("gone")


async def test_without_the_store_limits_are_kept_here_or_nothing_goes(tmp_path: Path, clock: Clock):
    """As configured: each router counts by itself, or refuses with a time to come back."""
    counting, _ = limiter_of(tmp_path, clock, record("a", rpm=2), backend=Broken(0))
    for _ in range(2):
        await admit(counting, "a")
    with pytest.raises(RateLimited):
        await admit(counting, "a")

    refusing, _ = limiter_of(tmp_path, clock, record("a", rpm=2), backend=Broken(0), without_store="refuse")
    with pytest.raises(Unavailable) as refused:
        await admit(refusing, "a")
    assert refused.value.retry_after_s


def test_a_changed_file_counts_and_a_broken_one_does_not(tmp_path: Path, clock: Clock):
    """Keys come and go while the process runs; a file that cannot be read leaves those that were known."""
    file = tmp_path / "keys.yaml"
    file.write_text(keys_text([record("a"), record("old", expires="2020-01-01")]))
    keys = KeyRing((), file=file, clock=clock)
    assert keys.check("Bearer key of a") == "a"
    with pytest.raises(Unauthenticated, match="expired"):
        keys.check("Bearer key of old")

    file.write_text(keys_text([record("b", rpm=1)]))
    clock.now += 2
    assert keys.check("Bearer key of b") == "b"
    with pytest.raises(Unauthenticated):
        keys.check("Bearer key of a")

    file.write_text("keys: [{name: c}]")
    clock.now += 2
    assert keys.check("Bearer key of b") == "b"

    file.write_text(keys_text([]))
    clock.now += 2
    assert keys.required
    with pytest.raises(Unauthenticated):
        keys.check("Bearer key of b")
