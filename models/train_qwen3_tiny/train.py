"""Trains the small model from generated conversations; see the package's README for the whole recipe.

python -m models.train_qwen3_tiny.train models/qwen3-tiny OUT --steps 20000
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from models.train_qwen3_tiny.chat import Weight
from models.train_qwen3_tiny.mixture import plan
from models.train_qwen3_tiny.network import Network, Packed, Shape
from models.train_qwen3_tiny.optimizer import Muon
from models.train_qwen3_tiny.packing import Batch, Packer
from models.train_qwen3_tiny.stream import Stream

# Context counts more at first, because copying is learned from it, and little later.
CONTEXT_WEIGHT = (0.1, 0.02)
EARLIER_WEIGHT = 0.3
FREE_WEIGHT = 0.25


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
    table = torch.tensor([0.0, context, EARLIER_WEIGHT, 1.0, FREE_WEIGHT], device=device)
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
        """One optimizer step over all batches together; returns the mean loss of answer tokens."""
        total = torch.stack([batch.weights.sum() for batch in batches]).sum()
        answers = torch.stack([batch.answers.sum() for batch in batches]).sum()
        seen = torch.zeros((), device=total.device)
        for batch in batches:
            with torch.autocast(total.device.type, torch.bfloat16):
                loss, answered = losses(self.network, batch)
            (loss / total).backward()
            seen += answered
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.muon.step(self._rates[0] * factor)
        for group in self.adam.param_groups:
            group["lr"] = self._rates[1] * factor
        self.adam.step()
        self.network.zero_grad(set_to_none=True)
        return seen / answers

    def save(self, path: Path, step: int) -> None:
        state = {
            "step": step,
            "network": self.network.state_dict(),
            "muon": self.muon.state(),
            "adam": self.adam.state_dict(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def restore(self, path: Path) -> None:
        device = next(self.network.parameters()).device
        if path.is_dir():
            self.network.load_state_dict(Network.load(path, device).state_dict())
            return
        state = torch.load(path, map_location=device)
        self.network.load_state_dict(state["network"])
        self.muon.restore(state["muon"])
        self.adam.load_state_dict(state["adam"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="has config.json and tokenizer.json")
    parser.add_argument("out", type=Path, help="gets model.safetensors, state.pt and log.jsonl")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=131072, help="of one batch; a step has one or two batches")
    parser.add_argument("--workers", type=int, default=13)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    parser.add_argument("--fall-from", type=float, default=0.5, help="share of the steps after which rates fall")
    parser.add_argument("--resume", type=Path, help="a state.pt, or a folder with weights only, to start from")
    parser.add_argument("--overrides", type=json.loads, default={}, help="skill weights that differ, as JSON")
    parser.add_argument("--short-blocks", type=int, default=100, help="blocks of a worker with short passages only")
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def prefetch(packer: Packer, depth: int = 4) -> Queue[list[Batch]]:
    """Packs in a thread, ahead of the device."""
    ready: Queue[list[Batch]] = Queue(maxsize=depth)

    def work() -> None:
        while True:
            ready.put(packer.step())

    threading.Thread(target=work, daemon=True).start()
    return ready


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    network = Network(Shape.read(options.folder))
    network.start()
    network.to(device)
    trainer = Trainer(network, options.muon_rate, options.adam_rate)
    if options.resume:
        trainer.restore(options.resume)
    if not options.no_compile:
        compile_parts(network)
    short = [(0, plan(options.overrides, longest=500))] if options.short_blocks else []
    stream = Stream(
        options.folder, options.seed, options.workers, [*short, (options.short_blocks, plan(options.overrides))]
    )
    try:
        run(trainer, prefetch(Packer(stream.take, options.tokens)), options, device)
    finally:
        stream.close()


def compile_parts(network: Network) -> None:
    """Compiles one layer's code, which all layers share, and the loss."""
    global token_losses
    for layer in network.layers:
        layer.compile()
    token_losses = torch.compile(token_losses)


def run(trainer: Trainer, ready: Queue[list[Batch]], options: argparse.Namespace, device: torch.device) -> None:
    schedule = Schedule(options.steps, options.fall_from)
    started, tokens, mean = time.monotonic(), 0, None
    with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in range(options.steps):
            early = step / options.steps < 0.1 and not options.resume
            batches = [to_device(batch, CONTEXT_WEIGHT[0 if early else 1], device) for batch in ready.get(timeout=180)]
            loss = trainer.step(batches, schedule.factor(step))
            tokens += sum(len(batch.ids) for batch in batches)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            if step < 3 or step % 50 == 49:
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
            if step % options.save_every == options.save_every - 1 or step == options.steps - 1:
                trainer.save(options.out / "state.pt", step + 1)
                trainer.network.save(options.out)


if __name__ == "__main__":
    main()
