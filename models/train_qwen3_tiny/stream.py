"""Training documents as token arrays, made by worker processes while the trainer runs."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Full
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.train_qwen3_tiny.chat import Piece, Weight
from models.train_qwen3_tiny.mixture import Plan, document

DOCUMENTS_PER_BLOCK = 96
LONGEST_DOCUMENT = 8192


class Block(NamedTuple):
    """Documents laid end to end: ids (uint16), weight classes (uint8) and the length of each document."""

    ids: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]


def encode(tokenizer: Tokenizer, texts: Sequence[Sequence[Piece]]) -> list[tuple[list[int], list[int]]]:
    """Ids and weight classes of each document."""
    flat = [piece for pieces in texts for piece in pieces]
    encoded = iter(tokenizer.encode_batch_fast([piece.text for piece in flat], add_special_tokens=False))
    out: list[tuple[list[int], list[int]]] = []
    for pieces in texts:
        ids: list[int] = []
        weights: list[int] = []
        for piece in pieces:
            found = next(encoded).ids
            ids += found
            weights += [int(piece.weight)] * len(found)
            if piece.weight is Weight.EARLIER and found:
                # Without its thought an earlier reply starts otherwise than a generated one: do not teach the start.
                weights[len(weights) - len(found)] = int(Weight.NONE)
        out.append((ids, weights))
    return out


def block(rng: random.Random, tokenizer: Tokenizer, plan: Plan, documents: int = DOCUMENTS_PER_BLOCK) -> Block:
    rows = encode(tokenizer, [document(rng, plan) for _ in range(documents)])
    kept = [(ids, weights) for ids, weights in rows if len(ids) <= LONGEST_DOCUMENT]
    return Block(
        np.concatenate([np.array(ids, dtype=np.uint16) for ids, _ in kept]),
        np.concatenate([np.array(weights, dtype=np.uint8) for _, weights in kept]),
        np.array([len(ids) for ids, _ in kept], dtype=np.int32),
    )


def _produce(folder: str, seed: int, plans: Sequence[tuple[int, Plan]], out: Queue[Any], stop: Any) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    rng = random.Random(seed)
    made = 0
    while not stop.is_set():
        plan = next(plan for first, plan in reversed(plans) if made >= first)
        ready = block(rng, tokenizer, plan)
        made += 1
        while not stop.is_set():
            try:
                out.put(ready, timeout=0.5)
                break
            except Full:
                continue


class Stream:
    """Owns the worker processes. Blocks are taken from them in turn, so that their order is always the same."""

    def __init__(self, folder: Path, seed: int, workers: int, plans: Sequence[tuple[int, Plan]]) -> None:
        """`plans` pair the number of a worker's first block with the plan from there on; the first number is 0."""
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._queues: list[Queue[Block]] = [context.Queue(maxsize=6) for _ in range(workers)]
        self._workers: list[SpawnProcess] = [
            context.Process(target=_produce, args=(str(folder), seed * 1000 + i, plans, queue, self._stop), daemon=True)
            for i, queue in enumerate(self._queues)
        ]
        self._next = 0
        for worker in self._workers:
            worker.start()

    def take(self) -> Block:
        """The next block; waits at most two minutes for it."""
        taken = self._queues[self._next].get(timeout=120)
        self._next = (self._next + 1) % len(self._queues)
        return taken

    def close(self) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.terminate()
            worker.join(timeout=5)
