"""Command-line options that several commands share: how settings are given."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenserve.cli.errors import CommandError
from qwenserve.worker.engine_choice import ENGINES

# Short forms of settings that are often given.
_SHORT = {
    "model": ("model.reference", "model: a directory, a GGUF file or a hub id"),
    "engine": ("worker.engine", f"engine: {' or '.join(ENGINES)}"),
    "weights": ("model.weights", "bf16, f16, q8_0, f32, or random for a model that has none"),
    "port": ("http.port", "the same as --http-port"),
    "http-port": ("http.port", "port of the HTTP API (default 8000; 0 takes a free one)"),
    "grpc-port": ("router.port", "port of the gRPC API (default 50051; 0 takes a free one)"),
}


def add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --set and the short forms."""
    group = parser.add_argument_group("settings (`qwenserve config explain` shows all)")
    group.add_argument("--config", type=Path, metavar="FILE", help="configuration file; or set QWENSERVE_CONFIG")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    for option, (key, text) in _SHORT.items():
        group.add_argument(f"--{option}", metavar=option.rpartition("-")[2].upper(), help=f"{text} [{key}]")
    group.add_argument(
        "--host", metavar="ADDRESS", help=f"address of both APIs (default 127.0.0.1) [{', '.join(_ADDRESSES)}]"
    )
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="name in answers, and further ones that requests may use [model.name, model.aliases]",
    )


_ADDRESSES = ("http.host", "router.host")


def overrides_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns dotted keys and their values as YAML texts. Raises CommandError for a --set without '='."""
    overrides: dict[str, str] = {}
    for item in arguments.set:
        key, separator, value = item.partition("=")
        if not separator:
            raise CommandError(f"--set {item}: expected KEY=VALUE, such as http.port=8080")
        overrides[key.strip()] = value
    for option, (key, _) in _SHORT.items():
        value = getattr(arguments, option.replace("-", "_"))
        if value is not None:
            overrides[key] = value if value.isdecimal() else json.dumps(value)
    if arguments.host is not None:
        overrides.update(dict.fromkeys(_ADDRESSES, json.dumps(arguments.host)))
    if arguments.served_model_name:
        name, *others = arguments.served_model_name
        overrides.update(setting_texts({"model.name": name, "model.aliases": others}))
    return overrides


def setting_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns values as YAML texts, the form in which settings travel from command to process.

    JSON is YAML that means the same whatever it holds: a path with ': ' in it stays a path.
    """
    return {key: json.dumps(value) for key, value in values.items()}


def config_file(given: Path | None) -> Path | None:
    """Returns the configuration file to read, absolute: the one given, else the environment's, else none."""
    named = given or os.environ.get("QWENSERVE_CONFIG")
    return Path(named).expanduser().absolute() if named else None


def count(least: int) -> Any:
    """Returns an argparse type for a number of processes."""

    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return number

    parse.__name__ = "number"
    return parse
