"""Orthogonalised momentum (Muon) for the matrices, AdamW for embeddings and norms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonal(stack: Tensor) -> Tensor:
    """The nearest orthogonal matrices to `stack` [n, rows, columns], roughly, by a matrix iteration in bf16."""
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in _COEFFICIENTS:
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class Muon:
    """Keeps one momentum buffer per group of equally shaped matrices and updates each group at once."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float = 0.95, decay: float = 0.02) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            groups[parameter.shape].append(parameter)
        self._groups = list(groups.values())
        self._buffers = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self._groups]
        self._momentum, self._decay = momentum, decay

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def step(self, rate: float) -> None:
        for group, buffer in zip(self._groups, self._buffers, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            buffer.lerp_(gradient, 1 - self._momentum)
            update = orthogonal(gradient.lerp(buffer, self._momentum))
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            weights: list[Tensor] = [parameter.data for parameter in group]
            torch._foreach_mul_(weights, 1 - rate * self._decay)
            torch._foreach_add_(weights, [each.float() for each in update], alpha=-rate * scale)
