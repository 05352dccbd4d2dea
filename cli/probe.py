"""`qwenserve probe`: asks one process whether it serves; the exit code is the answer. What health checks run."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping

from qwenserve.cli.options import config_file, overrides_of
from qwenserve.cli.ports import Endpoint
from qwenserve.cli.readiness import is_http_ready, is_serving
from qwenserve.runtime.client_tls import ClientTls, own_tls, tls_of
from qwenserve.runtime.config import Config, load_config
from qwenserve.worker.engine_choice import engine_settings


def run_probe(arguments: argparse.Namespace) -> int:
    """Returns 0 where the process at the address serves, else 1."""
    if arguments.address in _TIERS:
        config = load_config(
            config_file(arguments.config), overrides=overrides_of(arguments), engines=engine_settings()
        ).config
        address, known = _TIERS[arguments.address](config)
        # A shim speaks nothing but HTTP.
        over_http = arguments.http or arguments.address == "shim"
        if over_http and arguments.address == "router":
            address = _reached(config.http.host, config.http.port)
    else:
        address, known, over_http = arguments.address.rpartition("://")[2], None, arguments.http
    ask = is_http_ready if over_http else is_serving
    serves = asyncio.run(ask(address, tls_of(arguments, arguments.address, known)))
    print("serving" if serves else "not serving")
    return 0 if serves else 1


def _worker(config: Config) -> tuple[str, ClientTls | None]:
    return _reached(config.worker.host, config.worker.port), own_tls(config.tls, cluster=True)


def _tokenizer(config: Config) -> tuple[str, ClientTls | None]:
    return _reached(config.tokenizer.host, config.tokenizer.port), own_tls(config.tls, cluster=True)


def _router(config: Config) -> tuple[str, ClientTls | None]:
    return _reached(config.router.host, config.router.port), own_tls(config.tls)


def _shim(config: Config) -> tuple[str, ClientTls | None]:
    return _reached(config.http.host, config.http.port), own_tls(config.tls)


# Where a tier listens that has the configuration of this command, and how it is called.
_TIERS: Mapping[str, Callable[[Config], tuple[str, ClientTls | None]]] = {
    "worker": _worker,
    "tokenizer": _tokenizer,
    "router": _router,
    "shim": _shim,
}


def _reached(host: str, port: int) -> str:
    return str(Endpoint(host, port).reachable)
