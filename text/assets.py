"""What the text side needs of a model, read from a Hugging Face directory or a GGUF file.

A GGUF file must be the one that was published: the copy that the embedded engine imports has its vocabulary
rewritten, and no text can be made with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers

from qwenserve.text.chat_template import ChatTemplate, TemplateError
from qwenserve.text.gguf_metadata import BrokenGguf, read_metadata
from qwenserve.text.gguf_tokenizer import UnknownVocabulary, tokenizer_from
from qwenserve.text.tokenizer import CACHE_BYTES, Tokenizer, UnsupportedTokenizer

# Sampling settings that a model's authors may recommend, by the names of `generation_config.json`.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
# The same in GGUF files.
_GGUF_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Where a tokenizer has no limit, `transformers` writes a number beyond any model.
_NO_LIMIT = 10**9


class AssetError(ValueError):
    """A model's files are missing, broken or of a kind that is not supported. The message names file and remedy."""


@dataclass(frozen=True)
class ModelAssets:
    """A model's text side.

    `max_model_len` is the context window in tokens, `eos_token_ids` end an answer, `generation_defaults` are the
    recommended sampling settings that the model comes with.
    """

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate
    eos_token_ids: frozenset[int]
    max_model_len: int
    generation_defaults: Mapping[str, float | int]


def load_assets(path: Path, *, cache_bytes: int = CACHE_BYTES) -> ModelAssets:
    """Reads a model's assets; the tokenizer may keep `cache_bytes` of ids of texts it has seen. Raises `AssetError`."""
    if path.is_dir():
        return _from_directory(path, cache_bytes)
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path, cache_bytes)
    if path.exists():
        raise AssetError(f"{path} is neither a model directory nor a .gguf file; give one of these")
    raise AssetError(f"{path} does not exist; give a Hugging Face model directory or a .gguf file")


def tokenizer_facts(assets: ModelAssets) -> dict[str, Any]:
    """Returns what `tokenizer.v1.TokenizerInfo` says of a model's files, by the message's fields."""
    tokenizer, template = assets.tokenizer, assets.template
    added = sorted(tokenizer.added_text.items())
    return {
        "vocab_size": tokenizer.vocab_size,
        "chat_template": template.source,
        "tool_chat_template": template.tool_source or "",
        "special_tokens": template.special_tokens,
        "eos_token_ids": sorted(assets.eos_token_ids),
        "added_tokens": [
            {"id": token_id, "content": content, "special": token_id in tokenizer.special_ids}
            for token_id, content in added
        ],
    }


def _from_directory(path: Path, cache_bytes: int) -> ModelAssets:
    file = path / "tokenizer.json"
    serialized = _read_bytes(file)
    try:
        backend = tokenizers.Tokenizer.from_buffer(serialized)
        tokenizer = Tokenizer(
            backend, cache_bytes=cache_bytes, reload=lambda: tokenizers.Tokenizer.from_file(str(file))
        )
        del backend
    except UnsupportedTokenizer as error:
        raise AssetError(f"{file}: {error}; use a model of the Qwen3 family") from error
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise AssetError(f"{file}: {error}; download the file again") from error
    settings = _read_json(path / "tokenizer_config.json")
    source, tool_source = _template_source(path, settings)
    config = _read_json(path / "config.json")
    generation = _read_json(path / "generation_config.json")
    return ModelAssets(
        name=path.resolve().name,
        tokenizer=tokenizer,
        template=_template(source, tool_source, _special_tokens(settings), path),
        eos_token_ids=_eos_of_directory(path, tokenizer, (generation, config), settings),
        max_model_len=_window_of_directory(path, config, settings),
        generation_defaults=_defaults(path, {key: generation.get(key) for key in _SAMPLING}),
    )


def _from_gguf(path: Path, cache_bytes: int) -> ModelAssets:
    try:
        metadata = read_metadata(path)
        tokenizer = Tokenizer(
            tokenizer_from(metadata),
            cache_bytes=cache_bytes,
            reload=lambda: tokenizer_from(read_metadata(path)),
        )
    except (BrokenGguf, OSError) as error:
        raise AssetError(f"{path} cannot be read as GGUF ({error}); download it again") from error
    except (UnknownVocabulary, UnsupportedTokenizer) as error:
        raise AssetError(f"{path}: {error}; use the model's Hugging Face directory instead") from error
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        raise AssetError(f"{path} has no chat template; use a file converted with one, or the model's directory")
    window = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if type(window) is not int or not 1 <= window < _NO_LIMIT:
        raise AssetError(f"{path} does not say its context length; convert the model again")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    named = {
        f"{name}_token": tokens[i]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if isinstance(i := metadata.get(f"tokenizer.ggml.{key}_token_id"), int) and i < len(tokens)
    }
    return ModelAssets(
        name=str(metadata.get("general.name") or path.stem),
        tokenizer=tokenizer,
        template=_template(source, None, named, path),
        eos_token_ids=_eos_of_gguf(path, tokenizer, metadata),
        max_model_len=window,
        generation_defaults=_defaults(path, {name: metadata.get(key) for key, name in _GGUF_SAMPLING.items()}),
    )


