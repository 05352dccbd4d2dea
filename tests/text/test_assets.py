from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest

from qwenserve.text.assets import AssetError, load_assets
from tests.fixtures.conversations import TEXTS
from tests.fixtures.full_tokenizer import TINY_MODEL, model_directories

SMALL_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the small model's text side, to break."""
    directory = tmp_path / "some-model"
    directory.mkdir()
    for name in SMALL_FILES:
        shutil.copy(TINY_MODEL / name, directory / name)
    return directory


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_directory(model):
    """Everything comes from the files beside the weights."""
    config = json.loads((model / "config.json").read_text())
    generation = json.loads((model / "generation_config.json").read_text())
    assets = load_assets(model)

    assert assets.name == "some-model"
    assert assets.max_model_len == config["max_position_embeddings"]
    assert assets.eos_token_ids == frozenset(generation["eos_token_id"])
    assert assets.generation_defaults["temperature"] == generation["temperature"]
    assert set(assets.generation_defaults) == {"temperature", "top_k", "top_p"}
    assert assets.template.source == (model / "chat_template.jinja").read_text()


def test_defaults_cannot_be_changed(model):
    """Assets are shared by all requests."""
    with pytest.raises(TypeError):
        load_assets(model).generation_defaults["temperature"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("given", "expected", "with_tools"),
    [
        ("{{ 1 }}", "1", "1"),
        ([{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": "{{ 2 }}"}], "1", "2"),
        ([{"name": "default", "template": "{{ 1 }}"}], "1", "1"),
    ],
)
def test_templates_in_the_configuration(model, given, expected, with_tools):
    """Older models carry the template in tokenizer_config.json, some of them several."""
    (model / "chat_template.jinja").unlink()
    edit(model / "tokenizer_config.json", chat_template=given)
    template = load_assets(model).template

    assert expected == template.render([{"role": "user", "content": "x"}])
    assert with_tools == template.render([{"role": "user", "content": "x"}], [{}])


def test_fallbacks(model):
    """Without generation_config.json the end token is config.json's, then the tokenizer's."""
    (model / "generation_config.json").unlink()
    config = json.loads((model / "config.json").read_text())
    assert load_assets(model).eos_token_ids == {config["eos_token_id"]}
    assert load_assets(model).generation_defaults == {}

    (model / "config.json").unlink()
    edit(model / "tokenizer_config.json", eos_token={"content": "<|im_end|>"}, model_max_length=777)
    assets = load_assets(model)
    assert assets.eos_token_ids == {assets.tokenizer.id_of("<|im_end|>")}
    assert assets.max_model_len == 777


def test_nested_text_configuration(model):
    """Models with more than text keep the window one level down."""
    edit(model / "config.json", max_position_embeddings=None, text_config={"max_position_embeddings": 99})

    assert load_assets(model).max_model_len == 99


def break_config(model: Path) -> None:
    edit(model / "tokenizer_config.json", model_max_length=10**30)
    (model / "config.json").unlink()


def break_end(model: Path) -> None:
    edit(model / "config.json", eos_token_id=None)
    edit(model / "tokenizer_config.json", eos_token=None)
    (model / "generation_config.json").unlink()


BREAKS = {
    "tokenizer.json is missing": lambda model: (model / "tokenizer.json").unlink(),
    "tokenizer.json: .*download the file again": lambda model: (model / "tokenizer.json").write_text("{}"),
    "chat_template.jinja is missing": lambda model: (model / "chat_template.jinja").unlink(),
    "does not compile": lambda model: (model / "chat_template.jinja").write_text("{% if %}"),
    "config.json is not valid JSON": lambda model: (model / "config.json").write_text("{"),
    "generation_config.json is not a JSON object": lambda model: (model / "generation_config.json").write_text("[]"),
    "chat_template.jinja cannot be read": lambda model: (model / "chat_template.jinja").write_bytes(b"\xff\xfe"),
    "no max_position_embeddings": break_config,
    "names no end token": break_end,
}


@pytest.mark.parametrize("message", BREAKS)
def test_broken_directories(model, message):
    """The error names the file and what to do."""
    BREAKS[message](model)

    with pytest.raises(AssetError, match=message) as caught:
        load_assets(model)
    assert str(model) in str(caught.value)


@pytest.mark.parametrize("value", [-1, 0, 10**30, float("inf"), float("nan"), True, "8", [], {}])
@pytest.mark.parametrize("nested", [False, True])
def test_absurd_windows_are_named(model, value, nested):
    """A window that is none is not made up for by another file's."""
    window = {"max_position_embeddings": value}
    edit(model / "config.json", **({"max_position_embeddings": None, "text_config": window} if nested else window))

    with pytest.raises(AssetError, match=r"config\.json: max_position_embeddings"):
        load_assets(model)


@pytest.mark.parametrize("value", [-1, "x", {}, True, [-1], [None], [[]], 1.5])
def test_absurd_end_ids_are_named(model, value):
    edit(model / "generation_config.json", eos_token_id=value)

    with pytest.raises(AssetError, match="eos_token_id"):
        load_assets(model)


@pytest.mark.parametrize("value", ["0.6", True, [], {}, float("nan"), float("inf")])
def test_recommended_sampling_that_is_no_number_is_named(model, value):
    edit(model / "generation_config.json", temperature=value)

    with pytest.raises(AssetError, match=r"generation_config\.json: temperature: must be a number"):
        load_assets(model)


@pytest.mark.parametrize("nested", [None, [], "x", 3])
def test_an_odd_nested_configuration_is_none(model, nested):
    edit(model / "config.json", text_config=nested)

    assert load_assets(model).max_model_len > 0


def test_paths_that_are_no_model(tmp_path):
    """Neither missing paths nor other files load."""
    other = tmp_path / "weights.bin"
    other.write_bytes(b"x")

    with pytest.raises(AssetError, match="does not exist"):
        load_assets(tmp_path / "nowhere")
    with pytest.raises(AssetError, match="neither"):
        load_assets(other)


def write_gguf(path: Path, source: Path, *, padding: int = 3, pre: str = "qwen2", template: bool = True) -> None:
    """A GGUF file with the vocabulary of a model directory and no weights."""
    description = json.loads((source / "tokenizer.json").read_text())
    added = {token["id"]: token for token in description["added_tokens"]}
    tokens = {i: token for token, i in description["model"]["vocab"].items()} | {
        i: token["content"] for i, token in added.items()
    }
    count = max(tokens) + 1
    kinds = [
        (gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED)
        if i in added
        else gguf.TokenType.NORMAL
        for i in range(count)
    ]
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("Some Qwen3")
    writer.add_context_length(4096)
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens[i] for i in range(count)] + [f"[PAD{count + n}]" for n in range(padding)])
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * padding)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(next(i for i, token in tokens.items() if token == "<|im_end|>"))
    if template:
        writer.add_chat_template((source / "chat_template.jinja").read_text())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


