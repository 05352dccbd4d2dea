"""Which store the configuration asks for."""

from __future__ import annotations

import ssl
from pathlib import Path

from qwenserve.runtime.config import ConfigError, StoreConfig
from qwenserve.store.interface import Backend
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.redis_url import BadUrl, parse_url
from qwenserve.store.shared import SharedStore
from qwenserve.store.tls_files import TlsFiles
from qwenserve.store.values import Envelope, KeyUnusable, read_key


def open_store(config: StoreConfig) -> SharedStore:
    """Returns the store; nothing is connected yet, and a store that is down is no reason not to start.

    Raises ConfigError for settings that cannot work.
    """
    try:
        envelope = Envelope(read_key(config.encryption_key))
    except KeyUnusable as error:
        raise ConfigError(f"store.encryption_key: {error}") from None
    backend, where = _backend(config)
    return SharedStore(backend, timeout_s=config.timeout_s, where=where, envelope=envelope)


def _tls_files(config: StoreConfig) -> TlsFiles:
    """Returns the files, which can be read and belong together. Raises ConfigError naming the setting."""
    given = (config.ca_file, config.cert_file, config.key_file or config.cert_file)
    files = TlsFiles(*(str(Path(file).expanduser()) if file else "" for file in given))
    setting = "store.ca_file"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if files.authority:
            context.load_verify_locations(files.authority)
        setting = "store.cert_file"
        if files.chain:
            context.load_cert_chain(files.chain, files.key)
    except OSError as error:  # ssl.SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{setting}: cannot be used: {reason or error}; give files in PEM") from None
    return files


def _backend(config: StoreConfig) -> tuple[Backend, str]:
    if not config.url:
        return MemoryBackend(config.memory_bytes), "in process"
    try:
        place = parse_url(config.url)
    except BadUrl as error:
        raise ConfigError(f"store.url: {error}") from None
    if config.username:
        place = place._replace(username=config.username)
    if config.password:
        place = place._replace(password=config.password)
    try:
        # Its packages are needed by those alone who have a Redis.
        from qwenserve.store.redis_backend import RedisBackend

        backend = RedisBackend(
            place,
            prefix=config.prefix,
            password_file=config.password_file,
            tls=_tls_files(config) if place.tls else None,
            connections=config.connections,
        )
    except ImportError:
        raise ConfigError(
            "store.url: Redis needs the packages `redis` and `hiredis`; install qwenserve[redis]"
        ) from None
    return backend, str(place)