def _template_source(path: Path, settings: Mapping[str, Any]) -> tuple[str, str | None]:
    """The template and, where there is one, that for requests with tools. A file of its own goes first."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read_text(file), None
    given = settings.get("chat_template")
    if isinstance(given, str):
        return given, None
    if isinstance(given, list):
        by_name = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        default, with_tools = by_name.get("default"), by_name.get("tool_use")
        if isinstance(default, str):
            return default, with_tools if isinstance(with_tools, str) else None
    raise AssetError(f"{file} is missing, and tokenizer_config.json has no chat template; download the missing file")


def _template(source: str, tool_source: str | None, special: Mapping[str, str], path: Path) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens=special, tool_source=tool_source)
    except TemplateError as error:
        raise AssetError(f"{path}: the chat template does not compile ({error}); download it again") from error


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in _TOKEN_NAMES:
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            tokens[name] = content
    return tokens


def _eos_of_directory(
    path: Path, tokenizer: Tokenizer, configs: tuple[Mapping[str, Any], ...], settings: Mapping[str, Any]
) -> frozenset[int]:
    for config in configs:
        given = config.get("eos_token_id", _nested(config).get("eos_token_id"))
        ids = given if isinstance(given, list) else [given]
        if given is None or not ids:
            continue
        if not all(type(each) is int and each >= 0 for each in ids):
            raise AssetError(
                f"{path}: eos_token_id in generation_config.json or config.json must be token ids, got "
                f"{str(given)[:60]}; download both again"
            )
        return frozenset(ids)
    token = tokenizer.id_of(_special_tokens(settings).get("eos_token", ""))
    if token is None:
        raise AssetError(f"{path} names no end token; add eos_token_id to generation_config.json")
    return frozenset((token,))


def _eos_of_gguf(path: Path, tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> frozenset[int]:
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    found = {metadata[key] for key in keys if isinstance(metadata.get(key), int)}
    # A GGUF file names one end token only; every Qwen model's generation_config.json, which it lacks, has both.
    found |= {tokenizer.added_ids[token] for token in ("<|im_end|>", "<|endoftext|>") if token in tokenizer.added_ids}
    if not found:
        raise AssetError(f"{path} names no end token; convert the model again")
    return frozenset(found)


def _window_of_directory(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    name = "max_position_embeddings"
    for own in (config.get(name), _nested(config).get(name)):
        if own is None:
            continue
        if isinstance(own, bool) or not isinstance(own, (int, float)) or not 1 <= own < _NO_LIMIT:
            raise AssetError(
                f"{path / 'config.json'}: {name} must be a number from 1 to {_NO_LIMIT}, got {str(own)[:60]}; "
                "download it again"
            )
        return int(own)
    window = settings.get("model_max_length")
    if isinstance(window, (int, float)) and 1 <= window < _NO_LIMIT:
        return int(window)
    raise AssetError(f"{path / 'config.json'} is missing or has no {name}; download it again")


def _nested(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part about text, in models with more than text."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def sampling_setting(path: Path, name: str) -> str:
    """Returns the file and the field in which a model recommends a sampling setting, for messages to people."""
    if path.is_dir():
        return f"{path / 'generation_config.json'}: {name}"
    return f"{path}: {next(key for key, known in _GGUF_SAMPLING.items() if known == name)}"


def _defaults(path: Path, found: Mapping[str, Any]) -> Mapping[str, float | int]:
    values: dict[str, float | int] = {}
    for name, value in found.items():
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            raise AssetError(f"{sampling_setting(path, name)}: must be a number, got {value!r}; correct it there")
        values[name] = value
    return MappingProxyType(values)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise AssetError(f"{file} is missing; download the model's directory with all its small files") from None
    except OSError as error:
        raise AssetError(f"{file} cannot be read ({error}); check its permissions") from error


def _read_text(file: Path) -> str:
    try:
        return _read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise AssetError(f"{file} cannot be read ({error}); download it again") from error


def _read_json(file: Path) -> dict[str, Any]:
    """The file's object; empty where there is no such file, for each of them has a fallback."""
    if not file.exists():
        return {}
    try:
        value = json.loads(_read_text(file))
    except ValueError as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(f"{file} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise AssetError(f"{file} is not a JSON object; download it again")
    return value
