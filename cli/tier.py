"""`qwenserve worker|router|tokenizer|shim`: one process of a tier, in the foreground.

What containers, MPI and service managers run. It becomes the very process that `qwenserve up` starts, with the same
flags; only the model is found first, as `up` finds it: the one that comes with Qwenserve from any directory, and one
of the hub downloaded, so that tiers which read local files only can be given the same reference.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qwenserve.cli.model import find_model
from qwenserve.cli.options import setting_texts
from qwenserve.cli.output import Output
from qwenserve.cli.plan import PROCESS_ENVIRONMENT
from qwenserve.runtime.config import ConfigError, load_config
from qwenserve.runtime.process import parse_setting
from qwenserve.worker.engine_choice import engine_settings
from qwenserve.worker.engine_interface import EngineError


def run_tier_process(tier: str, argv: Sequence[str]) -> int:
    """Runs until told to stop; returns the exit code."""
    if tier == "shim":  # it has no model
        from qwenserve.router.shim.main import main as shim

        return shim(argv)
    try:
        found = _found_model(argv)
    except (ConfigError, EngineError) as error:
        print(f"{tier}: {error}", file=sys.stderr)
        return 2
    if tier == "worker":
        # Before the engine's library is loaded, which reads it once.
        for name, value in PROCESS_ENVIRONMENT["worker"].items():
            os.environ.setdefault(name, value)
        from qwenserve.worker.main import main
    elif tier == "router":
        from qwenserve.router.main import main
    else:
        from qwenserve.tokenizer_svc.main import main
    return main([*argv, *found])


def _found_model(argv: Sequence[str]) -> list[str]:
    """Returns further arguments that name the model on this machine; none if the reference is a path already."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    known, _ = parser.parse_known_args(argv)
    if "-h" in argv or "--help" in argv:
        return []
    config = load_config(known.config, overrides=dict(map(parse_setting, known.set)), engines=engine_settings()).config
    reference = config.model.reference
    if Path(reference).expanduser().exists():
        return []
    texts = setting_texts(
        {
            "model.reference": str(find_model(reference, Output(to_stderr=True))),
            # The names stay those of the reference, not that of a folder in a cache.
            "model.name": config.model_name,
            "model.aliases": config.model_names[1:],
        }
    )
    return [part for key, text in texts.items() for part in ("--set", f"{key}={text}")]
