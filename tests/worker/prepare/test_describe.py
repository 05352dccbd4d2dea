"""What a model on disk is found to be, from its own files alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from qwenserve.worker.prepare.describe import NotAModel, content_hash, describe
from qwenserve.worker.prepare.formats import CARDS, ENGINES, FORMATS, GGUF, TRT_ENGINE, UNQUANTIZED, why_not
from qwenserve.worker.prepare.memory import fits, kv_bytes_per_token

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
MOE = {
    **CONFIG,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "moe_intermediate_size": 768,
    "tie_word_embeddings": False,
}


def directory(folder: Path, config: dict[str, object], **files: object) -> Path:
    folder.mkdir()
    for name, content in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_the_small_model():
    """Parameters are counted from the weights' headers, and the formula agrees with them."""
    model = describe(TINY)

    assert (model.architecture, model.kind, model.window) == ("Qwen3ForCausalLM", UNQUANTIZED, 8192)
    assert model.shape is not None
    assert model.parameters == model.shape.parameters == 7_869_696
    assert model.weight_bytes == (TINY / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("config", "billions"), [(CONFIG, 4.02), (MOE, 30.5)])
def test_parameters_of_published_shapes(tmp_path: Path, config: dict[str, object], billions: float):
    """The formula gives what Qwen publishes for 4B and 30B-A3B; a directory without weights says so."""
    model = describe(directory(tmp_path / "model", config))

    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert any("no weights" in note for note in model.notes)


@pytest.mark.parametrize(
    ("config", "files", "kind"),
    [
        ({}, {"hf_quant_config": {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}}, "FP8"),
        ({}, {"hf_quant_config": {"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 128}}}, "W4A16_AWQ"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, {}, "awq"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, {}, "FP8_BLOCK_SCALES"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, {}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, {}, "NVFP4"),
    ],
)
def test_quantized_checkpoints_are_recognised(
    tmp_path: Path, config: dict[str, object], files: dict[str, object], kind: str
):
    """Ready-made and ModelOpt checkpoints are known for what they are, and every engine says whether it loads them."""
    model = describe(directory(tmp_path / "model", {**CONFIG, **config}, **files))

    assert model.kind == kind
    assert all(why_not(kind, engine) == "" or len(why_not(kind, engine)) > 10 for engine in ENGINES)
    assert why_not(kind, "llamacpp") != ""


def test_a_tensorrt_engine_directory(tmp_path: Path):
    """An engine's directory tells what it was built from, and runs in TensorRT-LLM alone."""
    pretrained = {**CONFIG, "architecture": "Qwen3ForCausalLM", "head_size": 128, "mapping": {"tp_size": 2}}
    model = describe(directory(tmp_path / "engine", {"build_config": {}, "pretrained_config": pretrained}))

    assert (model.kind, why_not(model.kind, "trtllm")) == (TRT_ENGINE, "")
    assert "made for tensor parallel 2" in model.notes
    assert why_not(model.kind, "vllm") != ""


def test_gguf_files_are_known_by_their_metadata(tmp_path: Path):
    """A GGUF file tells architecture, shape and window."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(4)
    writer.add_feed_forward_length(16)
    writer.add_context_length(4096)
    writer.add_tensor("token_embd.weight", np.zeros((32, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = describe(tmp_path / "m.gguf")
    assert (model.kind, model.architecture, model.window) == (GGUF, "qwen3", 4096)
    assert model.shape is not None
    assert (model.shape.vocab, model.shape.kv_heads, model.shape.head_dim) == (32, 1, 4)


def test_kv_memory_shrinks_with_ranks_until_heads_run_out(tmp_path: Path):
    """8 KV heads are shared among up to 8 ranks; fp8 halves them."""
    shape = describe(directory(tmp_path / "model", CONFIG)).shape
    assert shape is not None

    assert kv_bytes_per_token(shape, "none") == 2 * 36 * 8 * 128 * 2
    assert [kv_bytes_per_token(shape, "none", tp) for tp in (2, 8)] == [2 * 36 * 4 * 256, 2 * 36 * 256]
    assert kv_bytes_per_token(shape, "fp8") * 2 == kv_bytes_per_token(shape, "none")


def test_cards_that_are_too_old_or_too_small_say_so(tmp_path: Path):
    """fp8 needs Ada or later, nvfp4 Blackwell; 30 B in bf16 does not fit 24 GiB."""
    fp8 = directory(tmp_path / "fp8", CONFIG, hf_quant_config={"quantization": {"quant_algo": "FP8"}})
    by_card = {fit.card.name: fit.why_not for fit in fits(describe(fp8), 1)}
    assert "compute capability" in by_card["A100 80 GB"]
    assert by_card["H100"] == ""
    moe = {fit.card.name: fit.why_not for fit in fits(describe(directory(tmp_path / "moe", MOE)), 1)}
    assert "too large by" in moe["L4"]
    assert moe["H100"] == ""
    assert FORMATS["nvfp4"].least_capability > max(card.capability for card in CARDS if card.name.startswith("H"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 7, struct.pack("<Q", 1 << 62), struct.pack("<Q", 4) + b"null", struct.pack("<Q", 2) + b"[]"],
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes):
    """A broken safetensors file is an error with its name, never a traceback or gigabytes of memory."""
    folder = directory(tmp_path / "model", CONFIG)
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(NotAModel, match=r"model\.safetensors is no safetensors file"):
        describe(folder)


@pytest.mark.parametrize(("name", "says"), [("nothing", "does not exist"), ("empty", "no config.json")])
def test_what_is_no_model(tmp_path: Path, name: str, says: str):
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotAModel, match=says):
        describe(tmp_path / name)


def test_the_hash_sees_every_byte(tmp_path: Path):
    """One changed byte of the weights, or another file name, is another model."""
    folder = directory(tmp_path / "model", CONFIG)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\0" * 1000)
    before = content_hash(folder)
    weights.write_bytes(b"\0" * 999 + b"\1")
    assert content_hash(folder) != before
    weights.write_bytes(b"\0" * 1000)
    assert content_hash(folder) == before
    weights.rename(folder / "other.safetensors")
    assert content_hash(folder) != before
