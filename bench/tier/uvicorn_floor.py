"""The bare uvicorn floor: an ASGI app that streams ready-made events. Run by uvicorn as `bench.tier.uvicorn_floor:app`.

`BENCH_FLOOR_STEP_MS` is the time between events; 0 sends as fast as the client reads. With `BENCH_FLOOR_BEAT=own` each
stream sleeps by itself, as a simple app does; with `one` all streams send on one beat, as an engine's steps come, which
wakes the process 128 times less often.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from qwenserve.bench.tier.floor import Beat, asked_tokens, event, last_events

_beat = Beat(float(os.environ.get("BENCH_FLOOR_STEP_MS", "10")) / 1000)
_own_timers = os.environ.get("BENCH_FLOOR_BEAT", "own") == "own"
_event = event()
_HEADERS = [(b"content-type", b"text/event-stream")]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Streams as many events as the request asks for tokens."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    count = asked_tokens(body)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    piece = {"type": "http.response.body", "body": _event, "more_body": True}
    for _ in range(count):
        if _beat.step_s:
            await (asyncio.sleep(_beat.step_s) if _own_timers else _turn())
        await send(piece)
    await send({"type": "http.response.body", "body": last_events(count)})


async def _turn() -> None:
    """Waits for the beat."""
    turn = asyncio.get_running_loop().create_future()
    _beat.next(lambda: None if turn.done() else turn.set_result(None))
    await turn
