"""`store.url` in all its forms."""

from __future__ import annotations

import pytest

from qwenserve.runtime.config import ConfigError, StoreConfig
from qwenserve.store.opening import open_store
from qwenserve.store.redis_url import BadUrl, Place, parse_url, without_login


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://kv", Place("single", (("kv", 6379),))),
        ("valkey://kv:1", Place("single", (("kv", 1),))),
        (
            "rediss://me:p%40ss@kv:6380/3",
            Place("single", (("kv", 6380),), db=3, tls=True, username="me", password="p@ss"),
        ),
        ("redis://:secret@[::1]:7", Place("single", (("::1", 7),), password="secret")),
        ("unix:///run/kv.sock?db=2", Place("single", socket="/run/kv.sock", db=2)),
        (
            "redis+sentinel://a,b:1/main/4",
            Place("sentinel", (("a", 26379), ("b", 1)), service="main", db=4),
        ),
        ("valkeys+cluster://a:1,b:2", Place("cluster", (("a", 1), ("b", 2)), tls=True)),
    ],
)
def test_urls(url: str, place: Place):
    """Each form names its place."""
    assert parse_url(url) == place


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kv:6379", "expected a URL"),
        ("http://kv", "unknown scheme"),
        ("redis+ring://kv", "unknown scheme"),
        ("redis://", "host is missing"),
        ("redis://a,b", "redis\\+sentinel"),
        ("redis://kv:port", "expected a number"),
        ("redis://kv:70000", "1 to 65535"),
        ("redis://kv/one", "expected a number"),
        ("redis://kv/0/1", "number of the database"),
        ("redis+sentinel://kv", "service's name"),
        ("redis://[::1", "brackets"),
        ("unix://", "three slashes"),
    ],
)
def test_bad_urls_say_what_is_wrong(url: str, words: str):
    """The text shows the way, and never the password."""
    with pytest.raises(BadUrl, match=words):
        parse_url(url)
    with pytest.raises(BadUrl) as raised:
        parse_url(url.replace("://", "://me:topsecret@", 1))
    assert "topsecret" not in str(raised.value)


def test_places_show_no_password():
    """What is logged names hosts only."""
    assert str(parse_url("redis+cluster://me:topsecret@a:1,b")) == "a:1,b:6379"
    assert without_login("redis://me:topsecret@kv:1/2") == "redis://kv:1/2"
    assert without_login("") == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://kv"}, "store.url: unknown scheme"),
        ({"encryption_key": "short"}, "store.encryption_key: expected 32 bytes"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(settings: dict[str, str], words: str):
    """A configuration error names the key."""
    with pytest.raises(ConfigError, match=words):
        open_store(StoreConfig.model_validate(settings))
