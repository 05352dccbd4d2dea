"""Building TensorRT engines: the exact commands of 1.2.1, and that a build leaves either an engine or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwenserve.cli.main import main
from qwenserve.worker.prepare.build import RECORD, BuildOptions, CannotBuild, plan_build, read_model, run_build

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"
EXAMPLES = Path("/examples")
# Every flag of `trtllm-build` 1.2.1 that a plan may use, as its help lists them.
TRTLLM_BUILD = {
    "--checkpoint_dir", "--output_dir", "--build_config", "--model_config", "--max_batch_size", "--max_input_len",
    "--max_seq_len", "--max_num_tokens", "--opt_num_tokens", "--max_beam_width", "--kv_cache_type", "--workers",
    "--gemm_plugin", "--use_paged_context_fmha", "--tokens_per_block", "--dry_run",
}  # fmt: skip
CONVERT = {
    "--model_dir", "--output_dir", "--dtype", "--tp_size", "--use_weight_only", "--weight_only_precision",
    "--int8_kv_cache",
}  # fmt: skip
QUANTIZE = {
    "--model_dir", "--output_dir", "--dtype", "--tp_size", "--qformat", "--kv_cache_dtype", "--awq_block_size",
    "--calib_dataset",
}  # fmt: skip
KNOWN = {"trtllm-build": TRTLLM_BUILD, "convert_checkpoint.py": CONVERT, "quantize.py": QUANTIZE}


def commands(**options: object) -> list[tuple[str, ...]]:
    plan = plan_build(read_model(TINY), BuildOptions(**options), Path("/engines/tiny"), EXAMPLES)  # type: ignore[arg-type]
    return [command for _, command in plan.steps]


def test_the_published_settings_are_the_defaults():
    """Convert, then build with bfloat16 GEMMs, a paged KV cache and paged context attention."""
    convert, build = commands()

    assert " ".join(convert) == (
        f"python3 /examples/models/core/qwen/convert_checkpoint.py --model_dir {TINY} "
        "--output_dir /engines/tiny.checkpoint --dtype bfloat16 --tp_size 1"
    )
    assert " ".join(build) == (
        "trtllm-build --checkpoint_dir /engines/tiny.checkpoint --output_dir /engines/tiny.partial "
        "--gemm_plugin bfloat16 --kv_cache_type paged --use_paged_context_fmha enable --max_batch_size 16 "
        "--max_input_len 32256 --max_seq_len 32768 --max_num_tokens 32256 --workers 1"
    )


@pytest.mark.parametrize(
    ("options", "has"),
    [
        ({"format": "int8_wo"}, "convert_checkpoint.py … --use_weight_only --weight_only_precision int8"),
        ({"format": "int8_wo", "kv": "int8"}, "convert_checkpoint.py … --int8_kv_cache"),
        ({"format": "int4_awq", "block": 64}, "quantize.py … --qformat int4_awq --awq_block_size 64"),
        ({"format": "fp8", "kv": "fp8"}, "quantize.py … --qformat fp8 --kv_cache_dtype fp8"),
        ({"format": "int8_sq", "kv": "int8"}, "quantize.py … --qformat int8_sq --kv_cache_dtype int8"),
        ({"kv": "fp8"}, "quantize.py … --qformat full_prec --kv_cache_dtype fp8"),
        ({"format": "fp8", "calibration": "/data"}, "quantize.py … --calib_dataset /data"),
        ({"tensor_parallel": 4}, "convert_checkpoint.py … --tp_size 4"),
    ],
)
def test_formats(options: dict[str, object], has: str):
    """Each published recipe is one command; tensor parallelism is fixed when the checkpoint is made."""
    script, _, flags = has.partition(" … ")
    first = " ".join(commands(**options)[0])

    assert script in first
    assert flags in first


@pytest.mark.parametrize("quantized", ["none", "fp8", "int4_awq", "int8_wo", "int8_sq", "nvfp4"])
@pytest.mark.parametrize("kv", ["none", "fp8", "int8"])
def test_only_flags_that_exist(quantized: str, kv: str):
    """No plan has a flag that its program does not know."""
    try:
        planned = commands(format=quantized, kv=kv, calibration="/data")
    except CannotBuild:
        return
    for command in planned:
        program = command[0] if command[0] != "python3" else command[1].rpartition("/")[2]
        assert {part for part in command if part.startswith("--")} <= KNOWN[program]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "int3"}, "--format int3: known are none, fp8"),
        ({"format": "fp8", "kv": "int8"}, "--kv int8 does not go with"),
        ({"max_input_len": 40000}, "--max-input-len must be below"),
        ({"tensor_parallel": 0}, "--tensor-parallel must be 1"),
    ],
)
def test_contradictions_are_named(options: dict[str, object], says: str):
    with pytest.raises(CannotBuild, match=says):
        commands(**options)


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')

    with pytest.raises(CannotBuild, match=r"quantized already \(awq\)"):
        plan_build(read_model(tmp_path), BuildOptions(), Path("/out"), EXAMPLES)


class Programs:
    """Stands in for the package's programs: makes the folders that they make, and fails where told to."""

    def __init__(self, fail: str = "") -> None:
        self.ran: list[str] = []
        self._fail = fail

    def __call__(self, command: Sequence[str]) -> int:
        program = command[0] if command[0] != "python3" else Path(command[1]).name
        self.ran.append(program)
        out = Path(command[command.index("--output_dir") + 1])
        out.mkdir(parents=True)
        (out / "half").write_text("")
        return 1 if program == self._fail else 0


