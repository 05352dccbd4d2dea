"""The command line that all tiers share: `python -m TIER [--config FILE] [--set KEY=VALUE …]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import qwenserve
from qwenserve.runtime.config import Config, ConfigError, load_config
from qwenserve.runtime.lifecycle import run
from qwenserve.runtime.logs import configure_logs, flush_logs

# The folder above the `qwenserve` package: the repository, or site-packages. Processes start there, so that a folder
# of that name in the user's own directory is not taken for ours.
PACKAGE_ROOT = Path(qwenserve.__file__).absolute().parent.parent


def run_tier(
    tier: str,
    package: str,
    serve: Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]],
    argv: Sequence[str] | None = None,
    *,
    flags: Sequence[tuple[str, str]] = (),
) -> int:
    """Reads the configuration, sets logs up and runs `serve`. Returns the exit code; 2 for a bad configuration.

    `flags` are further switches of this tier: name and meaning.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=f"One {tier} process.")
    parser.add_argument("--config", type=Path, help="configuration file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    for name, meaning in flags:
        parser.add_argument(name, action="store_true", help=meaning)
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config, overrides=dict(map(_pair, arguments.set))).config
        configure_logs(config.log.level, config.log.format, tier)
        try:
            return run(serve(config, arguments))
        finally:
            flush_logs()  # before whatever the end of the process writes itself, such as a traceback
    except ConfigError as error:
        print(f"{tier}: {error}", file=sys.stderr)  # noqa: T201  # logs need a configuration
        return 2


def _pair(item: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator:
        raise ConfigError(f"--set {item}: expected KEY=VALUE, such as http.port=8080")
    return key.strip(), value
