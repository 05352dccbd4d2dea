"""Web pages: which may use the service, and what they are told."""

from __future__ import annotations

import aiohttp
import pytest

from qwenserve.router.http.transport.origins import Origins
from tests.router.http.conftest import serve

ASK = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"
PAGE = "https://example.com"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"Host": "localhost:8000"}, False),
        ({"Host": "127.0.0.1:8000"}, False),
        ({"Host": "[::1]:8000"}, False),
        ({"Host": "app.localhost"}, False),
        ({"Host": "router:8000"}, False),
        ({"Host": "evil.example"}, True),
        ({"Host": "127.0.0.1.evil.example:8000"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:3000"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": "https://evil.example"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": PAGE}, False),
        ({"Host": "example.com"}, False),
    ],
)
def test_without_keys_only_this_machines_own_pages_and_the_allowed_ones(headers: dict[str, str], refused: bool) -> None:
    assert bool(Origins((PAGE,), keyed=False, local=True).refusal(headers)) == refused


@pytest.mark.parametrize(("allowed", "keyed"), [(("*",), False), ((), True)])
def test_with_keys_or_for_all_nobody_is_refused(allowed: tuple[str, ...], keyed: bool) -> None:
    origins = Origins(allowed, keyed=keyed, local=True)

    assert origins.refusal({"Host": "evil.example", "Origin": "https://evil.example"}) == ""


async def test_a_foreign_page_starts_no_work(http: aiohttp.ClientSession) -> None:
    """Neither in the form that browsers send without asking first."""
    async with serve() as served:
        headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
        async with http.post(served.url + CHAT, json=ASK, headers=headers) as reply:
            assert (reply.status, (await reply.json())["error"]["type"]) == (403, "permission_error")
            assert "Access-Control-Allow-Origin" not in reply.headers
        async with http.post(served.url + CHAT, json=ASK, headers={"Host": "evil.example"}) as reply:
            assert reply.status == 403
        assert served.backend.requests == []


async def test_an_allowed_page_asks_first_and_reads_the_reply(http: aiohttp.ClientSession) -> None:
    async with serve(keys=("right",), allowed_origins=(PAGE,)) as served:
        asking = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        async with http.options(served.url + CHAT, headers=asking) as reply:
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
            assert reply.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        for stream in (False, True):
            headers = {"Origin": PAGE, "Authorization": "Bearer right"}
            async with http.post(served.url + CHAT, json={**ASK, "stream": stream}, headers=headers) as reply:
                assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
                await reply.read()
        async with http.options(served.url + CHAT, headers={**asking, "Origin": "https://evil.example"}) as reply:
            assert reply.status == 401
