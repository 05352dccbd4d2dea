"""The stored form of a value, by which a reader can refuse what none of our processes wrote. Pure; nothing is executed.

    magic "qsv" · version (1 byte) · flags (1 byte) · length of what it holds (4 bytes) · check (16 bytes) · body

The check is over the place, the head and the body: a digest, so that a torn, truncated or misplaced value is seen,
or, where a key is configured, the tag of AES-256-GCM, so that only holders of the key can have written it, and only
they can read it. The body is compressed where that makes it smaller.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
import zlib
from typing import Any

_HEAD = struct.Struct(">3sBBI")
_MAGIC = b"qsv"
_VERSION = 1
_CHECK_BYTES = 16
_NONCE_BYTES = 12
_COMPRESSED = 1
_ENCRYPTED = 2
# Below this size compression saves nothing.
_COMPRESS_FROM = 128
_KEY_BYTES = 32


class BadValue(Exception):
    """A value in the store was not written by our processes. The text says what is wrong, in a few fixed words."""


class KeyUnusable(Exception):
    """The configured encryption key cannot be used. The text says why, and the remedy."""


class Envelope:
    """Wraps what is written and opens what is read. With a key, only encrypted values are accepted."""

    def __init__(self, key: bytes | None = None) -> None:
        """Raises KeyUnusable where the `cryptography` package is missing."""
        self._cipher: Any = None if key is None else _cipher(key)
        # Most bytes that a wrapped value is longer than what it holds.
        self.overhead_bytes = _HEAD.size + _CHECK_BYTES + (0 if key is None else _NONCE_BYTES)

    def seal(self, place: str, payload: bytes) -> bytes:
        """Returns the value to be stored at `place`."""
        flags, body = 0, payload
        if len(payload) >= _COMPRESS_FROM:
            smaller = zlib.compress(payload, 1)
            if len(smaller) < len(payload):
                flags, body = _COMPRESSED, smaller
        if self._cipher is None:
            head = _HEAD.pack(_MAGIC, _VERSION, flags, len(payload))
            return head + _digest(place, head, body) + body
        head = _HEAD.pack(_MAGIC, _VERSION, flags | _ENCRYPTED, len(payload))
        nonce = os.urandom(_NONCE_BYTES)
        locked: bytes = self._cipher.encrypt(nonce, body, _bound_to(place, head))
        return head + locked[-_CHECK_BYTES:] + nonce + locked[:-_CHECK_BYTES]

    def open(self, place: str, value: bytes, max_bytes: int) -> bytes:
        """Returns what was stored at `place`. Raises BadValue; never returns more than `max_bytes`."""
        if len(value) < _HEAD.size + _CHECK_BYTES:
            raise BadValue("too short")
        head = value[: _HEAD.size]
        magic, version, flags, length = _HEAD.unpack(head)
        if magic != _MAGIC:
            raise BadValue("no value of ours")
        if version != _VERSION:
            raise BadValue("another version")
        if length > max_bytes or len(value) > max_bytes + self.overhead_bytes:
            raise BadValue("too long")
        check, body = value[_HEAD.size : _HEAD.size + _CHECK_BYTES], value[_HEAD.size + _CHECK_BYTES :]
        if flags & ~(_COMPRESSED | _ENCRYPTED):
            raise BadValue("unknown flags")
        if bool(flags & _ENCRYPTED) != (self._cipher is not None):
            raise BadValue("not encrypted" if self._cipher is not None else "encrypted with a key that is not here")
        if self._cipher is not None:
            body = self._unlock(place, head, check, body)
        elif _digest(place, head, body) != check:
            raise BadValue("checksum does not match")
        payload = _expanded(body, length) if flags & _COMPRESSED else body
        if len(payload) != length:
            raise BadValue("length does not match")
        return payload

    def _unlock(self, place: str, head: bytes, tag: bytes, body: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            opened: bytes = self._cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:] + tag, _bound_to(place, head))
        except (InvalidTag, ValueError):
            raise BadValue("encrypted with another key, or changed") from None
        return opened


def read_key(text: str) -> bytes | None:
    """Returns the 32 bytes that `text` spells in hexadecimal or base64; None for an empty text. Raises KeyUnusable."""
    text = text.strip()
    if not text:
        return None
    for decode in (bytes.fromhex, _from_base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == _KEY_BYTES:
            return key
    raise KeyUnusable("expected 32 bytes in hexadecimal or base64, as `openssl rand -hex 32` prints them")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise KeyUnusable("encryption needs the `cryptography` package; install qwenserve[encryption]") from None
    return AESGCM(key)


def _bound_to(place: str, head: bytes) -> bytes:
    return head + place.encode()


def _digest(place: str, head: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(b"%b%b%b" % (head, place.encode(), body), digest_size=_CHECK_BYTES).digest()


def _expanded(body: bytes, length: int) -> bytes:
    # Never more than the head promises: a few bytes can spell gigabytes.
    reader = zlib.decompressobj()
    try:
        payload = reader.decompress(body, length + 1)
    except zlib.error:
        raise BadValue("does not expand") from None
    if not reader.eof or reader.unused_data:
        raise BadValue("length does not match")
    return payload
