"""Writes the weighted mean of trained weights, which keeps what each run learned better than another.

python -m models.train_qwen3_tiny.mean OUT/model.safetensors A/model.safetensors=1 B/model.safetensors=3
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    target, *shares = sys.argv[1:]
    runs = [(load_file(path), float(share)) for path, share in (each.rsplit("=", 1) for each in shares)]
    total = sum(share for _, share in runs)
    mixed = {
        name: torch.stack([weights[name].float() * (share / total) for weights, share in runs]).sum(0).bfloat16()
        for name in runs[0][0]
    }
    save_file(mixed, str(Path(target)), metadata={"format": "pt"})


if __name__ == "__main__":
    main()
