"""Checkpoints read back from their files: every layout of scales, and what is refused. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenserve.worker.prepare.checkpoint import checkable, dequantized, load, measure_checkpoint, unpacked_int4
from qwenserve.worker.prepare.compare import CannotCheck, compare
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.texts import Text

TINY = Path(__file__).parents[2] / "models" / "qwen3-tiny"
TEXTS = [Text((4071, 299, 198, 610, 333, 278, 494, 341, 3481, 797, 30, 4072, 198, 4071, 312, 198), 16)]


@pytest.fixture(name="torch")
def _torch() -> Any:
    pytest.importorskip("transformers")
    return pytest.importorskip("torch", reason="torch is not installed: pip install 'qwenserve[quantize]'")


def test_every_layout_of_scales_is_multiplied_back(torch: Any):
    """One scale, one a row, one a block of a row, square blocks; a scale of the inputs goes into the weights."""
    values = torch.arange(-6, 6).reshape(3, 4)
    rows, before = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.5, 2.0, 1.0])
    squares = torch.rand(2, 2)
    stored = {
        "one.weight": values.to(torch.float8_e4m3fn), "one.weight_scale": torch.tensor(0.5),
        "one.input_scale": torch.tensor(1.0),
        "row.weight": values.to(torch.int8), "row.weight_scale": rows, "row.pre_quant_scale": before,
        "block.weight": values.to(torch.int8), "block.weight_scale": torch.tensor([[1.0, 2.0]] * 3),
        "square.weight": torch.ones(130, 200).to(torch.float8_e4m3fn), "square.weight_scale_inv": squares,
        "norm.weight": torch.ones(3, dtype=torch.bfloat16), "k_proj.k_scale": torch.tensor(1.0),
    }  # fmt: skip

    found = dequantized(stored)

    assert sorted(found) == ["block.weight", "norm.weight", "one.weight", "row.weight", "square.weight"]
    assert all(weight.dtype == torch.float32 for weight in found.values())
    assert torch.equal(found["one.weight"], values * 0.5)
    assert torch.equal(found["row.weight"], values * rows[:, None] * before)
    assert torch.equal(found["block.weight"], values * torch.tensor([1.0, 1.0, 2.0, 2.0]))
    assert found["square.weight"][0, 0] == squares[0, 0]
    assert found["square.weight"][129, 199] == squares[1, 1]
    stored["square.weight_scale_inv"] = torch.rand(3, 2)
    with pytest.raises(CannotCheck, match=r"square\.weight: blocks of 128 × 128"):
        dequantized(stored)


def test_two_rows_of_four_bits_are_in_a_byte(torch: Any):
    """All 16 values, with their sign, in both halves."""
    low, high = torch.arange(-8, 8)[None], torch.arange(7, -9, -1)[None]
    packed = ((low & 15) | ((high & 15) << 4)).to(torch.uint8)

    assert torch.equal(unpacked_int4(packed), torch.cat((low, high)).float())


def fp8_copy(torch: Any, folder: Path) -> Path:
    """The small model with its layers in fp8, as ModelOpt lays it out, by plain arithmetic."""
    from safetensors.torch import load_file, save_file

    weights = load_file(TINY / "model.safetensors")
    made = {}
    for name, tensor in weights.items():
        if "_proj" not in name:
            made[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.float().abs().max() / 448
        made[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        made[f"{layer}.weight_scale"], made[f"{layer}.input_scale"] = scale, torch.tensor(0.05)
    folder.mkdir()
    save_file(made, folder / "model.safetensors")
    config = json.loads((TINY / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_checkpoint_is_asked_from_its_files(torch: Any, tmp_path: Path):
    """fp8 weights are near the original and not equal to it; every layer's input is rounded."""
    whole = measure_checkpoint(describe(TINY), TEXTS, 4, print)
    fp8 = describe(fp8_copy(torch, tmp_path / "fp8"))
    _, notes = load(fp8)

    found = compare(whole, measure_checkpoint(fp8, TEXTS, 4, print))

    assert notes == ()
    assert (found.positions, len(whole.spoken[0].greedy)) == (15, 4)
    assert 0 < found.mean_kl < 1
    assert found.weight_bytes_b < 0.7 * found.weight_bytes_a


@pytest.mark.parametrize(
    ("method", "memory", "says"),
    [
        ({"quant_method": "awq", "bits": 4}, 1 << 50, r"\(awq\) is not dequantized here; start workers"),
        (None, 1 << 20, "needs about 0.0 GiB in float32"),
    ],
)
def test_what_cannot_be_asked_here_is_told(tmp_path: Path, method: dict[str, Any] | None, memory: int, says: str):
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **({"quantization_config": method} if method else {})}))

    with pytest.raises(CannotCheck, match=says):
        checkable(tmp_path, memory)
