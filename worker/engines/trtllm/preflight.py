"""What is wrong with a machine for a model, before hours are spent on loading it. Pure but for `look`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.worker.weight_files import weight_files

_GIB = 1 << 30
# NCCL and the ranks' queues; containers get 64 MiB unless told otherwise.
_SHARED_MEMORY = 1 * _GIB
# Compute capability from which a number format is computed.
_FORMATS = {"FP8": (8, 9), "FP8_BLOCK_SCALES": (9, 0), "NVFP4": (10, 0), "W4A16_AWQ": (8, 0)}
# What is left for the KV cache at the least.
_LEAST_CACHE = 1 * _GIB


class Machine(NamedTuple):
    """What was found. `free_bytes` is of each GPU; `memlock` -1 means no limit."""

    gpus: int
    capability: tuple[int, int]
    free_bytes: int
    shared_memory: int
    memlock: int


class Demand(NamedTuple):
    """What a model wants. `ranks` is of this node; `formats` are quantizations by their names in the checkpoint."""

    ranks: int
    weight_bytes: int
    formats: tuple[str, ...] = ()


def problems(machine: Machine, demand: Demand) -> list[str]:
    """Returns a line for each thing that is wrong, with the remedy."""
    found = []
    if machine.gpus < demand.ranks:
        found.append(
            f"{demand.ranks} GPUs are wanted and {machine.gpus} are here: make tensor, pipeline and context parallel "
            "sizes smaller, or give the container all GPUs (--gpus all)"
        )
        if not machine.gpus:
            return found
    for name in demand.formats:
        needed = _FORMATS.get(name)
        if needed is not None and machine.capability < needed:
            found.append(
                f"the weights are {name}, which needs compute capability {needed[0]}.{needed[1]}; this GPU has "
                f"{machine.capability[0]}.{machine.capability[1]}: take a checkpoint in another format"
            )
    each = demand.weight_bytes // max(1, demand.ranks)
    if machine.free_bytes < each + _LEAST_CACHE:
        found.append(
            f"each GPU needs {each / _GIB:.1f} GiB for weights and {_LEAST_CACHE / _GIB:.0f} for the KV cache, and has "
            f"{machine.free_bytes / _GIB:.1f} free: end what else runs there, use more GPUs, or a quantized checkpoint"
        )
    if demand.ranks > 1 and machine.shared_memory < _SHARED_MEMORY:
        found.append(
            f"/dev/shm has {machine.shared_memory >> 20} MiB; several ranks need {_SHARED_MEMORY >> 20}: "
            "start the container with --ipc=host or --shm-size=16g"
        )
    if demand.ranks > 1 and machine.memlock not in (-1,) and machine.memlock < _GIB:
        found.append(
            f"at most {machine.memlock >> 10} KiB may be locked in memory (ulimit -l): start the container with "
            "--ulimit memlock=-1, or raise it in the service's unit (LimitMEMLOCK=infinity)"
        )
    return found


def demand_of(model: Path, options: Mapping[str, Any]) -> Demand:
    """Returns what a model directory wants under these options."""
    sizes = (options.get(f"{name}_parallel_size", 1) or 1 for name in ("tensor", "pipeline", "context"))
    ranks = 1
    for size in sizes:
        ranks *= int(size)
    local = min(ranks, int(options.get("gpus_per_node") or ranks))
    total = sum(file.stat().st_size for file in weight_files(model)) if options.get("load_format") != "dummy" else 0
    return Demand(local, total * local // ranks, tuple(_formats(model)))


def look() -> Machine:
    """Looks at this machine."""
    import resource

    torch = import_module("torch")
    gpus = torch.cuda.device_count()
    shared = os.statvfs("/dev/shm")
    memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Machine(
        gpus,
        tuple(torch.cuda.get_device_capability()) if gpus else (0, 0),
        min((torch.cuda.mem_get_info(n)[0] for n in range(gpus)), default=0),
        shared.f_frsize * shared.f_blocks,
        -1 if memlock == resource.RLIM_INFINITY else memlock,
    )


def _formats(model: Path) -> list[str]:
    found = []
    quantized = _read(model / "hf_quant_config.json").get("quantization", {})
    if quantized.get("quant_algo"):
        found.append(str(quantized["quant_algo"]))
    stated = _read(model / "config.json").get("quantization_config", {})
    if stated.get("quant_method") == "fp8":
        found.append("FP8_BLOCK_SCALES" if stated.get("weight_block_size") else "FP8")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
