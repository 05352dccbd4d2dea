"""API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import AuthConfig, ConfigError
from qwenserve.runtime.errors import Unauthenticated


def test_without_keys_everybody_may_call() -> None:
    ring = KeyRing([])

    assert not ring.required
    assert ring.check(None) == ""


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer wrong"])
def test_anything_but_a_known_bearer_key_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        KeyRing(["right"]).check(header)


@pytest.mark.parametrize("header", ["Bearer right", "bearer right", "Bearer  right "])
def test_a_known_key_gives_an_id_that_is_not_the_key(header: str) -> None:
    key_id = KeyRing(["other", "right"]).check(header)

    assert key_id
    assert "right" not in key_id


def test_keys_come_from_configuration_and_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# staff\nfrom-file\n\n", encoding="utf-8")
    ring = KeyRing.from_config(AuthConfig(keys=("from-config",), key_file=str(file)))

    assert ring.check("Bearer from-file") != ring.check("Bearer from-config")
    with pytest.raises(Unauthenticated):
        ring.check("Bearer # staff")


def test_a_key_file_that_is_missing_or_empty_stops_start_up(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none\n", encoding="utf-8")

    for path in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"auth\.key_file"):
            KeyRing.from_config(AuthConfig(key_file=str(path)))


def test_a_ring_does_not_show_its_keys() -> None:
    ring = KeyRing(["very-secret"])

    assert b"very-secret" not in repr([getattr(ring, name) for name in ring.__slots__]).encode()
