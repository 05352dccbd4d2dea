"""The file of keys: names, digests and limits; never a key itself.

It is YAML, so that people can read and edit it; `qwenserve keys` writes it. Keys are random texts of 256 bits, so a
plain SHA-256 of one tells nothing about it, and checking one takes microseconds.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenserve.runtime.config import ConfigError
from qwenserve.runtime.yaml_text import YamlError, read_yaml

KEY_PREFIX = "qs-"


class KeyRecord(BaseModel):
    """One key. Limits that are None are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    # Requests, and tokens of prompts and answers, in a minute.
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    # Requests under way at a time, in all routers that share a store.
    concurrency: int | None = Field(default=None, ge=1)
    # Longest answer, in tokens of each choice.
    max_tokens: int | None = Field(default=None, ge=1)
    # Most urgent priority; requests that ask for a more urgent one get this.
    priority: int | None = None
    # What its requests do with kept answers, and with those to similar prompts, where they do not say.
    cache: Literal["off", "read", "write", "readwrite"] | None = None
    similar: bool | None = None
    expires: datetime | None = None

    @property
    def limited(self) -> bool:
        """Whether there is anything to keep to."""
        limits = (self.rpm, self.tpm, self.concurrency, self.max_tokens, self.priority)
        return any(limit is not None for limit in limits)

    def expired(self, now: datetime) -> bool:
        """Whether it counts no more. A time without a zone is UTC."""
        if self.expires is None:
            return False
        until = self.expires if self.expires.tzinfo else self.expires.replace(tzinfo=timezone.utc)
        return now >= until


def new_key() -> str:
    """Returns a new key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Returns what the file has of a key."""
    # A header may hold any bytes; such a key is wrong, not an error.
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def read_keys(file: Path) -> tuple[KeyRecord, ...]:
    """Reads the file. Raises ConfigError naming the entry at fault."""
    try:
        tree = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"auth.keys_file: cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, YamlError) as error:
        raise ConfigError(f"auth.keys_file: {file}: {error}") from None
    entries = tree.get("keys") if isinstance(tree, dict) and tree.keys() == {"keys"} else None
    if not isinstance(entries, list):
        raise ConfigError(f"auth.keys_file: {file} is a mapping of `keys` to a list; `qwenserve keys add` makes one")
    records = [_record(file, number, entry) for number, entry in enumerate(entries)]
    for what in ("name", "sha256"):
        values = [getattr(record, what) for record in records]
        if len(set(values)) < len(values):
            raise ConfigError(f"auth.keys_file: {file}: two keys have the same {what}")
    return tuple(records)


def _record(file: Path, number: int, entry: object) -> KeyRecord:
    try:
        return KeyRecord.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("keys", number, *first["loc"]))
        raise ConfigError(f"auth.keys_file: {file}: {where}: {first['msg']}") from None


def keys_text(records: Sequence[KeyRecord]) -> str:
    """Returns the file's text."""
    entries = [record.model_dump(mode="json", exclude_none=True) for record in records]
    return "# Written by `qwenserve keys`. It holds no key, only digests.\n" + yaml.safe_dump(
        {"keys": entries}, sort_keys=False, allow_unicode=True
    )
