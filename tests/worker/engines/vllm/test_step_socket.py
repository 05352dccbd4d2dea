"""The socket of vLLM's core, read as vLLM's task reads it, where pyzmq is installed."""

from __future__ import annotations

import asyncio

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq comes with vLLM, which is not installed")
LIMIT_S = 20.0


@pytest.fixture
async def pair():
    """The socket, read with fewer steps, and one that sends to it."""
    import zmq.asyncio

    from qwenserve.worker.engines.vllm.step_socket import StepSocket, read_with_fewer_steps

    context = zmq.asyncio.Context()
    socket = context.socket(zmq.PULL)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    with zmq.Context() as other, other.socket(zmq.PUSH) as sender:
        sender.connect(f"tcp://127.0.0.1:{port}")
        read_with_fewer_steps(socket)
        assert type(socket) is StepSocket
        yield socket, sender
        sender.setsockopt(zmq.LINGER, 0)
    socket.close(linger=0)
    context.term()


async def read(socket):
    frames = await asyncio.wait_for(socket.recv_multipart(copy=False), LIMIT_S)
    return [bytes(frame.buffer) for frame in frames]


async def test_messages_come_whole_and_in_order_alone_and_in_bursts(pair):
    socket, sender = pair
    for number in range(3):
        asked = asyncio.ensure_future(read(socket))
        await asyncio.sleep(0)
        sender.send_multipart([b"step", b"%d" % number])
        assert await asked == [b"step", b"%d" % number]
    for number in range(200):
        sender.send(b"%d" % number)
    assert [await read(socket) for _ in range(200)] == [[b"%d" % number] for number in range(200)]


async def test_a_message_that_comes_after_its_reader_left_is_the_next_ones(pair):
    socket, sender = pair
    socket.recv_multipart(copy=False).cancel()
    sender.send(b"kept")
    assert await read(socket) == [b"kept"]


async def test_a_socket_that_is_closed_while_somebody_waits_ends_without_a_trace(pair):
    """As vLLM ends: its sockets first, and then its task."""
    socket, _ = pair
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    task = asyncio.ensure_future(read(socket))
    await asyncio.sleep(0)
    socket.close(linger=0)
    task.cancel()
    await asyncio.wait({task}, timeout=LIMIT_S)
    await asyncio.sleep(0)
    assert task.cancelled()
    assert not complaints
