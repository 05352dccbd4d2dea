"""Quantizing, before any work: what is made by whom, who loads it, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenserve.cli.main import main
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.formats import CARDS, ENGINES, FORMATS, KV_FORMATS, Card
from qwenserve.worker.prepare.machine import card_of
from qwenserve.worker.prepare.quantize_plan import (
    CannotQuantize,
    Machine,
    QuantizeOptions,
    QuantizePlan,
    plan_quantize,
    plan_text,
    usual_device,
)

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"
EXAMPLES = Path("/examples")
GIB = 2**30
ROOMY = Machine(memory=900 * GIB, disk=900 * GIB)
H100 = Card("H100", 80, 9.0)
B200 = Card("B200", 180, 10.0)
A100 = Card("A100", 80, 8.0)
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 151936,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
    "num_experts": 128, "moe_intermediate_size": 768, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


def plan(
    path: Path = TINY, machine: Machine | None = ROOMY, serves: Card | None = None, **options: Any
) -> QuantizePlan:
    options.setdefault("format", "fp8")
    return plan_quantize(
        describe(path), QuantizeOptions(**options), Path("/made/out"), EXAMPLES, machine=machine, serves=serves
    )


def moe(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**MOE, **changes}))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "loaded_by"),
    [
        ("fp8", "FP8", ["trtllm", "vllm", "sglang"]),
        ("int4_awq", "W4A16_AWQ", ["trtllm"]),
        ("int8_sq", "W8A8_SQ_PER_CHANNEL", []),
        ("int8_wo", "tensorrt-checkpoint", []),
    ],
)
def test_a_plan_tells_who_will_load_the_result(name: str, kind: str, loaded_by: list[str]):
    """Every engine is in the plan, with a reason where it will not load what is made."""
    made = plan(format=name)

    assert made.kind == kind
    assert set(made.engines) == set(ENGINES)
    assert [engine for engine, why in made.engines.items() if not why] == loaded_by
    assert all(f"{engine}: {why}" in plan_text(made) for engine, why in made.engines.items() if why)


def test_what_only_a_tensorrt_checkpoint_holds_is_made_by_its_scripts():
    """int8 weights alone, and an int8 KV cache, are no Hugging Face checkpoints."""
    assert " ".join(plan(format="int8_wo").command) == (
        f"python3 /examples/models/core/qwen/convert_checkpoint.py --model_dir {TINY} --output_dir /made/out.partial "
        "--dtype bfloat16 --tp_size 1 --use_weight_only --weight_only_precision int8"
    )
    assert " ".join(plan(format="int8_sq", kv="int8").command) == (
        f"python3 /examples/quantization/quantize.py --model_dir {TINY} --output_dir /made/out.partial "
        "--dtype bfloat16 --tp_size 1 --qformat int8_sq --kv_cache_dtype int8"
    )
    assert plan(format="fp8", kv="fp8").command == ()


NVFP4 = {"format": "nvfp4", "device": usual_device("nvfp4")}


@pytest.mark.parametrize(
    ("options", "machine", "serves", "says"),
    [
        ({"format": "int3"}, ROOMY, None, "--format int3: known are fp8, int4_awq"),
        ({"kv": "int4"}, ROOMY, None, "--kv int4: known are none, fp8, int8"),
        ({"kv": "int8"}, ROOMY, None, "--kv int8 does not go with --format fp8"),
        ({"samples": 0}, ROOMY, None, "--samples must be 1 or more"),
        ({"format": "int4_awq", "block": 96}, ROOMY, None, "--block 96: hidden_size is 256"),
        ({"format": "nvfp4"}, ROOMY, None, "nvfp4 cannot be made without an NVIDIA GPU"),
        (NVFP4, ROOMY._replace(card=H100), None, "nvfp4 .* needs compute capability 10, H100 has 9"),
        (NVFP4, ROOMY._replace(card=B200), None, ""),
        (NVFP4, ROOMY._replace(card=H100), B200, ""),
        ({**NVFP4, "device": "cpu"}, ROOMY._replace(card=B200), None, "--device cpu: nvfp4 is made on a GPU"),
        ({"format": "fp8"}, ROOMY._replace(card=A100), None, "fp8 .* needs compute capability 8.9, A100 has 8"),
        ({"format": "fp8"}, ROOMY._replace(card=A100), H100, ""),
        ({"format": "int4_awq"}, ROOMY._replace(card=A100), None, ""),
        ({"format": "int4_awq", "kv": "fp8"}, ROOMY._replace(card=A100), None, "KV cache fp8 needs .* 8.9"),
        ({"device": "cuda"}, ROOMY, None, "--device cuda: there is no NVIDIA GPU here"),
        ({}, Machine(GIB // 4, 900 * GIB), None, r"needs about 0\.5 GiB of memory, and 0\.2 GiB are free"),
        ({}, Machine(900 * GIB, 1 << 20), None, r"on its disk, and 0\.0 GiB are free"),
        ({"device": "cuda"}, ROOMY._replace(card=Card("H100", 0.25, 9.0)), None, "on H100, and 0.2 GiB are free"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    options: dict[str, Any], machine: Machine, serves: Card | None, says: str
):
    """Each refusal is one line that names the option or the thing that is short."""
    if not says:
        plan(machine=machine, serves=serves, **options)
        return
    with pytest.raises(CannotQuantize, match=says) as refused:
        plan(machine=machine, serves=serves, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [each.name for each in FORMATS.values() if each.on_cpu])
def test_a_mixture_of_experts_is_planned_by_its_own_sizes(tmp_path: Path, name: str):
    """30B-A3B: 57 GiB in 16 bits are needed to make it; embeddings, output layer and gates stay in 16 bits."""
    made = plan(moe(tmp_path / "moe"), format=name)

    assert 70 * GIB < made.memory_bytes < 76 * GIB
    low, high = (28, 30) if FORMATS[name].weight_bits == 8 else (15.5, 17)
    assert low * GIB < made.result_bytes < high * GIB
    with pytest.raises(CannotQuantize, match=r"GiB of memory, and 64\.0 GiB are free"):
        plan(moe(tmp_path / "again"), machine=Machine(64 * GIB, 900 * GIB), format=name)
    if name == "int4_awq":
        with pytest.raises(CannotQuantize, match="moe_intermediate_size is 700"):
            plan(moe(tmp_path / "odd", moe_intermediate_size=700), format=name)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, r"already \(awq\): serve it as it is \(vllm, sglang\)"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, r"already \(gptq\): serve it as it is \(vllm"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, r"already \(FP8_BLOCK_SCALES\): serve it as it is"),
        ({"quant_method": "hqq"}, r"already \(hqq\): no engine here loads it, or quantize the original"),
    ],
)
def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path, method: dict[str, Any], says: str):
    """Ready-made checkpoints are known, and the refusal says who serves them."""
    with pytest.raises(CannotQuantize, match=says):
        plan(moe(tmp_path / "made", quantization_config=method))


def test_the_command_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """--dry-run touches nothing; as JSON it has the same facts."""
    out = tmp_path / "out"
    arguments = ["engine", "quantize", str(TINY), "--format", "fp8", "--card", "h100", "--out", str(out), "--dry-run"]
    assert main(arguments) == 0
    assert "loaded by     trtllm, vllm, sglang" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["engines"]["vllm"], told["command"]) == ("FP8", "loads it", [])
    assert list(tmp_path.iterdir()) == []

    assert main([*arguments[:-1], "--card", "3dfx"]) == 1
    assert "--card 3dfx: known are L4" in capsys.readouterr().err


def test_a_card_is_read_from_what_nvidia_smi_says():
    """Name, free memory and compute capability; anything else is no card."""
    assert card_of("NVIDIA H100 80GB HBM3, 81079, 9.0") == Card("NVIDIA H100 80GB HBM3", 81079 / 1024, 9.0)
    assert card_of("No devices were found") is None
    assert card_of("") is None
    assert {card.capability for card in CARDS} >= {8.0, 9.0, 10.0}
    assert KV_FORMATS["fp8"][1] > 8.0
