"""Values in the store: what we wrote comes back, and nothing else is believed."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.store.values import BadValue, Envelope, KeyUnusable, read_key

KEY = bytes(range(32))
LIMIT = 1 << 20


def envelope(*, encrypted: bool) -> Envelope:
    if encrypted:
        pytest.importorskip("cryptography", reason="encryption needs the cryptography package")
    return Envelope(KEY if encrypted else None)


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def one(request) -> Envelope:
    return envelope(encrypted=request.param)


@settings(deadline=None)
@given(payload=st.one_of(st.binary(max_size=2000), st.binary(max_size=20).map(lambda piece: piece * 500)))
def test_what_is_sealed_opens(payload: bytes):
    """Any bytes come back, short ones and long, and a value is hardly longer than what it holds."""
    plain = envelope(encrypted=False)
    sealed = plain.seal("place", payload)

    assert plain.open("place", sealed, LIMIT) == payload
    assert len(sealed) <= len(payload) + plain.overhead_bytes


def test_repetitive_values_are_compressed(one: Envelope):
    """What compresses lies there compressed, and is opened to its full length."""
    payload = b"0123456789" * 1000
    sealed = one.seal("place", payload)

    assert len(sealed) < len(payload) / 10
    assert one.open("place", sealed, LIMIT) == payload


@pytest.mark.parametrize("payload", [b"", b"short", b"0123456789" * 100], ids=["empty", "short", "compressed"])
def test_every_changed_byte_is_seen(one: Envelope, payload: bytes):
    """No byte can change, go or come without the value being refused."""
    sealed = one.seal("place", payload)

    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 0x41
        with pytest.raises(BadValue):
            one.open("place", bytes(changed), LIMIT)
        with pytest.raises(BadValue):
            one.open("place", sealed[:position], LIMIT)
    with pytest.raises(BadValue):
        one.open("place", sealed + b"x", LIMIT)


def test_a_value_belongs_to_its_place(one: Envelope):
    """A good value that somebody copied under another key is refused there."""
    with pytest.raises(BadValue):
        one.open("another", one.seal("place", b"value"), LIMIT)


@settings(deadline=None)
@given(value=st.binary(max_size=200))
def test_foreign_bytes_are_refused(value: bytes):
    """Whatever lies there that is not ours is refused as such, and nothing else happens."""
    with pytest.raises(BadValue):
        envelope(encrypted=False).open("place", value, LIMIT)
    with pytest.raises(BadValue):
        envelope(encrypted=False).open("place", b"qsv\x01\x01" + value, LIMIT)


def test_few_bytes_do_not_become_many():
    """A value that says it is longer than allowed, or is longer than it says, costs no more than was allowed."""
    plain = envelope(encrypted=False)
    with pytest.raises(BadValue, match="too long"):
        plain.open("place", plain.seal("place", bytes(2000)), 1000)

    bomb = zlib.compress(bytes(50 << 20))
    head = struct.pack(">3sBBI", b"qsv", 1, 1, 1000)
    check = hashlib.blake2b(head + b"place" + bomb, digest_size=16).digest()
    with pytest.raises(BadValue, match="length"):
        plain.open("place", head + check + bomb, LIMIT)


def test_encrypted_values_hide_what_they_hold():
    """Nothing of the text is seen, two values of one text differ, and only the key opens them."""
    mine, plain = envelope(encrypted=True), envelope(encrypted=False)
    sealed = mine.seal("place", b"a secret that nobody reads")

    assert b"secret" not in sealed
    assert sealed != mine.seal("place", b"a secret that nobody reads")
    with pytest.raises(BadValue, match="key"):
        plain.open("place", sealed, LIMIT)
    with pytest.raises(BadValue, match="key"):
        Envelope(bytes(32)).open("place", sealed, LIMIT)
    # Once there is a key, what anybody could have written is not believed any more.
    with pytest.raises(BadValue, match="not encrypted"):
        mine.open("place", plain.seal("place", b"forged"), LIMIT)


def test_keys_are_read_in_both_spellings():
    """Hexadecimal and base64 give the same key; anything else says what is expected."""
    assert read_key("") is None
    assert read_key(f" {KEY.hex()}\n") == KEY
    assert read_key(base64.b64encode(KEY).decode()) == KEY
    for bad in ("short", KEY.hex()[2:], "zz" * 32):
        with pytest.raises(KeyUnusable, match="32 bytes"):
            read_key(bad)
