"""Who runs on which core. What is measured gets a core of its own before anybody else does.

Two threads of one physical core slow each other down, so where there are enough physical cores, every process gets one
by itself, whose second thread stays idle, and the load client gets what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qwenserve.bench.meter import usable_cores

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Cores(NamedTuple):
    """The cores of each process. Equal sets are shared; `apart` is whether what is measured shares none."""

    routers: Sequence[frozenset[int]]
    workers: Sequence[frozenset[int]]
    tokenizers: Sequence[frozenset[int]]
    client: frozenset[int]

    @property
    def measured(self) -> frozenset[int]:
        """Where the only router runs, or what stands in its place."""
        return self.routers[0]

    @property
    def apart(self) -> bool:
        """Whether every router has a core that nobody else uses."""
        others = self.client.union(*self.workers, *self.tokenizers)
        return not any(one & (others.union(*self.routers[:i])) for i, one in enumerate(self.routers))

    @property
    def all_apart(self) -> bool:
        """Whether worker and tokenizer share no core with the client either."""
        singles = [*self.routers, *self.workers, *self.tokenizers]
        return self.apart and len(frozenset().union(self.client, *singles)) == len(self.client) + len(singles)

    @classmethod
    def of_this_machine(cls, *, routers: int = 1, workers: int = 1, tokenizers: int = 0) -> Cores:
        """Shares out the cores that this process may use."""
        return share_out(physical_cores(), routers=routers, workers=workers, tokenizers=tokenizers)


def share_out(physical: Sequence[Sequence[int]], *, routers: int = 1, workers: int = 1, tokenizers: int = 0) -> Cores:
    """Returns who runs where, given the usable threads of each physical core.

    With too few cores for all, a single router still has the first for itself and the rest is shared by everybody else;
    several routers then may use every core, as everybody may.
    """
    singles = routers + workers + tokenizers
    # One thread of each physical core before the second of any.
    threads = [one for rank in range(max(map(len, physical))) for core in physical for one in core[rank : rank + 1]]
    if len(physical) > singles:
        taken = [core[0] for core in physical[:singles]]
        client = frozenset(one for core in physical[singles:] for one in core)
    elif len(threads) > singles:
        taken, client = threads[:singles], frozenset(threads[singles:])
    elif routers == 1:
        rest = frozenset(threads[1:] or threads)
        return Cores([frozenset(threads[:1])], [rest] * workers, [rest] * tokenizers, rest)
    else:
        every = frozenset(threads)
        return Cores([every] * routers, [every] * workers, [every] * tokenizers, every)
    own = [frozenset({one}) for one in taken]
    return Cores(own[:routers], own[routers : routers + workers], own[routers + workers :], client)


def workers_beside(physical: Sequence[Sequence[int]], routers: int) -> int:
    """Returns how many workers there is room for next to some routers, with a physical core left for the client: as
    many as routers, and at least three, where there are the cores for it."""
    return max(1, min(max(routers, 3), len(physical) - routers - 1))


def physical_cores() -> Sequence[Sequence[int]]:
    """Returns the usable threads of each physical core, ascending. What Linux does not tell counts as one each."""
    usable = usable_cores()
    groups: dict[frozenset[int], list[int]] = {}
    for core in usable:
        groups.setdefault(_siblings(core), []).append(core)
    return list(groups.values())


def parse_list(text: str) -> frozenset[int]:
    """Reads a kernel's list of numbers: `0-2,8`. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _siblings(core: int) -> frozenset[int]:
    try:
        return parse_list(Path(_SIBLINGS.format(core)).read_text())
    except (OSError, ValueError):
        return frozenset({core})


def name_cores(cores: frozenset[int]) -> str:
    """Returns `core 3` or `cores 4–7, 9`."""
    parts: list[str] = []
    run: list[int] = []
    for core in sorted(cores):
        if run and core != run[-1] + 1:
            parts.append(_range(run))
            run = []
        run.append(core)
    parts.append(_range(run))
    return ("core " if len(cores) == 1 else "cores ") + ", ".join(parts)


def _range(run: Sequence[int]) -> str:
    return str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}"
