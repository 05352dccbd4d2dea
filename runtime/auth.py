"""API keys: optional bearer keys, from the configuration (compared in constant time) and from a file of digests."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from qwenserve.runtime.config import AuthConfig, ConfigError
from qwenserve.runtime.errors import Unauthenticated
from qwenserve.runtime.keys import KeyRecord, digest, read_keys
from qwenserve.runtime.logs import EventLog

_log = EventLog("auth")

# How often the file of keys is looked at, while requests come.
_LOOK_S = 1.0


class KeyRing:
    """The accepted keys. Keys are kept as digests, so that a dump of this object shows none."""

    __slots__ = ("_by_digest", "_by_name", "_clock", "_digests", "_file", "_looked", "_now", "_stamp")

    def __init__(
        self,
        keys: Iterable[str],
        *,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """`file` is one of `runtime.keys`, read again when it changes. Raises ConfigError."""
        self._digests = tuple(_digest(key) for key in keys if key)
        self._file = file
        self._clock = clock
        self._now = now
        self._looked = clock()
        self._stamp = _stamp(file) if file is not None else None
        self._set(read_keys(file) if file is not None else ())

    @classmethod
    def from_config(cls, config: AuthConfig) -> KeyRing:
        """Collects the keys of configuration and files. Raises ConfigError for an unreadable or empty file."""
        keys: list[str] = list(config.keys)
        if config.key_file:
            keys += _read_keys(Path(config.key_file).expanduser())
        return cls(keys, file=Path(config.keys_file).expanduser() if config.keys_file else None)

    @property
    def required(self) -> bool:
        """Whether callers need a key. With a file of keys they do, also while it holds none."""
        return bool(self._digests) or self._file is not None

    def record(self, key_id: str) -> KeyRecord | None:
        """Returns what the file says about a key, by the id that `check` gave; None for others."""
        return self._by_name.get(key_id)

    def check(self, authorization: str | None) -> str:
        """Returns a short id of the key in an `Authorization` value: its name, or the start of its digest.

        Raises Unauthenticated.
        """
        if not self.required:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("no API key given; send the header 'Authorization: Bearer KEY'")
        if self._file is not None:
            self._follow(self._file)
            # A look-up tells at most how far two digests agree, and nobody can choose those.
            record = self._by_digest.get(digest(key.strip()))
            if record is not None:
                if record.expired(self._now()):
                    raise Unauthenticated("this API key has expired")
                return record.name
        given = _digest(key.strip())
        # Every key is compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if not any(matches):
            raise Unauthenticated("incorrect API key")
        return given.hex()[:8]

    def _follow(self, file: Path) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        stamp = _stamp(file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._set(read_keys(file))
            _log.info("keys_read", file=str(file), keys=len(self._by_name))
        except ConfigError as error:
            # Those that were known stay: half a file must not lock everybody out.
            _log.error("keys_not_read", reason=str(error))

    def _set(self, records: Iterable[KeyRecord]) -> None:
        self._by_name: Mapping[str, KeyRecord] = {record.name: record for record in records}
        self._by_digest: Mapping[str, KeyRecord] = {record.sha256: record for record in self._by_name.values()}


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _digest(key: str) -> bytes:
    # A header may hold any bytes; such a key is wrong, not an error.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _read_keys(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"auth.key_file: cannot read {file}: {error.strerror}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"auth.key_file: {file} has no key; put one on each line")
    return keys
