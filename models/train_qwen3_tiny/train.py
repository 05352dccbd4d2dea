"""Trains the small model from generated conversations.

python -m models.train_qwen3_tiny.train models/qwen3-tiny OUT

On several GPUs: torchrun --nproc-per-node N -m models.train_qwen3_tiny.train models/qwen3-tiny OUT
A step is made of `--shares` shares with a stream of conversations each. One process computes all of them in turn; N
processes divide them, so the number of GPUs changes only how long it takes and the order of sums.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, distributed

from models.train_qwen3_tiny.chat import Weight
from models.train_qwen3_tiny.mixture import plan
from models.train_qwen3_tiny.network import Network, Packed, Shape
from models.train_qwen3_tiny.optimizer import Muon
from models.train_qwen3_tiny.packing import Batch, Packer
from models.train_qwen3_tiny.stream import Stream

# Context counts more at first, because copying is learned from it, and little later.
CONTEXT_WEIGHT = (0.1, 0.02)
EARLIER_WEIGHT = 0.7
STEPS = 18500


class Schedule(NamedTuple):
    """Learning rates over the steps: a short rise, a plateau, a straight fall to nearly zero."""

    steps: int
    fall_from: float = 0.5
    rise: int = 100

    def factor(self, step: int) -> float:
        done = step / self.steps
        falling = 1.0 if done < self.fall_from else (1 - done) / (1 - self.fall_from)
        return min(1.0, (step + 1) / self.rise) * max(0.01, falling)


class OnDevice(NamedTuple):
    ids: Tensor
    targets: Tensor
    weights: Tensor
    answers: Tensor
    packed: Packed


def to_device(batch: Batch, context: float, device: torch.device) -> OnDevice:
    """Moves a batch and derives positions, targets and loss weights there."""

    def moved(array: Any, kind: torch.dtype) -> Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True).to(kind)

    ids, bounds = moved(batch.ids, torch.long), moved(batch.bounds, torch.int32)
    places = torch.arange(len(ids), device=device, dtype=torch.int32)
    owner = torch.searchsorted(bounds, places, right=True) - 1
    # The last document that starts at a place owns it; padding bounds all equal the end and own nothing.
    positions = (places - bounds[owner]).long()
    table = torch.tensor([0.0, context, EARLIER_WEIGHT, 1.0], device=device)
    classes = moved(batch.weights, torch.long)
    targets = torch.cat((ids[1:], ids[:1]))
    next_class = torch.cat((classes[1:], classes[:1]))
    starts = torch.cat((positions[1:] == 0, torch.ones(1, dtype=torch.bool, device=device)))
    weights = table[next_class].masked_fill(starts, 0.0)
    answers = (next_class == int(Weight.ANSWER)) & ~starts
    return OnDevice(ids, targets, weights, answers, Packed(positions, bounds, batch.longest))


def losses(network: Network, batch: OnDevice) -> tuple[Tensor, Tensor]:
    """The weighted sum of losses, and the plain sum over answer tokens."""
    hidden = network(batch.ids, batch.packed)
    each = token_losses(hidden, network.embed_tokens.weight, batch.targets)
    return (each * batch.weights).sum(), (each.detach() * batch.answers).sum()


def token_losses(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, embedding).float(), targets, reduction="none")


class Trainer:
    def __init__(self, network: Network, muon_rate: float, adam_rate: float) -> None:
        self.network = network
        matrices = [p for name, p in network.named_parameters() if "proj" in name]
        vectors = [p for name, p in network.named_parameters() if "proj" not in name]
        self.muon = Muon(matrices)
        fused = vectors[0].is_cuda
        self.adam = torch.optim.AdamW(vectors, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
        self._rates = (muon_rate, adam_rate)

    def step(self, batches: list[OnDevice], factor: float) -> Tensor:
        """One optimizer step over the batches of all processes; returns the mean loss of answer tokens."""
        counts = torch.zeros(3, device=batches[0].ids.device)  # weights, answer tokens, their loss
        for batch in batches:
            with torch.autocast(counts.device.type, torch.bfloat16):
                loss, answered = losses(self.network, batch)
            (loss / len(batch.ids)).backward()
            counts += torch.stack((batch.weights.sum(), batch.answers.sum(), answered))
        self._share(counts, len(batches[0].ids))
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.muon.step(self._rates[0] * factor)
        for group in self.adam.param_groups:
            group["lr"] = self._rates[1] * factor
        self.adam.step()
        self.network.zero_grad(set_to_none=True)
        return counts[2] / counts[1]

    def _share(self, counts: Tensor, tokens: int) -> None:
        """Adds up counts and gradients of all processes, and makes the gradients those of the mean loss."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if distributed.is_initialized():
            distributed.all_reduce(counts)
            distributed.all_reduce(flat)
        flat *= tokens / counts[0]
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="has config.json and tokenizer.json")
    parser.add_argument("out", type=Path, help="gets model.safetensors and log.jsonl")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--shares", type=int, default=2, help="of a step; processes divide them")
    parser.add_argument("--tokens", type=int, default=65536, help="of one batch; a share has one or two batches")
    parser.add_argument("--workers", type=int, default=8, help="processes that generate the text of one share")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    parser.add_argument("--fall-from", type=float, default=0.2, help="share of the steps after which rates fall")
    parser.add_argument(
        "--short-blocks", type=int, default=60, help="first blocks of a worker, with short passages only"
    )
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def prefetch(packers: list[Packer], depth: int = 4) -> Queue[list[Batch]]:
    """Packs in a thread, ahead of the device."""
    ready: Queue[list[Batch]] = Queue(maxsize=depth)

    def work() -> None:
        while True:
            ready.put([batch for packer in packers for batch in packer.step()])

    threading.Thread(target=work, daemon=True).start()
    return ready


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    rank, processes, device = joined()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    network = Network(Shape.read(options.folder))
    network.start()
    network.to(device)
    trainer = Trainer(network, options.muon_rate, options.adam_rate)
    if not options.no_compile:
        compile_parts(network)
    plans = [(0, plan(longest=500)), (options.short_blocks, plan())]
    streams = [
        Stream(options.folder, options.seed * 100 + share, options.workers, plans)
        for share in range(rank, options.shares, processes)
    ]
    try:
        run(trainer, prefetch([Packer(stream.take, options.tokens) for stream in streams]), options, device, rank == 0)
    finally:
        for stream in streams:
            stream.close()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def joined() -> tuple[int, int, torch.device]:
    """This process's rank, the number of processes and the device; torchrun tells them apart."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if processes > 1:
        distributed.init_process_group("nccl" if cuda else "gloo")
    return rank, processes, device


def compile_parts(network: Network) -> None:
    """Compiles one layer's code, which all layers share, and the loss."""
    global token_losses
    for layer in network.layers:
        layer.compile()
    token_losses = torch.compile(token_losses)


