"""`qwenserve engine quantize`: says what it will do, refuses what cannot be, and does it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from qwenserve.worker.engine_packages import installed_version
from qwenserve.worker.prepare.build import PACKAGE
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.formats import FORMATS, KV_FORMATS
from qwenserve.worker.prepare.machine import named_card, this_machine
from qwenserve.worker.prepare.modelopt_backend import ModelOpt, calibration_texts, missing_packages
from qwenserve.worker.prepare.quantize import run_command, run_quantize
from qwenserve.worker.prepare.quantize_plan import (
    CannotQuantize,
    QuantizeOptions,
    QuantizePlan,
    plan_quantize,
    plan_text,
    usual_device,
)


def add_parser(actions: Any, examples: str) -> None:
    """Adds the action to `qwenserve engine`."""
    parser = actions.add_parser("quantize", help="make a smaller checkpoint of a model", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="Hugging Face directory in 16 bits")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to make")
    parser.add_argument("--kv", default="none", choices=KV_FORMATS, help="format of the KV cache (none)")
    parser.add_argument("--block", type=int, default=128, help="weights that share a scale, int4_awq (128)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new checkpoint's directory")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="where ModelOpt computes (cpu; cuda for what cannot be made on a CPU)"
    )
    parser.add_argument("--calibration", default="", metavar="FILE", help="JSONL; default: texts that come along")
    parser.add_argument("--samples", type=int, default=64, help="most calibration texts (64)")
    parser.add_argument("--max-tokens", type=int, default=512, help="most tokens of a calibration text (512)")
    parser.add_argument("--card", default="", metavar="NAME", help="the card that will serve it (the one here)")
    parser.add_argument("--examples", type=Path, default=examples, metavar="DIR", help="TensorRT-LLM's examples")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Plans, tells and works. Raises CannotQuantize or NotAModel."""
    options = QuantizeOptions(
        arguments.format,
        arguments.kv,
        arguments.block,
        arguments.device or usual_device(arguments.format),
        arguments.calibration,
        arguments.samples,
        arguments.max_tokens,
    )
    plan = plan_quantize(
        describe(arguments.model),
        options,
        arguments.out,
        Path(arguments.examples),
        machine=this_machine(arguments.out),
        serves=named_card(arguments.card) if arguments.card else None,
    )
    print(json.dumps(_facts(plan), indent=2) if arguments.json and arguments.dry_run else plan_text(plan), flush=True)
    if arguments.dry_run:
        if plan.command and not arguments.json:
            print(f"# {'convert' if 'convert' in plan.command[1] else 'quantize'}\n{shlex.join(plan.command)}")
        return 0
    if plan.command:
        run_command(plan, installed_version(PACKAGE), tell=_tell)
    else:
        if missing := missing_packages():
            raise CannotQuantize(missing)
        calibration_texts(plan.source, options)  # a file that cannot be used is told before the model is loaded
        try:
            run_quantize(plan, ModelOpt(), tell=_tell)
        except KeyboardInterrupt:
            raise CannotQuantize(f"interrupted; the same command goes on from {plan.partial}") from None
    print(f"{plan.out}: prove it with `qwenserve engine check {plan.source} {plan.out}`")
    return 0


def _facts(plan: QuantizePlan) -> dict[str, Any]:
    return {
        "source": str(plan.source),
        "out": str(plan.out),
        "kind": plan.kind,
        "kv_cache": plan.options.kv,
        "command": list(plan.command),
        "engines": {engine: why or "loads it" for engine, why in plan.engines.items()},
        "memory_bytes": plan.memory_bytes,
        "result_bytes": plan.result_bytes,
    }


def _tell(line: str) -> None:
    print(line, flush=True)
