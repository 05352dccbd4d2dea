"""What vLLM's core publishes of its cache is read where its packages are installed."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engines.vllm import event_reader
from qwenserve.worker.engines.vllm.event_reader import EventReader

zmq = pytest.importorskip("zmq", reason="pyzmq comes with vLLM, which is not installed")
msgspec = pytest.importorskip("msgspec", reason="msgspec comes with vLLM, which is not installed")

IDS = list(range(64))


@pytest.fixture
def published():
    """A reader, and a function that publishes a message as the core does."""
    reader = EventReader()
    socket = zmq.Context.instance().socket(zmq.XPUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(reader.address)
    reader.begin()
    assert socket.poll(20_000), "nobody subscribed"
    numbers = itertools.count()

    def publish(*events):
        payload = msgspec.msgpack.encode([0.0, events, None])
        socket.send_multipart([b"", next(numbers).to_bytes(8, "big"), payload])

    yield reader, publish
    reader.close()
    socket.close()


def stored(first, count):
    """The blocks from one on, of four ids each."""
    return {
        "type": "BlockStored",
        "block_hashes": list(range(first, first + count)),
        "parent_block_hash": first - 1 if first else None,
        "token_ids": IDS[4 * first : 4 * (first + count)],
        "block_size": 4,
    }


async def fetched(reader, count):
    """So many events, each with the call that brought it."""
    found = []
    for call in range(2000):
        found += [(call, event) for event in reader.fetch()]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(found)} of {count} events came")


async def test_messages_wait_until_they_are_asked_for(published):
    reader, publish = published
    publish(stored(0, 3))
    publish(stored(3, 1), {"type": "BlockRemoved", "block_hashes": [3]})
    first, second = [event for _, event in await fetched(reader, 2)]
    ours = list(block_hashes(IDS, 4))
    assert (list(first.stored), list(second.stored), list(second.removed)) == (ours[:3], ours[3:4], ours[3:4])


async def test_very_many_come_in_parts(published, monkeypatch):
    monkeypatch.setattr(event_reader, "_MAX_BLOCKS", 5)
    reader, publish = published
    for first in range(0, 16, 4):
        publish(stored(first, 4))
    found = await fetched(reader, 4)
    assert [hashed for _, event in found for hashed in event.stored] == list(block_hashes(IDS, 4))
    # Each message is worth five: one call brings one.
    assert len({call for call, _ in found}) == 4


async def test_a_message_that_cannot_be_read_ends_the_news(published):
    reader, publish = published
    publish(stored(0, 2))
    await fetched(reader, 1)
    publish({"type": "BlockStored"})
    forgotten = [event for _, event in await fetched(reader, 1)]
    assert [(event.sequence, event.stored) for event in forgotten] == [(2, ())]
