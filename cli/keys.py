"""`qwenserve keys add|list|revoke`: the file of keys with limits."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from qwenserve.cli.errors import CommandError
from qwenserve.cli.options import config_file
from qwenserve.cli.output import Output
from qwenserve.cli.state import replace_text
from qwenserve.runtime.config import load_config
from qwenserve.runtime.keys import KeyRecord, digest, keys_text, new_key, read_keys
from qwenserve.worker.engine_choice import engine_settings

_LIMITS = ("rpm", "tpm", "concurrency", "max_tokens", "priority", "cache", "similar")


def run_keys(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    file = _file(arguments)
    if arguments.keys_command == "list":
        _show(read_keys(file))
        return 0
    with _locked(file):
        records = read_keys(file) if file.exists() else ()
        if arguments.keys_command == "revoke":
            left = [record for record in records if record.name != arguments.name]
            if len(left) == len(records):
                raise CommandError(f"{file} has no key {arguments.name}; qwenserve keys list shows those it has")
            replace_text(file, keys_text(left))
            print(f"{arguments.name} is revoked: running routers notice within seconds")
            return 0
        if any(record.name == arguments.name for record in records):
            raise CommandError(f"{file} has a key {arguments.name} already; revoke it first, or take another name")
        key = new_key()
        limits = {name: getattr(arguments, name) for name in _LIMITS}
        try:
            record = KeyRecord(name=arguments.name, sha256=digest(key), expires=_expires(arguments.expires), **limits)
        except ValueError:
            raise CommandError(f"{arguments.name!r} is no name: 1 to 64 letters, digits, dots, dashes, lines") from None
        replace_text(file, keys_text([*records, record]))
    print(f"The key of {arguments.name}, shown this once:", file=sys.stderr)
    print(key)
    return 0


def _file(arguments: argparse.Namespace) -> Path:
    if arguments.file is not None:
        return Path(arguments.file).expanduser()
    config = load_config(config_file(arguments.config), engines=engine_settings()).config
    if not config.auth.keys_file:
        raise CommandError("which file? give --file FILE, or set auth.keys_file in the configuration")
    return Path(config.auth.keys_file).expanduser()


def _expires(given: str | None) -> datetime | None:
    """Reads a number of days (`90d`) or a date. Raises CommandError."""
    if given is None:
        return None
    if given.endswith("d") and given[:-1].isdigit():
        return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=int(given[:-1]))
    try:
        until = datetime.fromisoformat(given)
    except ValueError:
        raise CommandError(f"--expires {given}: give days, such as 90d, or a date, such as 2030-12-31") from None
    return until if until.tzinfo else until.replace(tzinfo=timezone.utc)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keeps other `qwenserve keys` from changing the file meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file.with_name(f"{file.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _show(records: tuple[KeyRecord, ...]) -> None:
    now = datetime.now(timezone.utc)
    rows = []
    for record in records:
        limits = ["" if getattr(record, name) is None else str(getattr(record, name)) for name in _LIMITS]
        expires = "" if record.expires is None else record.expires.isoformat()
        rows.append([record.name, *limits, f"{expires} (expired)" if record.expired(now) else expires])
    Output().table(["name", *_LIMITS, "expires"], rows)