def build(out: Path, programs: Programs, version: str = "1.2.1", **options: int) -> bool:
    chosen = BuildOptions(**options)  # type: ignore[arg-type]
    plan = plan_build(read_model(TINY), chosen, out, EXAMPLES)
    return run_build(plan, chosen, version, tell=lambda _: None, run=programs)


def test_an_engine_is_built_once(tmp_path: Path):
    """The engine carries what it was made of; the same again does nothing, anything else is refused."""
    out, programs = tmp_path / "engine", Programs()

    assert build(out, programs)
    assert programs.ran == ["convert_checkpoint.py", "trtllm-build"]
    record = json.loads((out / RECORD).read_text())
    assert (record["tensorrt_llm"], record["options"]["max_batch_size"]) == ("1.2.1", 16)
    assert (out / "tokenizer.json").exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["engine"]
    assert not build(out, programs)
    assert len(programs.ran) == 2
    for changed in ({"version": "1.2.2"}, {"max_batch_size": 8}):
        with pytest.raises(CannotBuild, match="is something else"):
            build(out, programs, **changed)


@pytest.mark.parametrize("failing", ["convert_checkpoint.py", "trtllm-build"])
def test_a_failed_build_leaves_nothing_under_the_name(tmp_path: Path, failing: str):
    """Whatever step fails, the name stays free, and the next try starts afresh and succeeds."""
    out = tmp_path / "engine"
    with pytest.raises(CannotBuild, match="failed with exit code 1"):
        build(out, Programs(failing))

    assert not out.exists()
    assert build(out, Programs())


def test_the_commands_by_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """`--dry-run` prints what would run; without the package the error says where to get it."""
    arguments = ["engine", "build", str(TINY), "--out", str(tmp_path / "e"), "--format", "fp8", "--kv", "fp8"]
    assert main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "quantize.py" in printed
    assert "trtllm-build" in printed
    assert main(arguments) == 1
    assert "1.2.1 release container" in capsys.readouterr().err


def test_info_by_command_line(capsys: pytest.CaptureFixture[str]):
    """`engine info` tells engines and cards; `--json` the same as data."""
    assert main(["engine", "info", str(TINY)]) == 0
    text = capsys.readouterr().out
    assert "Qwen3ForCausalLM" in text
    assert "H200" in text
    assert main(["engine", "info", str(TINY), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["engines"]["vllm"] == "loads it"
    assert main(["engine", "info", "/nowhere"]) == 1
    assert "does not exist" in capsys.readouterr().err
