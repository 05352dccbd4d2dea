"""Memory that knowledge of caches takes: in routers and in workers, filled once and filled over and over."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from qwenserve.router.routing.prefix_index import PrefixIndex
from qwenserve.worker.cache_ledger import CacheLedger
from qwenserve.worker.engine_interface import KvEvent

_Take: TypeAlias = Callable[[int, Sequence[int]], None]

_MIB = 1 << 20
_PART = 1000
_WORKERS = 4


class Memory(NamedTuple):
    """MiB for so many blocks, and the most while `soak` times as many passed through; bounds hold throughout."""

    blocks: int
    router_mib: float
    router_soak_mib: float
    worker_mib: float
    worker_soak_mib: float


def memory_of(blocks: int, soak: int = 5) -> Memory:
    """Measures both, each with room for `blocks`. Takes some seconds for a million."""
    index, ledger = PrefixIndex(blocks), CacheLedger(blocks)

    def tell_router(number: int, part: Sequence[int]) -> None:
        index.tell(str(number % _WORKERS), (), part)

    def tell_worker(number: int, part: Sequence[int]) -> None:
        ledger.take([KvEvent(number, part, ())])

    tracemalloc.start()
    try:
        router = _fill(blocks, soak, tell_router)
        index = PrefixIndex(1)
        worker = _fill(blocks, soak, tell_worker)
    finally:
        tracemalloc.stop()
    return Memory(blocks, *router, *worker)


def _fill(blocks: int, soak: int, take: _Take) -> tuple[float, float]:
    before, _ = tracemalloc.get_traced_memory()
    draw = random.Random(0)
    for number in range(blocks // _PART):
        take(number, _part(draw))
    once, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for number in range(blocks // _PART, blocks * soak // _PART):
        take(number, _part(draw))
    _, most = tracemalloc.get_traced_memory()
    return (once - before) / _MIB, (most - before) / _MIB


def _part(draw: random.Random) -> list[int]:
    return [draw.getrandbits(64) for _ in range(_PART)]
