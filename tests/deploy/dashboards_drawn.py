"""Draws the dashboards as they look over a small deployment: `python -m tests.deploy.dashboards_drawn FOLDER`.

Not Grafana: the panels' titles, places, queries and legends are those of the files, the numbers are Prometheus's, and
matplotlib (extra `bench`) draws them. For pages that should show what there is to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import matplotlib

from tests.deploy.compose_processes import Ports
from tests.deploy.queries import dashboards, filled
from tests.deploy.test_dashboards import asked, cluster, prometheus, scrape_config, use

matplotlib.use("agg")
from matplotlib import pyplot

_SECONDS, _STEP_S = 60, 3
_CLIENTS = 6
_ROW_INCHES, _WIDTH_INCHES = 0.42, 14
_UNITS = {"percentunit": (100, " %"), "s": (1000, " ms"), "bytes": (1e-6, " MB"), "decbytes": (1e-6, " MB")}


async def load(url: str, ends: float) -> None:
    """Asks from some clients until a time, as `use` does and with answers of some length."""

    async def keep_asking(session: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while time.monotonic() < ends:
            turn += 1
            text = f"Client {number} asks for the {turn % 5}th time: tell me a story about a river and a bridge."
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": 60, "stream": True}
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()
            await asyncio.sleep(0.3)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(keep_asking(session, number) for number in range(_CLIENTS)))


async def series(session: aiohttp.ClientSession, url: str, target: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Returns a target's series over the time of the load: legend and values."""
    now = time.time()
    data = await asked(
        session, f"{url}/api/v1/query_range", query=filled(target["expr"]), start=f"{now - _SECONDS}", end=f"{now}",
        step=str(_STEP_S),
    )  # fmt: skip
    legend = target.get("legendFormat") or ""
    return [
        (re.sub(r"\{\{(\w+)\}\}", lambda match, of=each["metric"]: of.get(match[1], ""), legend), each["values"])
        for each in (data or {"result": []})["result"]
    ]


def draw(dashboard: dict[str, Any], found: dict[str, list[tuple[str, list[Any]]]], file: Path) -> None:
    """Draws one dashboard."""
    # As Grafana does: what is below moves up to what is above.
    heights = {at["y"]: at["h"] for at in (panel["gridPos"] for panel in dashboard["panels"])}
    tops = {y: sum(heights[above] for above in heights if above < y) for y in heights}
    rows = sum(heights.values())
    figure = pyplot.figure(figsize=(_WIDTH_INCHES, rows * _ROW_INCHES))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        top, height = tops[at["y"]], at["h"] / rows
        box = (at["x"] / 24 + 0.022, 1 - top / rows - height + 0.012, at["w"] / 24 - 0.03, height - 0.036)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        scale, unit = _UNITS.get(panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""), (1, ""))
        lines = found[panel["title"]]
        if panel["type"] == "stat":
            axes.axis("off")
            value = float(lines[0][1][-1][1]) * scale if lines else float("nan")
            axes.text(0.02, 0.35, f"{value:.3g}{unit}", fontsize=22)
            continue
        for legend, values in lines:
            points = [(float(at) - float(values[-1][0]), float(value) * scale) for at, value in values]
            axes.plot(*zip(*points, strict=True), linewidth=1, label=legend[:40] or None)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(unit.strip(), fontsize=6)
        axes.grid(alpha=0.2)
        if any(legend for legend, _ in lines):
            axes.legend(fontsize=5, loc="upper left", framealpha=0.6)
    figure.savefig(file, dpi=72)
    pyplot.close(figure)


async def main(folder: Path) -> None:
    """Runs a deployment, loads it, and draws all dashboards."""
    async with contextlib.AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports: Ports = await stack.enter_async_context(cluster(place))
        url = await stack.enter_async_context(prometheus(scrape_config(ports), place))
        router = f"http://127.0.0.1:{ports['router-1', 8000]}"
        await asyncio.gather(load(router, time.monotonic() + _SECONDS), use(router))
        async with aiohttp.ClientSession() as session:
            found = {
                (name, panel["title"]): [
                    line for target in panel["targets"] for line in await series(session, url, target)
                ]
                for name, dashboard in dashboards().items()
                for panel in dashboard["panels"]
            }
    for name, dashboard in dashboards().items():
        lines = {title: each for (of, title), each in found.items() if of == name}
        draw(dashboard, lines, folder / f"dashboard-{name}.png")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
