"""The model that a router serves: text assets, names, limits, sampling defaults."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwenserve.chat.v1 import chat_pb2
from qwenserve.runtime.config import Config, SamplingDefaults
from qwenserve.runtime.errors import ModelNotFound
from qwenserve.runtime.model_fingerprint import ModelFingerprint, fingerprint_of
from qwenserve.runtime.sampling_ranges import NEUTRAL, RANGES
from qwenserve.text.assets import AssetError, ModelAssets, load_assets, sampling_setting
from qwenserve.type.v1 import sampling_pb2, task_pb2


@dataclass(frozen=True)
class ServedModel:
    """One model. `max_model_len` is what assets and configuration allow; a worker may allow less."""

    name: str
    assets: ModelAssets
    max_model_len: int
    fingerprint: ModelFingerprint
    enable_thinking: bool
    thinking_defaults: sampling_pb2.SamplingParams
    non_thinking_defaults: sampling_pb2.SamplingParams
    # Whether earlier answers keep their thoughts, for requests that do not say.
    prefix_stable: bool = False
    # Further names that requests may use.
    aliases: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def load(cls, path: Path, config: Config) -> ServedModel:
        """Reads tokenizer and template from a model directory or GGUF file. Raises text.assets.AssetError."""
        assets = load_assets(path, cache_bytes=config.router.token_cache_bytes)
        limit = assets.max_model_len
        if config.model.max_model_len:
            limit = min(limit, config.model.max_model_len) if limit else config.model.max_model_len
        published = assets.generation_defaults
        _check_published(published, path)
        thinks = assets.template.supports_thinking
        return cls(
            name=config.model_name,
            aliases=config.model_names[1:],
            assets=assets,
            max_model_len=limit,
            fingerprint=fingerprint_of(path),
            enable_thinking=config.model.enable_thinking,
            prefix_stable=config.template.prefix_stable,
            thinking_defaults=_defaults(published, config.model.thinking_defaults),
            # A model that never thinks publishes its own values; the ones configured for "not thinking" are for
            # models that can do both.
            non_thinking_defaults=_defaults(published, config.model.non_thinking_defaults if thinks else None),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that requests may use; the first one is that in answers."""
        return (self.name, *self.aliases)

    def check_name(self, name: str) -> str:
        """Returns a name given in any case as it is configured, the first for an empty one. Raises ModelNotFound."""
        if not name or name == self.name:
            return self.name
        for known in self.names:
            if known.lower() == name.lower():
                return known
        raise ModelNotFound(
            f"model {name!r} does not exist; this deployment serves {self.name!r}",
            param="model",
            metadata={"served": self.name},
        )

    def defaults(self, thinking: bool) -> sampling_pb2.SamplingParams:
        """Sampling defaults of an answer that thinks or does not."""
        return self.thinking_defaults if thinking else self.non_thinking_defaults

    def describe(self, name: str, *, max_model_len: int, ready_workers: int, simulated: bool) -> chat_pb2.Model:
        """Returns the public description, under one of the model's names."""
        return chat_pb2.Model(
            name=name,
            created=self.created,
            max_model_len=max_model_len,
            vocab_size=self.assets.tokenizer.vocab_size,
            supports_thinking=self.assets.template.supports_thinking,
            tool_call_format=self.assets.template.tool_call_format,
            thinking_defaults=self.thinking_defaults,
            non_thinking_defaults=self.non_thinking_defaults,
            ready_workers=ready_workers,
            simulated=simulated,
            task_kinds=[task_pb2.TASK_KIND_GENERATE],
        )


def _check_published(published: Mapping[str, float | int], path: Path) -> None:
    """Raises AssetError for a value out of range: it would fail every request that does not set the field itself."""
    for name, value in published.items():
        whole = isinstance(NEUTRAL[name], int)
        if (whole and value != int(value)) or not RANGES[name].holds(value):
            kind = "a whole number" if whole else "a number"
            raise AssetError(
                f"{sampling_setting(path, name)}: must be {kind}, {RANGES[name]}, got {value}; correct it there"
            )


def _defaults(published: Mapping[str, float | int], configured: SamplingDefaults | None) -> sampling_pb2.SamplingParams:
    values = dict(NEUTRAL)
    values.update({name: type(NEUTRAL[name])(value) for name, value in published.items()})
    if configured is not None:
        values.update(configured.model_dump(exclude_none=True))
    return sampling_pb2.SamplingParams(**values)  # type: ignore[arg-type]
