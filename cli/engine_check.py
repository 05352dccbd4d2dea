"""`qwenserve engine check`: two checkpoints or running workers on the same texts. Exit code 3: thresholds missed."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwenserve.worker.model_check import store
from qwenserve.worker.prepare.ask_worker import measure_worker
from qwenserve.worker.prepare.checkpoint import checkable, measure_checkpoint
from qwenserve.worker.prepare.compare import CannotCheck, Measured, Thresholds, compare, facts, table
from qwenserve.worker.prepare.describe import Description
from qwenserve.worker.prepare.machine import this_machine
from qwenserve.worker.prepare.texts import CHECK, BadTexts, Text, read_texts

_MISSED = 3


def add_parser(actions: Any) -> None:
    """Adds the action to `qwenserve engine`."""
    parser = actions.add_parser("check", help="compare two checkpoints or running workers", description=__doc__)
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="model directory, or HOST:PORT of a worker")
    parser.add_argument(
        "--prompts", type=Path, default=CHECK, metavar="FILE", help="JSONL; default: texts that come along"
    )
    parser.add_argument("--limit", type=int, default=24, help="most texts (24)")
    parser.add_argument("--max-tokens", type=int, default=512, help="most tokens of a text (512)")
    parser.add_argument("--greedy", type=int, default=32, help="ids to generate after each prompt (32)")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="where neither A nor B is a directory")
    for threshold in fields(Thresholds):
        name = threshold.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=float, default=threshold.default, help=f"({threshold.default})")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compares. What was found is stored in B where B is a directory. Raises CannotCheck."""
    sides = [_side(name) for name in (arguments.a, arguments.b)]
    texts = _texts(arguments, sides)
    # Workers first: one that cannot be asked is known at once, before a checkpoint has taken minutes.
    order = sorted((0, 1), key=lambda number: not isinstance(sides[number], str))
    measured = {number: _measured(sides[number], texts, arguments.greedy) for number in order}
    found = compare(measured[0], measured[1])
    thresholds = Thresholds(**{each.name: getattr(arguments, each.name) for each in fields(Thresholds)})
    told = facts(found, thresholds)
    print(json.dumps(told, indent=2) if arguments.json else table(found))
    if isinstance(sides[1], Description):
        store(Path(sides[1].path), told)
    for line in thresholds.missed(found):
        print(f"missed: {line}", file=sys.stderr)
    return _MISSED if thresholds.missed(found) else 0


def _side(name: str) -> Description | str:
    path = Path(name)
    if path.exists():
        if find_spec("torch") is None or find_spec("transformers") is None:
            raise CannotCheck("torch and transformers are not installed: `pip install 'qwenserve[quantize]'`")
        return checkable(path, this_machine(path).memory)
    host, _, port = name.rpartition(":")
    if not host or not port.isdigit():
        raise CannotCheck(f"{name} is neither a directory nor HOST:PORT")
    return name


def _texts(arguments: argparse.Namespace, sides: list[Description | str]) -> list[Text]:
    from tokenizers import Tokenizer

    if arguments.limit < 1 or arguments.max_tokens < 2 or arguments.greedy < 0:
        raise CannotCheck("--limit must be 1 or more, --max-tokens 2 or more, --greedy 0 or more")
    tokenizers = {side.tokenizer for side in sides if isinstance(side, Description) and side.tokenizer}
    if len(tokenizers) > 1:
        raise CannotCheck("A and B have different tokenizers: their ids do not mean the same")
    folders = [arguments.tokenizer] if arguments.tokenizer else [Path(s.path) for s in sides if not isinstance(s, str)]
    folder = next((each for each in folders if (each / "tokenizer.json").exists()), None)
    if folder is None:
        raise CannotCheck("--tokenizer DIR: a model directory with tokenizer.json is needed for the ids of the texts")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    try:
        return read_texts(
            arguments.prompts,
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            limit=arguments.limit,
            max_tokens=arguments.max_tokens,
        )
    except BadTexts as error:
        raise CannotCheck(str(error)) from None


def _measured(side: Description | str, texts: list[Text], greedy: int) -> Measured:
    if isinstance(side, str):
        return asyncio.run(measure_worker(side, texts, greedy))
    return measure_checkpoint(side, texts, greedy, lambda line: print(line, file=sys.stderr, flush=True))
