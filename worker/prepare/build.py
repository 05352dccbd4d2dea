"""TensorRT engines: the commands that make one from a Hugging Face directory, planned before any work.

The flags are those of TensorRT-LLM 1.2.1 (`trtllm-build`) and of its example scripts. From 1.3.0rc20 on the package
has no TensorRT backend, and none of this exists there: the PyTorch backend takes checkpoints as they are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.worker.prepare.describe import Description, NotAModel, content_hash, describe
from qwenserve.worker.prepare.formats import FORMATS, TRT_CHECKPOINT, UNQUANTIZED

PACKAGE = "tensorrt_llm"
RECORD = "qwenserve-build.json"
_CONVERT = Path("models/core/qwen/convert_checkpoint.py")
_QUANTIZE = Path("quantization/quantize.py")


class CannotBuild(Exception):
    """There is no engine to be made like this. The text says why and what to do."""


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for. The defaults are the published settings for Qwen3 at a window of 32,768 tokens."""

    format: str = "none"
    kv: str = "none"
    block: int = 128
    tensor_parallel: int = 1
    dtype: str = "bfloat16"
    gemm_plugin: str = "bfloat16"
    max_batch_size: int = 16
    max_input_len: int = 32256
    max_seq_len: int = 32768
    max_num_tokens: int = 32256
    calibration: str = ""

    def check(self) -> None:
        """Raises CannotBuild for options that contradict each other."""
        if self.format not in ("none", *FORMATS):
            raise CannotBuild(f"--format {self.format}: known are none, {', '.join(FORMATS)}")
        if self.kv == "int8" and self.format in ("fp8", "nvfp4"):
            raise CannotBuild(f"--kv int8 does not go with --format {self.format}; take fp8 or none")
        if self.max_input_len >= self.max_seq_len:
            raise CannotBuild("--max-input-len must be below --max-seq-len, which holds the answer too")
        for name in ("tensor_parallel", "max_batch_size", "max_input_len", "max_num_tokens", "block"):
            if getattr(self, name) < 1:
                raise CannotBuild(f"--{name.replace('_', '-')} must be 1 or more")


class BuildPlan(NamedTuple):
    """Commands in their order, each with what it is for. `checkpoint` is the folder between them; it is removed at the
    end. `out` gets its name only when all is done."""

    source: Path
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    checkpoint: Path
    partial: Path
    out: Path


def plan_build(model: Description, options: BuildOptions, out: Path, examples: Path) -> BuildPlan:
    """Returns the commands that build an engine. `examples` is the package's folder of example scripts. Raises
    CannotBuild."""
    options.check()
    partial = out.with_name(f"{out.name}.partial")
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    steps = []
    source = Path(model.path)
    if model.kind == TRT_CHECKPOINT:
        if options.format != "none":
            raise CannotBuild(f"{source} is a TensorRT checkpoint already; --format cannot change it")
        checkpoint = source
    elif model.kind == UNQUANTIZED:
        steps.append(checkpoint_step(source, checkpoint, options, examples))
    else:
        raise CannotBuild(
            f"{source} is quantized already ({model.kind}); build from the original, or serve it by the PyTorch backend"
        )
    steps.append(("build the engine", tuple(_build_command(checkpoint, partial, options))))
    return BuildPlan(source, tuple(steps), checkpoint, partial, out)


def checkpoint_step(
    source: Path, checkpoint: Path, options: BuildOptions, examples: Path
) -> tuple[str, tuple[str, ...]]:
    """Returns what the step to a TensorRT checkpoint is called, and its command."""
    common = ["--model_dir", str(source), "--output_dir", str(checkpoint), "--dtype", options.dtype]
    common += ["--tp_size", str(options.tensor_parallel)]
    if options.format in ("none", "int8_wo") and options.kv != "fp8":
        command = ["python3", str(examples / _CONVERT), *common]
        if options.format == "int8_wo":
            command += ["--use_weight_only", "--weight_only_precision", "int8"]
        if options.kv == "int8":
            command.append("--int8_kv_cache")
        return "convert", tuple(command)
    command = ["python3", str(examples / _QUANTIZE), *common]
    command += ["--qformat", "full_prec" if options.format == "none" else options.format]
    if options.kv != "none":
        command += ["--kv_cache_dtype", options.kv]
    if options.format == "int4_awq":
        command += ["--awq_block_size", str(options.block)]
    if options.calibration:
        command += ["--calib_dataset", options.calibration]
    return "quantize", tuple(command)


def _build_command(checkpoint: Path, out: Path, options: BuildOptions) -> list[str]:
    return [
        *("trtllm-build", "--checkpoint_dir", str(checkpoint), "--output_dir", str(out)),
        *("--gemm_plugin", options.gemm_plugin),
        *("--kv_cache_type", "paged", "--use_paged_context_fmha", "enable"),
        *("--max_batch_size", str(options.max_batch_size)),
        *("--max_input_len", str(options.max_input_len)),
        *("--max_seq_len", str(options.max_seq_len)),
        *("--max_num_tokens", str(options.max_num_tokens)),
        *("--workers", str(options.tensor_parallel)),
    ]


def missing_package() -> str:
    """Returns what to do where TensorRT-LLM is not installed; empty where it is."""
    if shutil.which("trtllm-build"):
        return ""
    return (
        "trtllm-build is not on the PATH: run this inside NVIDIA's TensorRT-LLM 1.2.1 release container, or "
        "`pip install tensorrt_llm==1.2.1` on a machine with an NVIDIA GPU and CUDA 13; --dry-run shows the commands"
    )


def run_build(
    plan: BuildPlan,
    options: BuildOptions,
    version: str,
    *,
    tell: Callable[[str], None],
    run: Callable[[Sequence[str]], int] = lambda command: subprocess.run(command, check=False).returncode,
) -> bool:
    """Builds, or returns False where an engine of the same model, options and version is there already. A build that
    fails leaves nothing under the final name. Raises CannotBuild."""
    record: dict[str, Any] = {"model": content_hash(plan.source), "options": asdict(options), "tensorrt_llm": version}
    if plan.out.exists():
        if _record_of(plan.out) == record:
            tell(f"{plan.out} is this engine already: nothing to do")
            return False
        raise CannotBuild(f"{plan.out} exists and is something else; remove it or choose another --out")
    for folder in (plan.partial, plan.checkpoint if len(plan.steps) > 1 else plan.partial):
        shutil.rmtree(folder, ignore_errors=True)
    for number, (what, command) in enumerate(plan.steps, 1):
        tell(f"[{number}/{len(plan.steps)}] {what}: {' '.join(command)}")
        # A process of its own for each step: what building takes of memory is not given back by the process.
        code = run(command)
        if code:
            raise CannotBuild(f"{what} failed with exit code {code}; its output above says why")
    (plan.partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        if (plan.source / name).exists():
            shutil.copy2(plan.source / name, plan.partial / name)
    plan.partial.rename(plan.out)
    if len(plan.steps) > 1:
        shutil.rmtree(plan.checkpoint, ignore_errors=True)
    return True


def _record_of(out: Path) -> Any:
    try:
        return json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_model(path: Path) -> Description:
    """Returns the description of what is to be built. Raises CannotBuild."""
    try:
        return describe(path)
    except NotAModel as error:
        raise CannotBuild(str(error)) from None
