"""The Qwen3 network in plain PyTorch: packed documents for training, a key-value cache for evaluation.

Parameter names are those of the Hugging Face checkpoint without the leading `model.`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn


class Shape(NamedTuple):
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    theta: float
    epsilon: float
    context: int

    @classmethod
    def read(cls, folder: Path) -> Shape:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(
            config["vocab_size"],
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            config["intermediate_size"],
            float(config["rope_theta"]),
            config["rms_norm_eps"],
            config["max_position_embeddings"],
        )


class Packed(NamedTuple):
    """Documents end to end: `bounds` are their starts and the end (int32), `longest` bounds their length."""

    positions: Tensor
    bounds: Tensor
    longest: int


class Cache(NamedTuple):
    """Keys and values [layer][row, head, position, size] and how many positions of each row are filled."""

    keys: list[Tensor]
    values: list[Tensor]


class Norm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return (self.weight.float() * wide).to(x.dtype)


def rotary(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [position, head / 2]."""
    steps = torch.arange(0, shape.head, 2, device=device, dtype=torch.float32) / shape.head
    angles = torch.outer(torch.arange(shape.context, device=device, dtype=torch.float32), shape.theta**-steps)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [..., head] turned by the angles [..., head / 2]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
    """Causal attention inside each document; q [tokens, heads, size], k and v with fewer heads."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = packed.bounds, packed.longest
        out: Tensor = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0))
        return out
    parts = []
    cuts = packed.bounds.tolist()
    for start, end in itertools.pairwise(cuts):
        if end > start:
            one = (part[start:end].transpose(0, 1)[None] for part in (q, k, v))
            parts.append(F.scaled_dot_product_attention(*one, is_causal=True)[0].transpose(0, 1))
    return torch.cat(parts)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)
        self.q_norm = Norm(shape.head, shape.epsilon)
        self.k_norm = Norm(shape.head, shape.epsilon)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [..., heads, size], rotated."""
        size = self.shape.head
        q = self.q_norm(self.q_proj(x).unflatten(-1, (-1, size)))
        k = self.k_norm(self.k_proj(x).unflatten(-1, (-1, size)))
        v = self.v_proj(x).unflatten(-1, (-1, size))
        return rotated(q, cos.unsqueeze(-2), sin.unsqueeze(-2)), rotated(k, cos.unsqueeze(-2), sin.unsqueeze(-2)), v

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, packed: Packed) -> Tensor:
        q, k, v = self.project(x, cos, sin)
        out: Tensor = self.o_proj(_packed_attention(q, k, v.to(q.dtype), packed).flatten(-2))
        return out


class Inner(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)
        self.mlp = Inner(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, packed: Packed) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, packed)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)
        cos, sin = rotary(shape, torch.device("cpu"))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def start(self) -> None:
        """Random weights: small embeddings, residual branches starting near zero."""
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and "proj" in name:
                scale = 0.1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)

    def forward(self, ids: Tensor, packed: Packed) -> Tensor:
        """Final hidden states [tokens, hidden] of packed documents."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[packed.positions], self.sin[packed.positions]
        for layer in self.layers:
            x = layer(x, cos, sin, packed)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed_tokens.weight)

    def save(self, folder: Path) -> None:
        """bf16 safetensors under the names that Hugging Face uses; the head is tied and not stored."""
        from safetensors.torch import save_file

        stored = {
            f"model.{name}": value.detach().to(torch.bfloat16).cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        save_file(stored, str(folder / "model.safetensors"), metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Network:
        """The stored weights in float32."""
        from safetensors.torch import load_file

        network = cls(Shape.read(folder))
        stored = load_file(str(folder / "model.safetensors"))
        network.load_state_dict({name.removeprefix("model."): value.float() for name, value in stored.items()})
        network.to(device).eval()
        return network


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def generate(
    network: Network, prompts: Sequence[Sequence[int]], new_tokens: int, stop: Sequence[int]
) -> list[list[int]]:
    """Greedy replies to prompts of any lengths, without their stop tokens; all rows share one padded cache."""
    device = network.embed_tokens.weight.device
    dtype = network.embed_tokens.weight.dtype
    shape, rows = network.shape, len(prompts)
    width = max(map(len, prompts)) + new_tokens
    cache = [
        torch.zeros(2, rows, shape.kv_heads, width, shape.head, device=device, dtype=dtype) for _ in network.layers
    ]
    states = torch.stack([_prefill(network, list(prompt), cache, row) for row, prompt in enumerate(prompts)])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    out: list[list[int]] = [[] for _ in prompts]
    alive = [True] * rows
    everyone = torch.arange(rows, device=device)
    for _ in range(new_tokens):
        chosen = network.logits(states).argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            alive[row] = alive[row] and token not in stop
            if alive[row]:
                out[row].append(token)
        if not any(alive):
            break
        states = _step(network, chosen, lengths, cache, everyone)
        lengths = lengths + 1
    return out


def _prefill(network: Network, prompt: list[int], cache: list[Tensor], row: int) -> Tensor:
    """Fills one row of the cache and returns the last hidden state."""
    device = network.embed_tokens.weight.device
    x = network.embed_tokens(torch.tensor(prompt, device=device))
    n = len(prompt)
    cos, sin = network.cos[:n], network.sin[:n]
    group = network.shape.heads // network.shape.kv_heads
    for layer, kept in zip(network.layers, cache, strict=True):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
        kept[0, row, :, :n], kept[1, row, :, :n] = k.transpose(0, 1), v.transpose(0, 1)
        keys, values = (part.repeat_interleave(group, 1).transpose(0, 1)[None] for part in (k, v))
        mixed = F.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, is_causal=True)
        x = x + layer.self_attn.o_proj(mixed[0].transpose(0, 1).flatten(-2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    out: Tensor = network.norm(x[-1])
    return out


def _step(network: Network, tokens: Tensor, lengths: Tensor, cache: list[Tensor], everyone: Tensor) -> Tensor:
    """One token for every row, each at its own position."""
    x = network.embed_tokens(tokens)
    cos, sin = network.cos[lengths], network.sin[lengths]
    group = network.shape.heads // network.shape.kv_heads
    longest = int(lengths.max()) + 1
    seen = torch.arange(longest, device=x.device)[None] <= lengths[:, None]
    for layer, kept in zip(network.layers, cache, strict=True):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
        kept[0][everyone, :, lengths], kept[1][everyone, :, lengths] = k, v
        # Query heads that share a key-value head are rows of one product, so that the cache is never copied.
        grouped = q.unflatten(1, (-1, group))
        scores = grouped @ kept[0][:, :, :longest].transpose(-1, -2) * network.shape.head**-0.5
        shares = scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
        mixed = shares @ kept[1][:, :, :longest]
        x = x + layer.self_attn.o_proj(mixed.flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    out: Tensor = network.norm(x)
    return out
