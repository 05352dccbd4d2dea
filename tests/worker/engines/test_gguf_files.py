"""Model files: what the conversion writes, what the import keeps, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import pytest

from qwenserve.worker.engine_interface import EngineError, Guide, GuideKind
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file, read_facts
from qwenserve.worker.engines.llamacpp.gguf_files.layout import Header, pack_array, pack_value, read_header
from tests.contract.engine_contract import GREEDY, driving
from tests.worker.engines.engines import exact_engine
from tests.worker.engines.model_directories import (
    CONTEXT,
    END,
    MERGED,
    OTHER_END,
    VOCAB,
    byte_chars,
    text_of,
    write_model,
)

KIND = gguf_package.GGUFValueType
PROMPT = list(range(100, 130))


def _foreign(prepared: Path, target: Path, **changes: bytes) -> Path:
    """Writes a GGUF as others make them: the plain vocabulary, none of our marks. `changes` replace values."""
    header = read_header(prepared)
    texts = header.texts("tokenizer.ggml.tokens")
    texts[: 256 + len(MERGED)] = [*byte_chars(), *MERGED]
    values = {k: v for k, v in header.values.items() if not k.startswith("qwenserve.")}
    values["tokenizer.ggml.tokens"] = pack_array(KIND.STRING, texts)
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    data = prepared.read_bytes()[header.data_start :]
    target.write_bytes(Header({k: v for k, v in values.items() if v}, header.tensors).pack() + data)
    return target


def test_the_file_describes_the_model(gguf: Path) -> None:
    facts = read_facts(gguf)
    assert (facts.name, facts.architecture, facts.context_length) == ("dense", "qwen3", CONTEXT)
    assert facts.vocab_size == VOCAB
    assert facts.end_token_ids == (END, OTHER_END)
    assert facts.prepared
    assert facts.kv_elements_per_token == 3 * 2 * 2 * 32
    # Bytes that are no characters, and the first two bytes of one that has three.
    assert facts.replaced_token_ids == (*range(128, 256), 256 + len(MERGED) - 1)


def test_every_replaced_text_is_a_character_of_its_own(gguf: Path) -> None:
    texts = read_header(gguf).texts("tokenizer.ggml.tokens")
    assert len(set(texts)) == VOCAB
    decode = {char: byte for byte, char in enumerate(byte_chars())}
    for token in read_facts(gguf).replaced_token_ids:
        assert 0xF0000 <= ord(bytes(decode[c] for c in texts[token]).decode("utf-8")) < 0xFFFFE


def test_another_reader_understands_the_file(gguf: Path, directory: Path) -> None:
    reader = gguf_package.GGUFReader(gguf)
    tensors = {t.name: t.data for t in reader.tensors}
    head_bytes = int.from_bytes((directory / "model.safetensors").read_bytes()[:8], "little")
    body = (directory / "model.safetensors").read_bytes()[8:]
    stored = {k: v for k, v in json.loads(body[:head_bytes]).items() if k != "__metadata__"}
    assert len(tensors) == len(stored)
    begin, end = stored["model.layers.2.mlp.down_proj.weight"]["data_offsets"]
    original = np.frombuffer(body[head_bytes + begin : head_bytes + end], "<f4")
    assert np.array_equal(tensors["blk.2.ffn_down.weight"].ravel(), original)


@pytest.mark.parametrize(
    ("weights", "error"),
    [(WeightType.F32, 0.0), (WeightType.F16, 1e-3), (WeightType.BF16, 5e-3), (WeightType.Q8_0, 5e-3)],
)
def test_number_formats(directory: Path, cache: Path, gguf: Path, weights: WeightType, error: float) -> None:
    def matrix(path: Path) -> Any:
        tensor = next(t for t in gguf_package.GGUFReader(path).tensors if t.name == "blk.0.ffn_up.weight")
        return gguf_package.dequantize(tensor.data, tensor.tensor_type)

    path = engine_file(directory, weights, cache)
    exact = matrix(gguf)
    assert np.max(np.abs(matrix(path) - exact)) <= error * np.max(np.abs(exact))
    assert weights is WeightType.F32 or path.stat().st_size < gguf.stat().st_size


def test_bf16_weights_are_kept_bit_for_bit(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", dtype="BF16")
    path = engine_file(directory, WeightType.BF16, tmp_path / "cache")
    tensor = next(t for t in gguf_package.GGUFReader(path).tensors if t.name == "token_embd.weight")
    assert bytes(tensor.data) in (directory / "model.safetensors").read_bytes()


def test_sharded_weights_give_the_same_file(directory: Path, gguf: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "dense"
    sharded.mkdir()
    for file in directory.iterdir():
        if file.name != "model.safetensors":
            (sharded / file.name).write_bytes(file.read_bytes())
    _split((directory / "model.safetensors").read_bytes(), sharded)
    assert engine_file(sharded, WeightType.F32, tmp_path / "cache").read_bytes() == gguf.read_bytes()
    (sharded / "part-2.safetensors").unlink()
    with pytest.raises(EngineError, match=r"part-2\.safetensors"):
        engine_file(sharded, WeightType.F32, tmp_path / "cache")


def _split(whole: bytes, target: Path) -> None:
    length = int.from_bytes(whole[:8], "little")
    entries = {k: v for k, v in json.loads(whole[8 : 8 + length]).items() if k != "__metadata__"}
    names = sorted(entries)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        head: dict[str, Any] = {}
        body = b""
        for name in part:
            begin, end = entries[name]["data_offsets"]
            head[name] = {**entries[name], "data_offsets": [len(body), len(body) + end - begin]}
            body += whole[8 + length + begin : 8 + length + end]
            index[name] = f"part-{number}.safetensors"
        raw = json.dumps(head).encode()
        (target / f"part-{number}.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_a_prepared_file_is_taken_as_it_is(gguf: Path, tmp_path: Path) -> None:
    assert engine_file(gguf, WeightType.Q8_0, tmp_path) == gguf
    assert list(tmp_path.iterdir()) == []


async def test_a_foreign_file_is_imported_once_and_answers_the_same(gguf: Path, tmp_path: Path) -> None:
    foreign = _foreign(gguf, tmp_path / "other.gguf")
    assert not read_facts(foreign).prepared
    with pytest.raises(EngineError, match="not been prepared"):
        await exact_engine(foreign).start(lambda chunks: None, lambda failure: None)
    imported = engine_file(foreign, WeightType.F32, tmp_path / "cache")
    facts = read_facts(imported)
    assert facts == read_facts(gguf)
    stamp = imported.stat().st_mtime_ns
    assert engine_file(foreign, WeightType.F32, tmp_path / "cache").stat().st_mtime_ns == stamp
    answers = []
    for path in (gguf, imported):
        async with driving(exact_engine(path)) as driver:
            answers.append((await driver.ask(PROMPT, GREEDY)).token_ids)
    assert answers[0] == answers[1]


async def test_guides_are_followed_in_the_texts_of_a_foreign_file(gguf: Path, directory: Path, tmp_path: Path) -> None:
    foreign = _foreign(gguf, tmp_path / "other.gguf")
    guide = Guide(GuideKind.REGEX, "[a-c]{2}(你|ä){3}[0-9]{3}")
    answers = []
    for model in (directory, foreign):
        async with driving(exact_engine(gguf, model=model)) as driver:
            answers.append((await driver.ask(PROMPT, GREEDY, guide=guide)).token_ids)
    assert answers[0] == answers[1]
    assert re.fullmatch(guide.text, text_of(answers[0]))
    async with driving(exact_engine(gguf, model=gguf)) as driver:
        assert driver.info.guide_kinds == frozenset()  # the texts in a prepared file are not the model's


async def test_the_self_check_finds_a_vocabulary_that_loses_ids(gguf: Path, tmp_path: Path) -> None:
    facts = read_facts(gguf)
    lying = _foreign(
        gguf,
        tmp_path / "lying.gguf",
        qwenserve__format=pack_value(KIND.UINT32, 1),
        qwenserve__replaced_token_ids=pack_array(KIND.UINT32, facts.replaced_token_ids),
    )
    with pytest.raises(EngineError, match="end inside a character"):
        await exact_engine(lying).start(lambda chunks: None, lambda failure: None)


def test_the_tensor_data_of_an_import_is_copied_byte_for_byte(gguf: Path, tmp_path: Path) -> None:
    foreign = _foreign(gguf, tmp_path / "other.gguf")
    imported = engine_file(foreign, WeightType.F32, tmp_path / "cache")
    before, after = read_header(foreign), read_header(imported)
    assert foreign.read_bytes()[before.data_start :] == imported.read_bytes()[after.data_start :]
    assert before.tensors == after.tensors
    untouched = before.values.keys() - {"tokenizer.ggml.tokens"}
    assert all(after.values[key] == before.values[key] for key in untouched)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split__count": pack_value(KIND.UINT16, 2)}, "split"),
        ({"tokenizer__ggml__model": pack_value(KIND.STRING, "llama")}, "not a Qwen3 model"),
        ({"tokenizer__ggml__token_type": b""}, "not a Qwen3 model"),
    ],
)
def test_foreign_files_that_cannot_be_imported(
    gguf: Path, tmp_path: Path, changes: dict[str, bytes], message: str
) -> None:
    foreign = _foreign(gguf, tmp_path / "other.gguf", **changes)
    with pytest.raises(EngineError, match=message):
        engine_file(foreign, WeightType.F32, tmp_path / "cache")


def _edit(path: Path, **changes: Any) -> None:
    value = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "unquantized"),
        ("config.json", {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "longrope"),
        ("config.json", {"vocab_size": 100}, "outside the model's vocabulary"),
        ("generation_config.json", {"eos_token_id": []}, "eos_token_id"),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}, "not a byte-level BPE"),
    ],
)
def test_directories_that_cannot_be_converted(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    directory = write_model(tmp_path / "model")
    _edit(directory / file, **changes)
    with pytest.raises(EngineError, match=message):
        engine_file(directory, WeightType.F32, tmp_path / "cache")


def test_a_directory_without_weights_or_without_a_config(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    with pytest.raises(EngineError, match=r"no .*weights"):
        engine_file(directory, WeightType.F32, tmp_path / "cache")
    with pytest.raises(EngineError, match="neither a GGUF file nor"):
        engine_file(tmp_path, WeightType.F32, tmp_path / "cache")


def test_broken_weights_are_named(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(EngineError, match="cut short"):
        engine_file(directory, WeightType.F32, tmp_path / "cache")
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(EngineError, match="not a readable safetensors"):
        engine_file(directory, WeightType.F32, tmp_path / "cache")
    weights.write_bytes(whole.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(EngineError, match="stored as I32"):
        engine_file(directory, WeightType.F32, tmp_path / "cache")


def test_yarn_scaling_is_passed_on(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    _edit(directory / "config.json", rope_scaling=scaling)
    header = read_header(engine_file(directory, WeightType.F32, tmp_path / "cache"))
    assert header.text("qwen3.rope.scaling.type") == "yarn"
    assert header.get("qwen3.rope.scaling.factor") == 4.0
    assert header.integer("qwen3.rope.scaling.original_context_length") == 512
