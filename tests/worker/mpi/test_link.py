"""Messages between rank 0 and the others, and how each learns that another is gone."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from qwenserve.worker.mpi.link import Hub, Patience, RankLost, Spoke

SECRET = b"s" * 32
LIMIT_S = 30.0
PATIENT = Patience(60, 60)


@contextlib.contextmanager
def linked(size: int, patience: Patience = PATIENT) -> Iterator[tuple[Hub, list[Spoke]]]:
    hub = Hub(size, SECRET, patience, "127.0.0.1")
    spokes = [Spoke(("127.0.0.1", hub.port), rank, SECRET, patience) for rank in range(1, size)]
    try:
        hub.wait_for_all(LIMIT_S)
        yield hub, spokes
    finally:
        hub.close(farewell=False)
        for spoke in spokes:
            spoke.close()


def test_messages_come_whole_and_in_order_and_replies_in_the_ranks_order() -> None:
    long = {"ids": list(range(100_000))}
    with linked(4) as (hub, spokes):
        for message in ({"step": 1}, long, {"step": 2}):
            hub.tell(message)
        for spoke in reversed(spokes):
            assert [spoke.listen() for _ in range(3)] == [{"step": 1}, long, {"step": 2}]
        for number, spoke in reversed(list(enumerate(spokes))):
            spoke.answer({"from": number, **long})
        assert [reply["from"] for reply in hub.replies()] == [0, 1, 2]


def test_a_farewell_reaches_all_and_is_no_loss() -> None:
    lost: list[str] = []
    with linked(3) as (hub, spokes):
        hub.on_lost = lost.append
        ends = [threading.Thread(target=lambda s=spoke: (s.listen(), s.close())) for spoke in spokes]
        for end in ends:
            end.start()
        hub.close(farewell=True)
        for end in ends:
            end.join(LIMIT_S)
            assert not end.is_alive()
    assert lost == []


def test_a_rank_whose_connection_ends_is_lost_at_once_and_everybody_who_waits_is_told() -> None:
    with linked(3) as (hub, spokes):
        lost: queue.Queue[str] = queue.Queue()
        hub.on_lost = lost.put
        spokes[1].close()
        assert lost.get(timeout=LIMIT_S) == "rank 2 has ended"
        for wait in (hub.replies, lambda: hub.tell({"step": 1}), hub.replies):
            with pytest.raises(RankLost, match="rank 2 has ended"):
                wait()


def test_a_rank_that_fails_is_lost_with_its_reason() -> None:
    with linked(2) as (hub, spokes):
        lost: queue.Queue[str] = queue.Queue()
        hub.on_lost = lost.put
        spokes[0].answer({"failed": "no memory"})
        assert lost.get(timeout=LIMIT_S) == "rank 1 failed: no memory"


def test_a_rank_that_says_nothing_is_silent_and_then_lost() -> None:
    hub = Hub(2, SECRET, Patience(0.5, 2.0), "127.0.0.1")
    told: queue.Queue[object] = queue.Queue()
    hub.on_silent = lambda rank, silent: told.put((rank, silent))
    hub.on_lost = told.put
    with socket.create_connection(("127.0.0.1", hub.port)) as mute:
        mute.sendall(SECRET + (1).to_bytes(4, "big"))
        hub.wait_for_all(LIMIT_S)
        assert told.get(timeout=LIMIT_S) == (1, True)
        mute.sendall(bytes(4))
        assert told.get(timeout=LIMIT_S) == (1, False)
        assert told.get(timeout=LIMIT_S) == (1, True)
        assert told.get(timeout=LIMIT_S) == "rank 1 has said nothing for 2 s"
    hub.close(farewell=False)


def test_without_rank_0_the_others_are_told() -> None:
    lost: queue.Queue[str] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spoke = Spoke(listener.getsockname(), 1, SECRET, Patience(0.5, 1.0))
        spoke.on_lost = lost.put
        connection, _ = listener.accept()
        with connection:
            assert lost.get(timeout=LIMIT_S) == "rank 0 has said nothing for 1 s"
            assert spoke.listen() is None


@pytest.mark.parametrize("hello", [b"x" * 32 + (1).to_bytes(4, "big"), SECRET + (7).to_bytes(4, "big"), b"short"])
def test_strangers_are_sent_away(hello: bytes) -> None:
    hub = Hub(2, SECRET, PATIENT, "127.0.0.1")
    with socket.create_connection(("127.0.0.1", hub.port), LIMIT_S) as stranger:
        stranger.sendall(hello)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        assert hub.absent == [1]
        with pytest.raises(RankLost, match="rank 1 did not connect"):
            hub.wait_for_all(0.01)
    hub.close(farewell=False)
