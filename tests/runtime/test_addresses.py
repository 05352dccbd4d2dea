"""How others reach what listens here."""

from __future__ import annotations

import socket

import pytest

from qwenserve.runtime.addresses import reachable_address

HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "advertised", "address"),
    [
        ("127.0.0.1", "", "127.0.0.1:50061"),
        ("::1", "", "[::1]:50061"),
        ("0.0.0.0", "", f"{HERE}:50061"),
        ("::", "", f"{HERE}:50061"),
        ("0.0.0.0", "gpu7.lan", "gpu7.lan:50061"),
        ("0.0.0.0", "gpu7.lan:7000", "gpu7.lan:7000"),
        ("0.0.0.0", "fd00::7", "[fd00::7]:50061"),
        ("0.0.0.0", "[fd00::7]", "[fd00::7]:50061"),
        ("0.0.0.0", "[fd00::7]:7000", "[fd00::7]:7000"),
    ],
)
def test_addresses(host: str, advertised: str, address: str):
    """What is advertised wins; an address of this machine alone is used as it is."""
    assert reachable_address(host, 50061, advertised) == address
