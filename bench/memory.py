"""The memory of processes over time, as a plot: what `bench memory` draws beside a load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

_WIDTH, _HEIGHT = 860, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 44, 46
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
_PAGE_KB = 1024
# About so many lines across the plot, whatever the scale.
_LINES = 6


class Look(NamedTuple):
    """The resident memory of each process at one time, in megabytes; None where it has ended."""

    seconds: float
    megabytes: Mapping[str, float | None]


def resident_mb(pid: int) -> float | None:
    """Returns the resident memory of a process in megabytes; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return None if found is None else int(found.split()[1]) * _PAGE_KB / 1e6


async def watch(processes: Mapping[str, int], seconds: float, every_s: float) -> list[Look]:
    """Looks at each process every so often, until the time is up or all have ended."""
    began = time.monotonic()
    looks: list[Look] = []
    while not looks or (looks[-1].seconds < seconds and any(looks[-1].megabytes.values())):
        if looks:
            await asyncio.sleep(max(0.0, began + len(looks) * every_s - time.monotonic()))
        passed = time.monotonic() - began
        looks.append(Look(passed, {name: resident_mb(pid) for name, pid in processes.items()}))
    return looks


def as_csv(looks: Sequence[Look]) -> str:
    """Returns the looks as a table."""
    names = list(looks[0].megabytes)
    rows = [",".join(["seconds", *names])]
    for look in looks:
        values = ("" if value is None else f"{value:.1f}" for value in look.megabytes.values())
        rows.append(",".join([f"{look.seconds:.1f}", *values]))
    return "\n".join(rows) + "\n"


def as_svg(looks: Sequence[Look], title: str) -> str:
    """Draws one line a process: megabytes over seconds, from zero."""
    names = list(looks[0].megabytes)
    longest = max(looks[-1].seconds, 1e-9)
    highest = max((value or 0.0 for look in looks for value in look.megabytes.values()), default=0.0)
    across, up = _step(longest), _step(max(highest, 1.0))
    top = up * (int(highest / up) + 1)

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / longest

    def y(megabytes: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * megabytes / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{escape(title)}</text>',
    ]
    for number in range(int(top / up) + 1):
        at = y(number * up)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number * up:g} MB</text>')
    for number in range(int(longest / across) + 1):
        at, below = x(number * across), _HEIGHT - _BOTTOM + 18
        parts.append(f'<text x="{at:.1f}" y="{below}" text-anchor="middle">{number * across:g} s</text>')
    for index, name in enumerate(names):
        known = [(look.seconds, value) for look in looks if (value := look.megabytes[name]) is not None]
        if not known:
            continue
        colour = _COLOURS[index % len(_COLOURS)]
        points = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in known)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        label = f"{name} {known[-1][1]:.0f} MB"
        at = y(known[-1][1]) + 4
        parts.append(f'<text x="{x(known[-1][0]) + 6:.1f}" y="{at:.1f}" fill="{colour}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _step(most: float) -> float:
    """Returns a round distance between lines: 1, 2 or 5 times a power of ten."""
    step = 1.0
    while step * _LINES < most:
        step *= 2 if str(step)[0] in "15" else 2.5
    return step
