"""A checkpoint's files, dequantized into transformers and asked on a CPU: no engine, and nothing kept in memory by
whoever made it.

Weights become float32. Where the files have scales of activations, each layer's input is rounded as an engine would
round it. An fp8 KV cache is not imitated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenserve.worker.prepare.compare import TOP, CannotCheck, Measured, Position, Spoken
from qwenserve.worker.prepare.describe import Description, NotAModel, describe
from qwenserve.worker.prepare.formats import UNQUANTIZED
from qwenserve.worker.prepare.texts import Text

_GIB = 2**30
_FP8_MOST, _INT8_MOST = 448.0, 127.0
_SCALES = ("weight_scale", "weight_scale_inv", "input_scale", "pre_quant_scale", "k_scale", "v_scale")
KINDS = (UNQUANTIZED, "FP8", "FP8_BLOCK_SCALES", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ")


def checkable(path: Path, free_memory: int) -> Description:
    """Returns what a directory is. Raises CannotCheck where its files cannot be dequantized here."""
    try:
        model = describe(path)
    except NotAModel as error:
        raise CannotCheck(str(error)) from None
    if model.kind not in KINDS:
        raise CannotCheck(
            f"{path} ({model.kind}) is not dequantized here; start workers for both and compare their addresses"
        )
    needed = 4 * model.parameters * 3 // 2
    if needed > free_memory:
        raise CannotCheck(
            f"{path} needs about {needed / _GIB:.1f} GiB in float32, and {free_memory / _GIB:.1f} GiB are free; start "
            "workers for both and compare their addresses"
        )
    return model


def measure_checkpoint(model: Description, texts: Sequence[Text], greedy: int, tell: Callable[[str], None]) -> Measured:
    """Returns what a checkpoint says of the texts. Raises CannotCheck."""
    import torch

    network, notes = load(model)
    spoken: list[Spoken] = []
    seconds = 0.0
    with torch.inference_mode():
        for number, text in enumerate(texts, 1):
            logits = network(torch.tensor([text.token_ids])).logits[0, :-1].float()
            logprobs = logits.log_softmax(-1)
            top = logprobs.topk(min(TOP, logprobs.shape[-1]), dim=-1)
            positions = [
                Position(float(logprobs[place, token_id]), tuple(zip(ids, values, strict=True)))
                for place, (token_id, ids, values) in enumerate(
                    zip(text.token_ids[1:], top.indices.tolist(), top.values.tolist(), strict=True)
                )
            ]
            start = time.perf_counter()
            ids = _greedy(network, text.token_ids[: text.prompt_tokens], greedy)
            seconds += time.perf_counter() - start
            spoken.append(Spoken(positions, ids))
            if number % 8 == 0 or number == len(texts):
                tell(f"{model.path}: {number} of {len(texts)} texts")
    return Measured(model.path, spoken, seconds, model.weight_bytes, notes)


def load(model: Description) -> tuple[Any, tuple[str, ...]]:
    """Returns a transformers model in float32 with a checkpoint's weights, and what is not as an engine has it."""
    import torch
    import transformers
    from safetensors.torch import load_file

    path = Path(model.path)
    kind: Any = getattr(transformers, model.architecture, None)
    if kind is None:
        raise CannotCheck(f"{path}: transformers {transformers.__version__} has no {model.architecture}")
    stored: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        stored.update(load_file(file))
    config = transformers.AutoConfig.from_pretrained(path)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    loaded: Any = kind.from_pretrained(
        None, config=config, state_dict=dequantized(stored), dtype=torch.float32, local_files_only=True
    )
    notes = ("no activation is rounded: its format rounds them by their size",) * (model.kind == "FP8_BLOCK_SCALES")
    notes += (f"an {model.kv_cache} KV cache is not imitated",) * (model.kv_cache != "none")
    rounded = _round_inputs(loaded, stored, model.kind)
    expected = sum(name.endswith(".input_scale") for name in stored)
    if rounded != expected:
        notes += (f"the inputs of {expected - rounded} of {expected} layers are not rounded",)
    return loaded.eval(), notes


def dequantized(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights in float32, by their layout: one scale, one a row, one a block of a row, or square blocks.
    A scale of a layer's inputs is multiplied into its weights."""
    import torch

    weights: dict[str, Any] = {}
    scale: Any
    inverse: Any
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part in _SCALES:
            continue
        scale, inverse = stored.get(f"{layer}.weight_scale"), stored.get(f"{layer}.weight_scale_inv")
        if part != "weight" or (scale is None and inverse is None):
            weights[name] = tensor.float()
            continue
        values = unpacked_int4(tensor) if tensor.dtype == torch.uint8 else tensor.float()
        if inverse is not None:
            rows, columns = (-(-size // 128) for size in values.shape)
            if tuple(inverse.shape) != (rows, columns):
                raise CannotCheck(f"{name}: blocks of 128 × 128 are known, and its scales are {tuple(inverse.shape)}")
            grid = inverse.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
            values = values * grid[: values.shape[0], : values.shape[1]]
        elif scale.dim() == 2:
            values = values * scale.float().repeat_interleave(values.shape[1] // scale.shape[1], 1)
        else:
            values = values * (scale.float()[:, None] if scale.dim() == 1 else scale.float())
        before = stored.get(f"{layer}.pre_quant_scale")
        weights[name] = values * before.float() if before is not None else values
    return weights


def unpacked_int4(packed: Any) -> Any:
    """Returns signed 4-bit values as float32: a byte holds two rows, the lower half the first."""
    import torch

    values = packed.to(torch.int16)
    low, high = values & 15, values >> 4
    rows = torch.stack((low, high), 1).reshape(-1, packed.shape[1])
    return torch.where(rows > 7, rows - 16, rows).float()


def _round_inputs(network: Any, stored: Mapping[str, Any], kind: str) -> int:
    import torch

    count = 0
    for name, module in network.named_modules():
        scale = stored.get(f"{name}.input_scale")
        if scale is None or not isinstance(module, torch.nn.Linear):
            continue
        before = stored.get(f"{name}.pre_quant_scale")
        module.register_forward_pre_hook(
            _rounding(scale.float(), None if before is None else before.float(), kind == "FP8")
        )
        count += 1
    return count


def _rounding(scale: Any, before: Any, fp8: bool) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    import torch

    def hook(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0] if before is None else inputs[0] * before
        values = values / scale
        if fp8:
            values = values.clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn).float()
        else:
            values = values.round().clamp(-_INT8_MOST - 1, _INT8_MOST)
        values = values * scale
        return (values if before is None else values / before, *inputs[1:])

    return hook


def _greedy(network: Any, prompt: Sequence[int], count: int) -> list[int]:
    import torch

    if count == 0:
        return []
    ids = torch.tensor([prompt])
    # End tokens are ids like others here: a worker is asked to pass over them too.
    network.generation_config.eos_token_id = None
    whole = network.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    found: list[int] = whole[0, len(prompt) :].tolist()
    return found
