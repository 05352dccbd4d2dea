"""What quantizing a model will take, decided before any work: who makes the format, who loads it, memory, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qwenserve.worker.prepare.build import BuildOptions, CannotBuild, checkpoint_step
from qwenserve.worker.prepare.describe import Description
from qwenserve.worker.prepare.formats import (
    ENGINES,
    FORMATS,
    KV_FORMATS,
    TRT_CHECKPOINT,
    UNQUANTIZED,
    Card,
    why_not,
)

MODELOPT_VERSIONS = ">=0.47,<0.48"
_GIB = 2**30
# Beside the weights in 16 bits: the activations of a calibration text, and what the export holds of a layer twice.
_WORKING = 0.3
_LOADED = 0.5  # GiB of the packages themselves
_BITS = 16.0  # a weight that stays as it is: embeddings, the output layer, norms


class CannotQuantize(Exception):
    """This format cannot be made of this model, here or at all. The text says why and what to do, in one line."""


@dataclass(frozen=True)
class QuantizeOptions:
    """What to make. `calibration` is a JSONL file, empty for the conversations that come with the package; `samples`
    and `max_tokens` limit what is taken of it."""

    format: str
    kv: str = "none"
    block: int = 128
    device: str = "cpu"
    calibration: str = ""
    samples: int = 64
    max_tokens: int = 512

    def check(self) -> None:
        """Raises CannotQuantize for options that are not known or contradict each other."""
        if self.format not in FORMATS:
            raise CannotQuantize(f"--format {self.format}: known are {', '.join(FORMATS)}")
        if self.kv not in KV_FORMATS:
            raise CannotQuantize(f"--kv {self.kv}: known are {', '.join(KV_FORMATS)}")
        if self.kv == "int8" and self.format in ("fp8", "nvfp4"):
            raise CannotQuantize(f"--kv int8 does not go with --format {self.format}; take fp8 or none")
        if self.device not in ("cpu", "cuda"):
            raise CannotQuantize(f"--device {self.device}: known are cpu, cuda")
        for name in ("block", "samples", "max_tokens"):
            if getattr(self, name) < 1:
                raise CannotQuantize(f"--{name.replace('_', '-')} must be 1 or more")


def usual_device(name: str) -> str:
    """Returns where a format is made where nobody says: on a GPU only what cannot be made without one."""
    made = FORMATS[name]
    return "cuda" if made.modelopt and not made.on_cpu else "cpu"


class Machine(NamedTuple):
    """What the work is done on: free bytes of memory and of the output's disk, and the GPU where there is one."""

    memory: int
    disk: int
    card: Card | None = None


class QuantizePlan(NamedTuple):
    """What will be done. `command` is TensorRT-LLM's where only a TensorRT checkpoint holds the format, empty where
    ModelOpt makes a Hugging Face checkpoint. `engines` says of each engine why it will not load the result."""

    source: Path
    out: Path
    partial: Path
    options: QuantizeOptions
    kind: str
    command: tuple[str, ...]
    engines: dict[str, str]
    memory_bytes: int
    result_bytes: int
    kept_bytes: int


def plan_quantize(
    model: Description,
    options: QuantizeOptions,
    out: Path,
    examples: Path,
    *,
    machine: Machine | None = None,
    serves: Card | None = None,
) -> QuantizePlan:
    """Returns the plan; with a machine, after asking whether it can be carried out there. `serves` is the card that
    will run the result, where it is not the machine's. Raises CannotQuantize."""
    options.check()
    _check_source(model, options)
    made = FORMATS[options.format]
    by_tensorrt = not made.modelopt or options.kv == "int8"
    kind = TRT_CHECKPOINT if by_tensorrt else made.algorithm
    partial = out.with_name(f"{out.name}.partial")
    command: tuple[str, ...] = ()
    if by_tensorrt:
        build = BuildOptions(format=options.format, kv=options.kv, block=options.block, calibration=options.calibration)
        try:
            _, command = checkpoint_step(Path(model.path), partial, build, examples)
        except CannotBuild as error:
            raise CannotQuantize(str(error)) from None
    plan = QuantizePlan(
        Path(model.path),
        out,
        partial,
        options,
        kind,
        command,
        {engine: why_not(kind, engine) for engine in ENGINES},
        int(model.parameters * _BITS / 8 * (1 + _WORKING) + _LOADED * _GIB),
        _result_bytes(model, made.weight_bits),
        0 if by_tensorrt else int(model.parameters * _BITS / 8),
    )
    if machine is not None:
        _check_machine(plan, machine, serves)
    return plan


