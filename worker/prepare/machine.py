"""What the machine has: free memory, free disk, and its first NVIDIA GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from qwenserve.worker.prepare.formats import CARDS, Card
from qwenserve.worker.prepare.quantize_plan import CannotQuantize, Machine

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.free,compute_cap", "--format=csv,noheader,nounits")


def this_machine(out: Path) -> Machine:
    """Returns what is free here and on the disk of `out`."""
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return Machine(_free_memory(), shutil.disk_usage(folder).free, _first_card())


def named_card(name: str) -> Card:
    """Returns a card of the table by its name or the beginning of it, whatever the case. Raises CannotQuantize."""
    for card in CARDS:
        if card.name.lower().startswith(name.lower()):
            return card
    raise CannotQuantize(f"--card {name}: known are {', '.join(card.name for card in CARDS)}")


def card_of(line: str) -> Card | None:
    """Returns the card that a line of nvidia-smi's answer tells of; None where it tells of none."""
    try:
        name, free_mib, capability = (part.strip() for part in line.split(","))
        return Card(name, float(free_mib) / 1024, float(capability))
    except ValueError:
        return None


def _first_card() -> Card | None:
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return card_of(told.stdout.partition("\n")[0]) if told.returncode == 0 else None


def _free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
