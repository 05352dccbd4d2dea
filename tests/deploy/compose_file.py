"""A compose file as Docker reads it, as far as this repository's go: merged, with its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

# `${NAME}`, `${NAME:-default}`, and `${NAME:?what to do where it is empty}`.
_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*)|:\?[^}]*)?\}")


class Service(NamedTuple):
    """One service of ours: what runs in its container."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe: tuple[str, ...]
    ports: Mapping[int, int]  # published port of the host by port of the container


def environment_file(path: Path) -> dict[str, str]:
    """Returns the variables of an `.env` file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def read_services(path: Path, variables: Mapping[str, str], image_prefix: str = "qwenserve-") -> dict[str, Service]:
    """Returns the services that run our own images."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    filled = _fill(document, variables)
    return {
        name: Service(
            name,
            tuple(service["command"]),
            {key: str(value) for key, value in service.get("environment", {}).items()},
            tuple(service["healthcheck"]["test"][1:]),
            dict(_published(port) for port in service.get("ports", ())),
        )
        for name, service in filled["services"].items()
        if service["image"].startswith(image_prefix)
    }


def _published(port: str) -> tuple[int, int]:
    _, host, container = port.rsplit(":", 2)
    return int(container), int(host)


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, variables) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: variables.get(match[1], match[2] or ""), value)
    return value
