"""NVIDIA ModelOpt: calibrates a transformers model and exports it as a Hugging Face checkpoint.

Tried with 0.47.0, torch 2.13.0 and transformers 5.24.0 on a CPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwenserve.worker.prepare.formats import FORMATS
from qwenserve.worker.prepare.quantize_plan import MODELOPT_VERSIONS, CannotQuantize, QuantizeOptions
from qwenserve.worker.prepare.texts import CALIBRATION, BadTexts, Text, read_texts

_PACKAGES = {"torch": "torch", "transformers": "transformers", "modelopt": "nvidia-modelopt", "requests": "requests"}


def missing_packages() -> str:
    """Returns what to install where packages are missing; empty where all are here. Imports none of them."""
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if not missing:
        return ""
    return (
        f"{', '.join(missing)} not installed: `pip install 'qwenserve[quantize]'` (nvidia-modelopt{MODELOPT_VERSIONS})"
    )


class ModelOpt:
    """ModelOpt as `quantize.Backend`. Importing it takes seconds, so it is imported by what needs it."""

    def versions(self) -> Mapping[str, str]:
        """Returns the versions of ModelOpt, torch and transformers. Raises CannotQuantize where one is missing."""
        try:
            return {name: version(name) for name in ("nvidia-modelopt", "torch", "transformers")}
        except PackageNotFoundError:
            raise CannotQuantize(missing_packages()) from None

    def calibrate(self, source: Path, options: QuantizeOptions, state: Path, tell: Callable[[str], None]) -> None:
        """Runs the calibration texts through the model, one at a time. Raises CannotQuantize."""
        import torch

        texts = calibration_texts(source, options)
        quantization, states = _modelopt()
        model = _load(source, options.device)

        def forward(model: Any) -> None:
            with torch.no_grad():
                for number, text in enumerate(texts, 1):
                    model(torch.tensor([text.token_ids], device=options.device))
                    if number % 16 == 0 or number == len(texts):
                        tell(f"      {number} of {len(texts)} texts")

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = quantization.quantize(model, _configuration(quantization, options), forward)
            states.save(model, state)

    def export(
        self, source: Path, options: QuantizeOptions, state: Path, folder: Path, tell: Callable[[str], None]
    ) -> None:
        """Writes the checkpoint from the stored state."""
        import torch

        _, states = _modelopt()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from modelopt.torch.export import export_hf_checkpoint

            # Where it was calibrated: nvfp4 wants its maxima on the GPU.
            model = states.restore(_load(source, options.device), state)
            with torch.inference_mode():
                export_hf_checkpoint(model, export_dir=folder)


def calibration_texts(source: Path, options: QuantizeOptions) -> list[Text]:
    """Returns the texts in ids of the model's tokenizer. Raises CannotQuantize."""
    from tokenizers import Tokenizer

    file = source / "tokenizer.json"
    if not file.exists():
        raise CannotQuantize(f"{source} has no tokenizer.json, which calibration needs")
    tokenizer = Tokenizer.from_file(str(file))
    try:
        return read_texts(
            Path(options.calibration) if options.calibration else CALIBRATION,
            lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            lambda messages: _rendered(source, messages),
            limit=options.samples,
            max_tokens=options.max_tokens,
        )
    except BadTexts as error:
        raise CannotQuantize(str(error)) from None


def _rendered(source: Path, messages: Sequence[Any]) -> str:
    from transformers import AutoTokenizer

    try:
        return str(AutoTokenizer.from_pretrained(source).apply_chat_template(list(messages), tokenize=False))
    except Exception as error:
        # A template raises what it likes for messages that it does not take.
        raise BadTexts(f"the model's chat template refuses {str(messages)[:80]}: {error}") from None


def _modelopt() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.opt as states
        import modelopt.torch.quantization as quantization
    return quantization, states


def _load(source: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    return model.to(device).eval()


def _configuration(quantization: Any, options: QuantizeOptions) -> Any:
    made = copy.deepcopy(getattr(quantization, FORMATS[options.format].modelopt))
    if options.format == "int4_awq":
        for entry in made["quant_cfg"]:
            if "block_sizes" in (entry.get("cfg") or {}):
                entry["cfg"]["block_sizes"] = {-1: options.block, "type": "static"}
    if options.kv == "fp8":
        made["quant_cfg"] = [*made["quant_cfg"], *quantization.FP8_KV_CFG["quant_cfg"]]
    return made
