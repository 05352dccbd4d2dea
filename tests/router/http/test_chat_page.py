"""How the chat page is served; what it does is tested in a browser (tests/browser)."""

from __future__ import annotations

import re

import aiohttp
import pytest

from tests.router.http.conftest import Served, serve

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_gets_the_page_and_others_what_is_where(served: Served, http: aiohttp.ClientSession) -> None:
    """`/` is the chat page for whoever asks for HTML, JSON otherwise."""
    async with http.get(served.url + "/", headers=BROWSER) as reply:
        page = await reply.text()
        assert reply.content_type == "text/html"
    async with http.get(served.url + "/") as reply:
        assert (await reply.json())["service"] == "qwenserve"

    assert "<script" in page


async def test_everything_that_the_page_names_is_served(served: Served, http: aiohttp.ClientSession) -> None:
    """Every file is there with its type and the page's policy, also where keys are set, and nothing is inline."""
    async with serve(keys=("sk-1",)) as guarded:
        async with http.get(guarded.url + "/", headers=BROWSER) as reply:
            page = await reply.text()
        named = re.findall(r'(?:src|href)="(/page/[^"]+)"', page)
        assert len(named) >= 4
        for path in named:
            async with http.get(guarded.url + path) as reply:
                body = await reply.text()
                assert (reply.status, reply.headers["X-Content-Type-Options"]) == (200, "nosniff")
                policy = reply.headers["Content-Security-Policy"]
            named += [f"/page/{name}" for name in re.findall(r'from "\./([a-z]+\.js)"', body)]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon[a-z]+=|style=", page)


async def test_an_unchanged_file_is_not_sent_again(served: Served, http: aiohttp.ClientSession) -> None:
    """A browser that has the file gets 304 without a body."""
    async with http.get(served.url + "/page/main.js") as reply:
        tag = reply.headers["ETag"]
    async with http.get(served.url + "/page/main.js", headers={"If-None-Match": tag}) as reply:
        assert (reply.status, await reply.read()) == (304, b"")


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2ffiles.py", "/page/static/main.js"])
async def test_only_the_pages_own_files(path: str, served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + path) as reply:
        assert reply.status == 404
