"""Which store the configuration asks for."""

from __future__ import annotations

from qwenserve.runtime.config import ConfigError, StoreConfig
from qwenserve.store.interface import Backend
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.redis_backend import RedisBackend
from qwenserve.store.redis_url import BadUrl, parse_url
from qwenserve.store.shared import SharedStore
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
        backend = RedisBackend(
            place,
            prefix=config.prefix,
            password_file=config.password_file,
            ca_file=config.ca_file,
            connections=config.connections,
        )
    except ImportError:
        raise ConfigError("store.url: Redis needs the `redis` package; install qwenserve[redis]") from None
    return backend, str(place)
