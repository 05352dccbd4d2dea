"""The command line that all tiers share: `qwenserve TIER [--config FILE] [--set KEY=VALUE …]`.

`python -m qwenserve.TIER` is the same process without the command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import qwenserve
from qwenserve.runtime.config import Config, ConfigError, LogConfig, Section, load_config
from qwenserve.runtime.flags import FlagParser
from qwenserve.runtime.lifecycle import run
from qwenserve.runtime.log_file import LogFile
from qwenserve.runtime.logs import EventLog, configure_logs, flush_logs
from qwenserve.runtime.tls import grpc_environment

_log = EventLog("process")

# The folder above the `qwenserve` package: the repository, or site-packages. Processes start there, so that a folder
# of that name in the user's own directory is not taken for ours.
PACKAGE_ROOT = Path(qwenserve.__file__).absolute().parent.parent
# The package itself: the small model comes with it, wherever it is installed.
PACKAGE = Path(qwenserve.__file__).absolute().parent


def run_tier(
    tier: str,
    serve: Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]],
    argv: Sequence[str] | None = None,
    *,
    flags: Sequence[tuple[str, str]] = (),
    shortcuts: Sequence[tuple[str, str, str, str]] = (),
    engines: Mapping[str, type[Section]] | None = None,
) -> int:
    """Reads the configuration, sets logs up and runs `serve`. Returns the exit code; 2 for a bad configuration.

    `flags` are further switches of this tier: name and meaning; `shortcuts` are flags that set a setting: name,
    placeholder, key and meaning, and are found in `arguments.set` like any other; `engines` what `load_config` checks
    engines' settings with.
    """
    description = f"Runs one {tier} process in the foreground, until SIGTERM or ctrl-C asks it to drain."
    parser = FlagParser(prog=f"qwenserve {tier}", description=description)
    parser.add_argument("--config", type=Path, help="configuration file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    for name, meaning in flags:
        parser.add_argument(name, action="store_true", help=meaning)
    for name, placeholder, key, meaning in shortcuts:
        parser.add_argument(name, metavar=placeholder, action=_Shortcut, const=key, help=meaning)
    arguments = parser.parse_args(argv)
    try:
        overrides = dict(map(parse_setting, arguments.set))
        config = load_config(arguments.config, overrides=overrides, engines=engines).config
        _begin_again_with(grpc_environment(config.tls))
        with _logs(config.log, tier):
            return run(serve(config, arguments))
    except ConfigError as error:
        print(f"{tier}: {error}", file=sys.stderr)  # noqa: T201  # logs need a configuration
        return 2


def _begin_again_with(environment: Mapping[str, str]) -> None:
    """Replaces this process by one like it that has these variables, unless it has them: libraries read them once."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.environ.update(environment)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class _Shortcut(argparse.Action):
    """Sets the setting that `const` names."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        namespace.set = [*namespace.set, f"{self.const}={values}"]


@contextlib.contextmanager
def _logs(config: LogConfig, tier: str) -> Iterator[None]:
    file = LogFile(Path(config.file).expanduser().absolute(), config.max_bytes) if config.file else None
    refused = ""
    if file is not None:
        try:
            file.open()
        except OSError as error:  # serving matters more than the log file: standard error stays as it was
            refused = error.strerror or str(error)
    configure_logs(config.level, config.format, tier)
    if refused:
        _log.warning("log_file_not_opened", file=config.file, reason=refused)
    try:
        yield
    finally:
        flush_logs()  # before whatever the end of the process writes itself, such as a traceback
        if file is not None:
            file.close()


def parse_setting(item: str) -> tuple[str, str]:
    """Returns key and YAML text of `KEY=VALUE`. Raises ConfigError."""
    key, separator, value = item.partition("=")
    if not separator:
        raise ConfigError(f"--set {item}: expected KEY=VALUE, such as http.port=8080")
    return key.strip(), value
