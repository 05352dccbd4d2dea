"""`Cache-Control` of a request: what it does to the policy of kept answers, and what the reply says."""

from __future__ import annotations

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.transport.cache_control import apply_cache_control
from tests.router.http.conftest import Served

OFF = chat_pb2.CACHE_MODE_OFF
BOTH = chat_pb2.CACHE_MODE_READ_WRITE


@pytest.mark.parametrize(
    ("header", "before", "after"),
    [
        ("", chat_pb2.CachePolicy(mode=BOTH), chat_pb2.CachePolicy(mode=BOTH)),
        ("no-store", chat_pb2.CachePolicy(mode=BOTH), chat_pb2.CachePolicy(mode=OFF)),
        ("no-cache", chat_pb2.CachePolicy(mode=BOTH), chat_pb2.CachePolicy(mode=BOTH, max_age_s=0)),
        ("max-age=60", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=60)),
        ('Max-Age="60"', chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=60)),
        ("max-age=60, no-cache", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=0)),
        ("no-cache, max-age=60", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=0)),
        ("max-age=99999999999", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=2**31 - 1)),
        ("max-age=soon", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(max_age_s=0)),
        ("Only-If-Cached", chat_pb2.CachePolicy(), chat_pb2.CachePolicy(only_if_cached=True)),
        ("max-stale=5, no-transform, x=y", chat_pb2.CachePolicy(), chat_pb2.CachePolicy()),
    ],
)
def test_directives(header: str, before: chat_pb2.CachePolicy, after: chat_pb2.CachePolicy) -> None:
    """Each directive can only ask for less."""
    apply_cache_control(header, before)

    assert before == after


async def test_the_header_reaches_the_router(served: Served, http: aiohttp.ClientSession) -> None:
    """Chats and completions alike; a request that says nothing leaves it open."""
    for path, fields in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "once"}),
    ):
        for headers in ({"Cache-Control": "max-age=7"}, {}):
            async with http.post(served.url + path, json=fields, headers=headers) as reply:
                assert reply.status == 200

    policies = [(request.HasField("cache"), request.cache.max_age_s) for request in served.backend.requests]
    assert policies == [(True, 7), (False, 0), (True, 7), (False, 0)]
