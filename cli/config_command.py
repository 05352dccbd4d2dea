"""`qwenserve config`: what is set, and where it came from."""

from __future__ import annotations

import argparse
import json
from typing import Any

from qwenserve.cli.options import config_file, overrides_of
from qwenserve.cli.output import Output
from qwenserve.runtime.config import SECRETS, Setting, annotated_yaml, load_config
from qwenserve.store.redis_url import without_login
from qwenserve.worker.engine_choice import engine_settings


def run_explain(arguments: argparse.Namespace) -> int:
    """Prints effective values and their sources; returns the exit code."""
    loaded = load_config(config_file(arguments.config), overrides=overrides_of(arguments), engines=engine_settings())
    settings = [s for s in loaded.settings() if not arguments.changed or s.source != "default"]
    output = Output()
    output.table(("KEY", "VALUE", "SOURCE"), [(s.key, shown(s), s.source) for s in settings])
    return 0


def run_template(arguments: argparse.Namespace) -> int:
    """Prints an annotated configuration file with all defaults; returns the exit code."""
    print(annotated_yaml(load_config(environment={}, engines=engine_settings())), end="")
    return 0


def shown(setting: Setting) -> str:
    """Returns a setting's value as people may see it."""
    if setting.key == "store.url":
        return json.dumps(without_login(setting.value))
    if setting.key in SECRETS and setting.value:
        return f"({len(setting.value)} hidden)" if isinstance(setting.value, tuple) else "(hidden)"
    value: Any = list(setting.value) if isinstance(setting.value, tuple) else setting.value
    return json.dumps(value, ensure_ascii=False)
