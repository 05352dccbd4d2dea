"""What both floors send: ready-made events, all streams on one beat, as an engine's steps would have it.

A floor has no prompt to read, no text to make and no worker to talk to: it shows what a Python process spends on one
write per token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

_CHUNK = {
    "id": "chatcmpl-000000000000000000000000",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "qwen3-tiny",
    "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
    "usage": None,
}


def event(body: object = _CHUNK) -> bytes:
    """Returns one event of about the size that a router sends."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def last_events(tokens: int) -> bytes:
    """Returns what ends an answer: finish, usage, DONE."""
    finish = {**_CHUNK, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]}
    counts = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    usage = {**_CHUNK, "choices": [], "usage": counts}
    return event(finish) + event(usage) + b"data: [DONE]\n\n"


def asked_tokens(body: bytes) -> int:
    """Returns the answer's length that a request asks for."""
    return int(json.loads(body).get("max_tokens", 1))


class Beat:
    """Calls everybody who waits, once per step, on absolute times."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self._waiting: list[Callable[[], None]] = []
        self._due = 0.0
        self._armed = False

    def next(self, call: Callable[[], None]) -> None:
        """Calls `call` at the next beat, once."""
        self._waiting.append(call)
        if not self._armed:
            self._armed = True
            loop = asyncio.get_running_loop()
            self._due = max(self._due + self.step_s, loop.time())
            loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        self._armed = False
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
