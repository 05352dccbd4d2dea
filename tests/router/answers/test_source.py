"""Answers that ask the same: the first one's own generation becomes everybody's when somebody joins, unseen by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.answers.cache import AnswerCache, Source, Wanted
from qwenserve.router.answers.policy import CacheUse, answer_key
from qwenserve.router.chat.answer import Answer, AnswerOutcome
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.runtime.config import CacheConfig
from qwenserve.runtime.errors import DeadlineExceeded, Unavailable
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore
from qwenserve.text.assets import load_assets
from qwenserve.text.pipeline import AnswerPipeline, PipelineSettings
from qwenserve.type.v1 import sampling_pb2
from tests.router.chat.scripted_session import Heard, ScriptedSession, Workers
from tests.system.stack import TINY, until

ASSETS = load_assets(TINY)
TOKENIZER = ASSETS.tokenizer
TEXT = "One, two and three: 你好, and so on to the very end. Seven more words follow here."
IDS = TOKENIZER.encode(TEXT).tolist()
PROMPT = (1, 2, 3)
USE = CacheUse(True, True, 3600.0, False)
LENGTH = sampling_pb2.FINISH_REASON_LENGTH


class Router:
    """As much of a router as answers need that ask the same, with scripted workers."""

    def __init__(self, *sessions: ScriptedSession) -> None:
        self.sessions = sessions or (ScriptedSession(),)
        store = SharedStore(MemoryBackend(1 << 20), timeout_s=5, where="test")
        self.cache = AnswerCache(store, CacheConfig(), TOKENIZER.vocab_size)
        self.continuations = Continuations(ContinuationLimits(wait_s=0.0), lambda _: None)
        self.outcomes: list[AnswerOutcome] = []

    async def kept(self, **sampling: Any) -> Any:
        [found] = await self.cache.look_up([self.wanted(**sampling)])
        return found

    def wanted(self, **sampling: Any) -> Wanted:
        asked = sampling_pb2.SamplingParams(**{"temperature": 0, "max_tokens": 1000, **sampling})
        return Wanted(answer_key(bytes(32), asked, packed_ids(PROMPT)), PROMPT, asked, USE)

    def ask(
        self, *, choices: int = 1, deadline: float | None = None, stop: Sequence[str] = (), **sampling: Any
    ) -> tuple[Answer, Heard]:
        sink = Heard()
        answer = Answer(
            "chat",
            Call("r", deadline),
            chat_pb2.ChatEvent(start=chat_pb2.StreamStart(id="a")),
            sink,
            TOKENIZER,
            began=time.monotonic(),
            want_token_ids=False,
            on_end=lambda _, outcome: self.outcomes.append(outcome),
        )
        given_to = PipelineSettings(eos_token_ids=ASSETS.eos_token_ids, stop_strings=tuple(stop))
        wanted = self.wanted(**sampling)
        plans = [
            ChoicePlan(
                PROMPT,
                wanted.sampling,
                AnswerPipeline(TOKENIZER, given_to, starts_in_reasoning=False),
                ASSETS.eos_token_ids,
            )
            for _ in range(choices)
        ]
        choose = Workers(*self.sessions).choose
        sources = [Source(self.cache, wanted, None) for _ in plans]
        answer.begin(plans, choose, self.continuations, priority=0, cache_salt="", timeout_s=60.0, sources=sources)
        return answer, sink

    def results(self) -> dict[str, float]:
        [family] = self.cache.results.collect()
        return {sample.labels["result"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.integers(1, 6), max_size=12), join_at=st.lists(st.integers(0, 12), max_size=3))
def test_whenever_others_join_everybody_gets_the_text(pieces: list[int], join_at: list[int]):
    """The first one, which began alone, notices nothing: not a letter is lost, doubled, or late."""
    asyncio.run(play(pieces, join_at))


async def play(pieces: list[int], join_at: list[int]) -> None:
    router = Router()
    [worker] = router.sessions
    _, first = router.ask()
    joiners: list[Heard] = []
    given_ids = 0
    for step, piece in enumerate([*pieces, len(IDS)]):
        joiners += [router.ask()[1] for _ in range(join_at.count(step))]
        before = len(first.seen)
        worker.give(1, IDS[given_ids : given_ids + piece])
        given_ids = min(len(IDS), given_ids + piece)
        assert given_ids == len(IDS) or len(first.seen) >= before
        if step % 2:
            await turns(2)
    worker.finish(1, LENGTH, cached_tokens=2)
    await turns()

    for heard in (first, *joiners):
        assert heard.content() == TEXT
        assert heard.finish().reason == LENGTH
        assert heard.usage.completion_tokens == len(IDS)
    assert first.usage.cached_tokens == 2
    assert all(heard.usage.cached_tokens == len(PROMPT) for heard in joiners)
    assert len(worker.submitted) == 1
    await until(lambda: router.results().get("kept") == 1)
    assert list((await router.kept()).ids) == IDS
    await router.cache.close()


async def test_one_that_nobody_joins_is_read_from_its_worker():
    """Without a tape in between: its worker is its own, and it ends, is kept, and is forgotten by itself."""
    router = Router()
    [worker] = router.sessions
    answer, heard = router.ask()
    worker.end(1, IDS, reason=LENGTH)

    assert answer.ended
    assert heard.content() == TEXT
    assert heard.seen[0].start.worker == "w"
    assert router.cache.running(router.wanted()) is None
    await until(lambda: router.results().get("kept") == 1)


async def test_choices_of_one_answer_that_ask_the_same_share_a_generation():
    """The second joins the first."""
    router = Router()
    [worker] = router.sessions
    _, heard = router.ask(choices=2)
    worker.end(1, IDS, reason=LENGTH)
    await turns()

    assert (heard.content(0), heard.content(1)) == (TEXT, TEXT)
    assert len(worker.submitted) == 1
    assert router.results()["joined"] == 1


async def test_the_first_one_leaves_before_and_after_others_have_joined():
    """Alone it takes its generation with it; with others it does not."""
    router = Router()
    [worker] = router.sessions
    alone, _ = router.ask()
    worker.give(1, IDS[:3])
    alone.cancel()
    assert worker.forgotten == {1}
    assert router.cache.running(router.wanted()) is None

    first, _ = router.ask()
    worker.give(2, IDS[:3])
    _, joiner = router.ask()
    await turns()
    first.cancel()
    worker.end(2, IDS[3:], reason=LENGTH)
    await turns()
    assert joiner.content() == TEXT
    await until(lambda: router.results().get("kept") == 1)


async def test_the_first_ones_deadline_is_not_that_of_the_others():
    """Neither here nor at the worker."""
    router = Router()
    [worker] = router.sessions
    now = time.monotonic()
    _, first = router.ask(deadline=now + 0.05)
    _, joiner = router.ask()
    await until(lambda: first.error is not None)
    worker.end(1, IDS, reason=LENGTH)
    await turns()

    assert isinstance(first.error, DeadlineExceeded)
    assert joiner.content() == TEXT
    assert worker.submitted[1].fields["deadline"] > now + 30


async def test_one_that_is_being_stopped_is_not_joined():
    """It may stop anywhere; what it has is what was wanted, and is kept."""
    router = Router()
    [worker] = router.sessions
    _, first = router.ask(stop=["three"])
    worker.give(1, IDS)
    assert worker.aborted == [1]
    _, second = router.ask(stop=["three"])
    worker.finish(1, sampling_pb2.FINISH_REASON_ABORTED)
    worker.end(2, IDS, reason=LENGTH)
    await turns()

    assert first.content() == second.content() == TEXT.partition("three")[0]
    assert "joined" not in router.results()
    await until(lambda: router.results().get("kept") == 2)


async def test_where_the_worker_is_lost_the_answer_goes_on_for_everybody():
    """With the ids that were there, on another worker; a greedy answer is still kept."""
    one, two = ScriptedSession("a"), ScriptedSession("b")
    router = Router(one, two)
    _, first = router.ask()
    one.give(1, IDS[:4])
    _, joiner = router.ask()
    await turns()
    one.lose(1)
    await turns()
    two.end(1, IDS[4:], reason=LENGTH)
    await turns()

    assert first.content() == joiner.content() == TEXT
    assert two.submitted[1].prompt == [*PROMPT, *IDS[:4]]
    await until(lambda: router.results().get("kept") == 1)


async def test_log_probabilities_of_what_came_before_others_joined():
    """Joiners and the kept answer have them all."""
    router = Router()
    [worker] = router.sessions
    asked: dict[str, Any] = {"top_logprobs": 0}
    _, first = router.ask(**asked)
    worker.give(1, IDS[:3], logprobs=True)
    _, joiner = router.ask(**asked)
    await turns()
    worker.give(1, IDS[3:], logprobs=True)
    worker.finish(1, LENGTH)
    await turns()

    for heard in (first, joiner):
        assert [item.token_id for event in heard.seen for item in event.logprobs] == IDS
    await until(lambda: router.results().get("kept") == 1)
    assert [item.token_id for item in (await router.kept(**asked)).logprobs] == IDS


async def test_without_a_worker_nothing_is_left_behind():
    """The next one begins anew."""
    router = Router(ScriptedSession())
    [worker] = router.sessions
    worker.connection = 0
    with pytest.raises(Unavailable):
        router.ask()
    worker.connection = 1
    _, heard = router.ask()
    worker.end(1, IDS, reason=LENGTH)
    assert heard.content() == TEXT
