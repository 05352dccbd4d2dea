"""What a worker tells of its engine's settings: the section of the configuration as it is in effect. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"(^|_)(token|key|secret|password)$")


def told_settings(section: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Returns settings by their names and options of the engine as `options.NAME`, each as JSON. `options` are those
    that the engine runs with, and go before those of `section`. What is named like a secret is left out.
    """
    own = {name: value for name, value in section.items() if name != "options"}
    wanted = {**(section.get("options") or {}), **options}
    named = {**own, **{f"options.{name}": value for name, value in wanted.items()}}
    return {name: _text(value) for name, value in sorted(named.items()) if not _SECRET.search(name)}


def _text(value: Any) -> str:
    return json.dumps(_public(value), default=str, ensure_ascii=False)


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _public(each) for name, each in value.items() if not _SECRET.search(str(name))}
    if isinstance(value, (list, tuple)):
        return [_public(each) for each in value]
    return value
