"""Estimates, before anything is loaded, how much GPU memory a model takes and what is left for the KV cache."""

from __future__ import annotations

import math
from typing import NamedTuple

from qwenserve.worker.prepare.describe import Description, Shape
from qwenserve.worker.prepare.formats import CARDS, KV_FORMATS, Card, least_capability

# Of a card's memory, what weights and KV cache may take; the rest is the engine's own and its activations'.
_USABLE = 0.9
_OVERHEAD_GIB = 1.0
PARALLEL = (1, 2, 4, 8)


class Fit(NamedTuple):
    """How a model fits a card at some tensor parallelism: tokens of KV cache beside the weights, or why not."""

    card: Card
    parallel: int
    kv_tokens: int
    why_not: str


def kv_bytes_per_token(shape: Shape, kv_cache: str, parallel: int = 1) -> int:
    """Returns the bytes of one token's keys and values on one rank. Fewer KV heads than ranks are repeated on each."""
    bits = KV_FORMATS.get(kv_cache, KV_FORMATS["none"])[0]
    return 2 * shape.layers * math.ceil(shape.kv_heads / parallel) * shape.head_dim * bits // 8


def weight_bytes(model: Description) -> int:
    """Returns the bytes of the weights: those on disk, or 16 bits a parameter where there are none."""
    return model.weight_bytes or 2 * model.parameters


def fits(model: Description, parallel: int, cards: tuple[Card, ...] = CARDS) -> list[Fit]:
    """Returns how a model fits each card."""
    return [_fit(model, card, parallel) for card in cards]


def _fit(model: Description, card: Card, parallel: int) -> Fit:
    needed = max(least_capability(model.kind), KV_FORMATS.get(model.kv_cache, KV_FORMATS["none"])[1])
    if card.capability < needed:
        return Fit(card, parallel, 0, f"needs compute capability {needed:g}, the card has {card.capability:g}")
    if model.shape is None:
        return Fit(card, parallel, 0, "the configuration does not tell the model's shape")
    if model.shape.heads % parallel:
        return Fit(card, parallel, 0, f"{model.shape.heads} heads cannot be shared among {parallel} cards")
    room = (card.memory_gib * _USABLE - _OVERHEAD_GIB) * 2**30 - weight_bytes(model) / parallel
    tokens = max(0, int(room // kv_bytes_per_token(model.shape, model.kv_cache, parallel)))
    if tokens < 1024:
        short = (1024 * kv_bytes_per_token(model.shape, model.kv_cache, parallel) - room) / 2**30
        return Fit(card, parallel, tokens, f"too large by {short:.1f} GiB")
    return Fit(card, parallel, tokens, "")