@pytest.mark.parametrize("source", model_directories(), ids=lambda path: path.name)
def test_a_gguf_file_gives_the_same_ids(tmp_path, source):
    """The tokenizer rebuilt from metadata agrees with the directory's in every id, byte and kind."""
    write_gguf(tmp_path / "model.gguf", source)
    directory, file = load_assets(source), load_assets(tmp_path / "model.gguf")

    for text in (*TEXTS, "".join(TEXTS), directory.template.source):
        assert directory.tokenizer.encode(text) == file.tokenizer.encode(text)
    assert directory.tokenizer.added_ids == file.tokenizer.added_ids
    assert directory.tokenizer.special_ids == file.tokenizer.special_ids
    assert directory.tokenizer.vocab_size == file.tokenizer.vocab_size
    assert all(
        directory.tokenizer.token_bytes(i) == file.tokenizer.token_bytes(i)
        for i in range(0, directory.tokenizer.vocab_size, 7)
    )


def test_what_a_gguf_file_says(tmp_path):
    """Name, window, end tokens, defaults and template come from the metadata."""
    write_gguf(tmp_path / "model.gguf", TINY_MODEL)
    assets = load_assets(tmp_path / "model.gguf")

    assert assets.name == "Some Qwen3"
    assert assets.max_model_len == 4096
    assert assets.eos_token_ids == {assets.tokenizer.added_ids[t] for t in ("<|im_end|>", "<|endoftext|>")}
    assert assets.generation_defaults == {"temperature": 0.5}
    assert assets.template.source == (TINY_MODEL / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pre": "llama-bpe"}, "'llama-bpe' is not supported"), ({"template": False}, "no chat template")],
)
def test_gguf_files_of_other_kinds(tmp_path, options, message):
    """What cannot be rebuilt faithfully is refused, with the way out."""
    write_gguf(tmp_path / "model.gguf", TINY_MODEL, **options)

    with pytest.raises(AssetError, match=message):
        load_assets(tmp_path / "model.gguf")


@pytest.mark.parametrize("keep", [0, 3, 10, 30, 1_000, -200])
def test_gguf_files_that_are_cut_short(tmp_path, keep):
    """A download that stopped is an error that says so, wherever it stopped."""
    write_gguf(tmp_path / "model.gguf", TINY_MODEL)
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[:keep])

    with pytest.raises(AssetError, match="download it again"):
        load_assets(tmp_path / "model.gguf")
