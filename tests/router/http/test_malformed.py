"""A thousand malformed requests, seeded: each gets a 4xx, nothing is left of them, and the next good one works."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp

from qwenserve.router.http.openai.fields import TABLE
from qwenserve.router.http.transport.field_rows import Face
from tests.router.http.conftest import Served, serve
from tests.router.http.fake_backend import FakeBackend

SEED = 20_240_817
ASK = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "max_tokens": 5, "stop": ["x"]}
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/explain")
WRONG: tuple[Any, ...] = ("x", -1.5, [], [[]], {"a": {}}, True, 10**30, [None])

Refused = Callable[[random.Random], bytes]


def broken_json(rng: random.Random) -> bytes:
    """A good body with a character taken out, put in or cut off, such that it is no JSON any more."""
    while True:
        text = bytearray(json.dumps(ASK).encode())
        at = rng.randrange(len(text))
        kind = rng.randrange(3)
        if kind == 0:
            del text[at]
        elif kind == 1:
            text.insert(at, rng.choice(b'{}[]",:\\\x00\x01'))
        else:
            del text[at:]
        try:
            json.loads(text)
        except ValueError:
            return bytes(text)


def wrong_types(rng: random.Random) -> bytes:
    """A required field of a type that it cannot have."""
    field = rng.choice(["messages", "prompt", "tokens"])
    wrong = rng.choice([value for value in WRONG if value != "x"] if field == "prompt" else WRONG)
    # `tokens` is no field of a chat and `messages` none of /detokenize: every endpoint misses what it needs.
    return json.dumps({field: wrong if wrong != [] else 5, "model": 5}).encode()


def deep(rng: random.Random) -> bytes:
    """Nested beyond what any parser should follow."""
    depth = rng.randrange(300, 20_000)
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return b'{"messages": ' + opening * depth + b"1" + closing * depth + b"}"


def bad_utf8(rng: random.Random) -> bytes:
    """A text that is no UTF-8."""
    bad = rng.choice([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"])
    return b'{"messages": [{"role": "user", "content": "' + bad + b'"}], "prompt": "' + bad + b'"}'


def noise(rng: random.Random) -> bytes:
    """Random bytes."""
    return rng.randbytes(rng.randrange(1, 200))


def not_an_object(rng: random.Random) -> bytes:
    """Good JSON of another kind."""
    return json.dumps(rng.choice([value for value in WRONG if not isinstance(value, dict)])).encode()


BODIES: tuple[Refused, ...] = (broken_json, wrong_types, deep, bad_utf8, noise, not_an_object)


def broken_http(rng: random.Random) -> bytes:
    """What is no HTTP request, or one whose framing lies."""
    return rng.choice(
        [
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nno colon here\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"\x00" * 100 + b"\r\n\r\n",
            b"G\xffT / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1\r\n\r\n",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: the-impossible\r\nContent-Length: 0\r\n\r\n",
            b"DELETE /v1/%00%ff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            bytes([rng.randrange(256)]) * 20 + b"\r\n\r\n",
        ]
    )


async def status_of(served: Served, data: bytes) -> int:
    """Sends bytes as they are and returns the status of the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        line = await asyncio.wait_for(reader.readline(), 15)
        return int(line.split()[1])
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def framed(path: str, payload: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(payload), payload)


async def test_a_thousand_malformed_requests(http: aiohttp.ClientSession) -> None:
    rng = random.Random(SEED)
    backend = FakeBackend()
    async with serve(backend=backend, body_timeout_s=1.0) as served:
        requests = [framed(rng.choice(PATHS), BODIES[number % len(BODIES)](rng)) for number in range(900)]
        requests += [broken_http(rng) for _ in range(60)]
        huge = b'{"messages": [{"role": "user", "content": "' + b"x" * 10_000_000
        requests += [framed(path, huge) for path in PATHS[:4]]
        rng.shuffle(requests)
        good = framed(PATHS[0], json.dumps(ASK).encode())
        stalled = [good[: -rng.randrange(1, 60)] for _ in range(36)]
        batches = [requests[begin : begin + 50] for begin in range(0, len(requests), 50)] + [stalled]
        assert sum(map(len, batches)) == 1000

        counts: Counter[int] = Counter()
        for batch in batches:
            for status, request in zip(
                await asyncio.gather(*(status_of(served, data) for data in batch)), batch, strict=True
            ):
                assert 400 <= status < 500, (status, request[:400])
                counts[status] += 1

        assert counts[408] == 36
        # The four that are too long, and what is nested too often.
        assert counts[413] >= 4
        assert backend.requests == []
        async with http.post(served.url + PATHS[0], json=ASK) as reply:
            assert (reply.status, (await reply.json())["choices"][0]["message"]["content"]) == (200, "You s")


async def test_no_value_of_any_field_is_a_defect(http: aiohttp.ClientSession) -> None:
    rng = random.Random(SEED)
    values = (*WRONG, "", None, 0, 2**31, 2**63, 1e308, {}, [1, "x"], {"type": "x"}, [{"role": "user"}], "none")
    async with serve() as served:
        counts: Counter[int] = Counter()
        for _ in range(1000):
            face = rng.choice((Face.CHAT, Face.COMPLETION))
            rows = rng.sample([row for row in TABLE if face in row.faces and row.name != "stream"], 2)
            body: dict[str, Any] = dict(ASK) if face is Face.CHAT else {"prompt": "once"}
            body |= {row.name: rng.choice(values) for row in rows}
            async with http.post(served.url + PATHS[0 if face is Face.CHAT else 1], json=body) as reply:
                assert reply.status < 500, (body, await reply.text())
                counts[reply.status] += 1
        assert counts[200] > 50
        assert counts[400] > 500
