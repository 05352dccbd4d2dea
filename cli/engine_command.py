"""`qwenserve engine`: what a model is, who can load it, and how a quantized or built one is made from it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from qwenserve.cli import engine_check, engine_quantize, engine_tune
from qwenserve.worker.engine_packages import installed_version
from qwenserve.worker.prepare.build import (
    PACKAGE,
    BuildOptions,
    CannotBuild,
    missing_package,
    plan_build,
    read_model,
    run_build,
)
from qwenserve.worker.prepare.compare import CannotCheck
from qwenserve.worker.prepare.describe import Description, NotAModel, describe
from qwenserve.worker.prepare.formats import CARDS, ENGINES, why_not
from qwenserve.worker.prepare.memory import PARALLEL, fits, kv_bytes_per_token, weight_bytes
from qwenserve.worker.prepare.quantize_plan import CannotQuantize
from qwenserve.worker.prepare.tune_moe import CannotTune

# Where NVIDIA's container keeps the example scripts.
_EXAMPLES = "/app/tensorrt_llm/examples"
_GIB = 2**30


def main(argv: Sequence[str]) -> int:
    """Runs one action; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    try:
        return _ACTIONS[arguments.engine_command](arguments)
    except (CannotBuild, CannotCheck, CannotQuantize, CannotTune, NotAModel) as error:
        print(f"qwenserve engine {arguments.engine_command}: {error}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `qwenserve engine`."""
    parser = argparse.ArgumentParser(prog="qwenserve engine", description=__doc__)
    actions = parser.add_subparsers(dest="engine_command", required=True, metavar="ACTION")
    info = actions.add_parser("info", help="what a model is, which engines load it, what fits which card")
    info.add_argument("model", type=Path, metavar="DIR|FILE", help="model directory, GGUF file or TensorRT engine")
    info.add_argument("--json", action="store_true", help="as JSON")
    engine_quantize.add_parser(actions, _EXAMPLES)
    build = actions.add_parser("build", help="build a TensorRT engine (TensorRT-LLM up to 1.3.0rc1)")
    build.add_argument("model", type=Path, metavar="CHECKPOINT", help="Hugging Face directory or TensorRT checkpoint")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the engine's directory")
    build.add_argument("--dry-run", action="store_true", help="show the exact commands and do nothing")
    build.add_argument("--examples", type=Path, default=_EXAMPLES, metavar="DIR", help="the package's example scripts")
    for option in fields(BuildOptions):
        kind = int if isinstance(option.default, int) else str
        name = option.name.replace("_", "-")
        build.add_argument(f"--{name}", type=kind, default=option.default, help=f"({option.default or 'none'})")
    engine_check.add_parser(actions)
    engine_tune.add_parser(actions)
    return parser


def _info(arguments: argparse.Namespace) -> int:
    model = describe(arguments.model)
    print(json.dumps(facts(model), indent=2) if arguments.json else _text(model))
    return 0


def facts(model: Description) -> Mapping[str, Any]:
    """Returns everything that `info` tells, as JSON has it."""
    kv = {} if model.shape is None else {tp: kv_bytes_per_token(model.shape, model.kv_cache, tp) for tp in PARALLEL}
    return {
        "path": model.path,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "quantization": model.kind,
        "kv_cache": model.kv_cache,
        "dtype": model.dtype,
        "max_model_len": model.window,
        "tokenizer": model.tokenizer,
        "weight_bytes": weight_bytes(model),
        "kv_bytes_per_token": {str(tp): each for tp, each in kv.items()},
        "engines": {engine: why_not(model.kind, engine) or "loads it" for engine in ENGINES},
        "cards": [
            {"card": fit.card.name, "tensor_parallel": tp, "kv_tokens": fit.kv_tokens, "why_not": fit.why_not}
            for tp in PARALLEL
            for fit in fits(model, tp)
        ],
        "notes": list(model.notes),
    }


def _text(model: Description) -> str:
    told = facts(model)
    lines = [
        f"{model.path}",
        f"  architecture   {model.architecture}",
        f"  parameters     {model.parameters / 1e6:,.1f} M",
        f"  quantization   {model.kind} (weights {model.dtype}, KV cache {model.kv_cache})",
        f"  window         {model.window:,} tokens",
        f"  weights        {told['weight_bytes'] / _GIB:.2f} GiB",
        f"  tokenizer      {model.tokenizer or 'none'}",
        *(f"  note           {note}" for note in model.notes),
        "",
        "KV cache per 1,000 tokens on each card: " + (_kv_text(told["kv_bytes_per_token"]) or "unknown"),
        "",
        "engines",
        *(f"  {engine:14} {said}" for engine, said in told["engines"].items()),
        "",
        "cards, and how many tokens of KV cache fit beside the weights",
        f"  {'':12}" + "".join(f"{f'TP {tp}':>14}" for tp in PARALLEL),
    ]
    by_card = {card.name: [fit for tp in PARALLEL for fit in fits(model, tp, (card,))] for card in CARDS}
    for name, found in by_card.items():
        lines.append(f"  {name:12}" + "".join(f"{'–' if fit.why_not else f'{fit.kv_tokens:,}':>14}" for fit in found))
    reasons: dict[str, list[str]] = {}
    for fit in (fit for found in by_card.values() for fit in found if fit.why_not):
        reasons.setdefault(fit.why_not, []).append(f"{fit.card.name} TP {fit.parallel}")
    return "\n".join([*lines, *(f"  – {why}: {', '.join(where)}" for why, where in reasons.items())])


def _kv_text(bytes_per_token: Mapping[str, int]) -> str:
    return ", ".join(f"TP {tp} {1000 * each / 2**20:.1f} MiB" for tp, each in bytes_per_token.items())


def _build(arguments: argparse.Namespace) -> int:
    options = BuildOptions(**{option.name: getattr(arguments, option.name) for option in fields(BuildOptions)})
    plan = plan_build(read_model(arguments.model), options, arguments.out, Path(arguments.examples))
    if arguments.dry_run:
        for what, command in plan.steps:
            print(f"# {what}\n{shlex.join(command)}")
        return 0
    if missing := missing_package():
        raise CannotBuild(missing)
    run_build(plan, options, installed_version(PACKAGE), tell=print)
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "info": _info,
    "quantize": engine_quantize.run,
    "build": _build,
    "check": engine_check.run,
    "tune-moe": engine_tune.run,
}
