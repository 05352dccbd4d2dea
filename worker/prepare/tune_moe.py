"""Tuned kernels for mixtures of experts: the engines' own tuning commands, and which tables a folder holds.

vLLM and SGLang tune their Triton kernels for one card and shape and read the tables from a folder that an environment
variable names. TensorRT-LLM tunes while it warms up, and keeps what it found in a file that a variable names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qwenserve.worker.prepare.describe import Description, NotAModel, describe
from qwenserve.worker.prepare.machine import this_machine

# What each engine's script calls the weights; where a kind is missing, its kernels have no tables for it.
_DTYPES: Mapping[str, str] = {
    "unquantized": "auto", "FP8": "fp8_w8a8", "FP8_BLOCK_SCALES": "fp8_w8a8",
    "awq": "int4_w4a16", "gptq": "int4_w4a16",
}  # fmt: skip
_TABLE = re.compile(
    r"E=(\d+),N=(\d+),device_name=([^,]+?)(?:,dtype=([^,]+?))?(?:,block_shape=\[(\d+), ?(\d+)\])?\.json"
)
ENGINES = ("vllm", "sglang", "trtllm")


class CannotTune(Exception):
    """There is nothing to tune, or no way to. The text says why and what to do."""


class Tuning(NamedTuple):
    """How an engine is tuned and how it finds the result. `environment` is for `command` and for serving;
    `table` names the file that vLLM and SGLang look for, with `*` for the card where it is not known."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    table: str
    note: str


class Table(NamedTuple):
    """One table of tuned kernels: for which shape and card, and for how many batch sizes."""

    file: Path
    experts: int
    width: int
    card: str
    dtype: str
    batch_sizes: tuple[int, ...]


def plan_tuning(model: Description, engine: str, tensor_parallel: int, folder: Path, sources: Path) -> Tuning:
    """Returns the command for one engine. `sources` is its source tree, which has the script that the package lacks.
    Raises CannotTune."""
    shape = model.shape
    if shape is None or not shape.experts:
        raise CannotTune(f"{model.path} is no mixture of experts: there are no such kernels to tune")
    if shape.expert_intermediate % tensor_parallel:
        raise CannotTune(f"--tp {tensor_parallel} does not divide moe_intermediate_size, {shape.expert_intermediate}")
    if engine == "trtllm":
        cache = folder / f"trtllm-tp{tensor_parallel}.cache"
        return Tuning(
            ("trtllm-bench", "--model", model.path, "--model_path", model.path, "throughput", "--backend", "pytorch",
             "--tp", str(tensor_parallel), "--dataset", str(folder / "requests.jsonl"), "--num_requests", "1"),
            {"TLLM_AUTOTUNER_CACHE_PATH": str(cache)},
            "",
            "it tunes while it warms up, at every start; with the variable set a worker reads what was found before",
        )  # fmt: skip
    dtype = _DTYPES.get(model.kind)
    if dtype is None:
        raise CannotTune(f"{engine} has no tuned tables for {model.kind} weights")
    table = table_name(shape.experts, shape.expert_intermediate // tensor_parallel, "*", dtype, model.kind)
    common = ("--model", model.path, "--tp-size", str(tensor_parallel), "--dtype", dtype, "--tune")
    if engine == "vllm":
        script = sources / "benchmarks" / "kernels" / "benchmark_moe.py"
        return Tuning(
            ("python3", str(script), *common, "--save-dir", str(folder)),
            {"VLLM_TUNED_CONFIG_FOLDER": str(folder)},
            table,
            f"serve with worker.vllm.moe_kernels: {folder}",
        )
    script = sources / "benchmark" / "kernels" / "fused_moe_triton" / "tuning_fused_moe_triton.py"
    return Tuning(
        ("python3", str(script), *common),
        {"SGLANG_MOE_CONFIG_DIR": str(folder)},
        table,
        f"it writes into the current folder; move the table to {folder}/configs/triton_VERSION/",
    )


def table_name(experts: int, width: int, card: str, dtype: str, kind: str) -> str:
    """Returns the file name by which vLLM and SGLang look for a table; `card` as CUDA names it."""
    of_dtype = "" if dtype == "auto" else f",dtype={dtype}"
    block = ",block_shape=[128,128]" if kind == "FP8_BLOCK_SCALES" else ""
    return f"E={experts},N={width},device_name={re.sub('[ /]+', '_', card)}{of_dtype}{block}.json"


def fitting_tables(folder: str, engine: str, model: Path, tensor_parallel: int) -> tuple[str, ...]:
    """Returns the names of a folder's tables that an engine takes for this model on this machine's card, or on any
    where there is none. Nothing where the folder is empty or the model has no experts.
    """
    if not folder:
        return ()
    try:
        wanted = plan_tuning(describe(model), engine, tensor_parallel, Path(folder), Path()).table
    except (CannotTune, NotAModel):
        return ()
    card = this_machine(Path(folder)).card
    of_card = re.sub("[ /]+", "_", card.name) if card is not None else None
    return tuple(
        table.file.name
        for table in tables(Path(folder))
        if table.file.name == wanted.replace("*", table.card) and of_card in (None, table.card)
    )


def tables(folder: Path) -> list[Table]:
    """Returns the tables of a folder and those below it, by name. A file that is no table is left out."""
    found = []
    for file in sorted(folder.rglob("*.json")):
        match = _TABLE.fullmatch(file.name)
        if match is None:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            sizes = tuple(sorted(int(size) for size in content if str(size).isdigit()))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
        experts, width, card, dtype = match.group(1, 2, 3, 4)
        found.append(Table(file, int(experts), int(width), card, dtype or "auto", sizes))
    return found