def _check_source(model: Description, options: QuantizeOptions) -> None:
    if model.kind != UNQUANTIZED:
        loads = [engine for engine in ENGINES if not why_not(model.kind, engine)]
        served = f"serve it as it is ({', '.join(loads)})" if loads else "no engine here loads it"
        raise CannotQuantize(f"{model.path} is quantized already ({model.kind}): {served}, or quantize the original")
    if model.shape is None:
        raise CannotQuantize(f"{model.path}/config.json does not tell the model's shape")
    inputs = {
        "hidden_size": model.shape.hidden,
        "num_attention_heads × head_dim": model.shape.heads * model.shape.head_dim,
        "moe_intermediate_size" if model.shape.experts else "intermediate_size": (
            model.shape.expert_intermediate if model.shape.experts else model.shape.intermediate
        ),
    }
    if options.format == "int4_awq":
        for name, size in inputs.items():
            if size % options.block:
                raise CannotQuantize(
                    f"--block {options.block}: {name} is {size}, which blocks of {options.block} do not divide"
                )


def _check_machine(plan: QuantizePlan, machine: Machine, serves: Card | None) -> None:
    made, options = FORMATS[plan.options.format], plan.options
    if not made.on_cpu and machine.card is None and not plan.command:
        raise CannotQuantize(f"{made.name} cannot be made without an NVIDIA GPU, and there is none here")
    if options.device == "cpu" and not made.on_cpu and not plan.command:
        raise CannotQuantize(f"--device cpu: {made.name} is made on a GPU; take --device cuda")
    if options.device == "cuda" and machine.card is None:
        raise CannotQuantize("--device cuda: there is no NVIDIA GPU here; take --device cpu")
    serves = serves or machine.card
    if serves is not None:
        needed = max(made.least_capability, KV_FORMATS[options.kv][1])
        if serves.capability < needed:
            raise CannotQuantize(
                f"{made.name} with KV cache {options.kv} needs compute capability {needed:g}, {serves.name} has "
                f"{serves.capability:g}; name the card that will serve it with --card"
            )
    on_card = machine.card if options.device == "cuda" else None
    where, free = (
        ("of memory", machine.memory) if on_card is None else (f"on {on_card.name}", int(on_card.memory_gib * _GIB))
    )
    if free < plan.memory_bytes:
        raise CannotQuantize(
            f"{plan.source} needs about {plan.memory_bytes / _GIB:.1f} GiB {where}, and {free / _GIB:.1f} GiB are free"
        )
    # What calibration found is kept until the end, with the weights in 16 bits.
    disk = plan.result_bytes + plan.kept_bytes
    if machine.disk < disk:
        raise CannotQuantize(
            f"{plan.out} needs about {disk / _GIB:.1f} GiB on its disk, and {machine.disk / _GIB:.1f} GiB are free"
        )


def _result_bytes(model: Description, weight_bits: float) -> int:
    shape = model.shape
    assert shape is not None
    kept = shape.vocab * shape.hidden * (1 if shape.tied else 2) + shape.layers * shape.hidden * shape.experts
    return int(kept * _BITS / 8 + max(0, model.parameters - kept) * weight_bits / 8)


def plan_text(plan: QuantizePlan) -> str:
    """Returns what people are told before any work."""
    options = plan.options
    loads = [engine for engine, why in plan.engines.items() if not why]
    how = "TensorRT-LLM's scripts" if plan.command else f"NVIDIA ModelOpt on {options.device}"
    lines = [
        f"{plan.source} → {plan.out}",
        f"  format        {options.format} ({plan.kind}), KV cache {options.kv}, made by {how}",
        f"  weights       about {plan.result_bytes / _GIB:.2f} GiB",
        f"  memory        about {plan.memory_bytes / _GIB:.1f} GiB while it is made",
        f"  calibration   {_calibration(plan)}",
        f"  loaded by     {', '.join(loads) or 'no engine as it is'}",
        *(f"  not by        {engine}: {why}" for engine, why in plan.engines.items() if why),
    ]
    return "\n".join(lines)


def _calibration(plan: QuantizePlan) -> str:
    options = plan.options
    if not FORMATS[options.format].calibrates and options.kv == "none":
        return "none"
    if plan.command:
        return options.calibration or "the script's own data set (give --calibration where there is no network)"
    what = options.calibration or "conversations that come with qwenserve, English and Chinese"
    return f"{options.samples} of {what}, {options.max_tokens} tokens each at most"