def run(
    trainer: Trainer, ready: Queue[list[Batch]], options: argparse.Namespace, device: torch.device, first: bool
) -> None:
    """Trains to the end; the first process tells how it goes and saves."""
    schedule = Schedule(options.steps, options.fall_from)
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    started, tokens, mean = time.monotonic(), 0, None
    with (options.out / "log.jsonl" if first else Path(os.devnull)).open("w", encoding="utf-8") as log:
        for step in range(options.steps):
            early = step / options.steps < 0.1
            batches = [to_device(batch, CONTEXT_WEIGHT[0 if early else 1], device) for batch in ready.get(timeout=180)]
            loss = trainer.step(batches, schedule.factor(step))
            tokens += sum(len(batch.ids) for batch in batches) * processes
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if first and (step < 3 or step % 50 == 49):
                row = {
                    "step": step + 1,
                    "seconds": round(time.monotonic() - started, 1),
                    "answer_loss": round(float(mean), 4),
                    "tokens": tokens,
                    "per_second": round(tokens / (time.monotonic() - started)),
                    "waiting": ready.qsize(),
                }
                print(json.dumps(row), file=log, flush=True)
                print(json.dumps(row), flush=True)
            if first and (step % options.save_every == options.save_every - 1 or step == options.steps - 1):
                trainer.network.save(options.out)


if __name__ == "__main__":
    main()
