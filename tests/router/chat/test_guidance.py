"""Guides are compiled once for all who ask for the same, in threads of their own, and only so many at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat import guidance
from qwenserve.router.chat.guidance import Guidance
from qwenserve.router.chat.model import ServedModel
from qwenserve.runtime.config import Config
from qwenserve.runtime.errors import InvalidRequest, QueueFull
from qwenserve.type.v1 import guide_pb2

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"
MODEL = ServedModel.load(TINY, Config())


class Gate:
    """Stands where a guide is compiled: counts, and holds up whoever compiles until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.compiled: list[str] = []

    def why_not(self, kind: int, text: str, *_: object) -> str:
        self.opened.wait(60)
        self.compiled.append(text)
        return "wrong" if text == "z" else ""


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(guidance, "why_not", made.why_not)
    yield made
    made.opened.set()


def asked(text: str) -> chat_pb2.CompletionRequest:
    return chat_pb2.CompletionRequest(guide=guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text=text))


async def test_the_same_guide_is_compiled_once_whoever_leaves(gate: Gate) -> None:
    guides = Guidance(MODEL)
    first, *others = [asyncio.ensure_future(guides.of_request(asked("ab"))) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    gate.opened.set()
    found = await asyncio.gather(*others)
    assert [guide.text for guide in found if guide] == ["ab"] * 4
    assert (await guides.of_request(asked("ab"))) == found[0]
    assert gate.compiled == ["ab"]
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="guide: wrong"):
            await guides.of_request(asked("z"))
    assert gate.compiled == ["ab", "z"]


async def test_new_guides_hold_up_nobody_and_wait_up_to_a_bound(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "_MOST_WAITING", 20)
    guides = Guidance(MODEL)
    waiting = [asyncio.ensure_future(guides.of_request(asked(f"a{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as full:
        await guides.of_request(asked("b"))
    assert full.value.retry_after_s == 1.0
    # The threads in which prompts are tokenized are free.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 30) == 7
    assert not any(each.done() for each in waiting)
    gate.opened.set()
    assert len([guide for guide in await asyncio.gather(*waiting) if guide]) == 20
    assert await guides.of_request(asked("b")) is not None
