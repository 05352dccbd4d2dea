"""The tier's rows against the real worker and router."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from bench.clients.endpoint import Generation
from bench.clients.http import HttpEndpoint, Target
from bench.command import main
from bench.load import Load, Run
from bench.measures import measure
from bench.meter import process_cpu_s, resident_bytes
from bench.samples import Sample
from bench.tier.cores import Cores
from bench.tier.processes import ProcessError, free_ports, pinned, running
from bench.tier.stack import protocol_floor

ONE = frozenset(Cores.of_this_machine().measured)


@pytest.mark.slow
def test_rows_are_measured(tmp_path: Path) -> None:
    """One short repetition of two rows: every figure is there, and the processes are gone afterwards."""
    file = tmp_path / "tier.json"

    code = main(["tier", "--rows", "request,paced", "--repeat", "1", "--seconds", "0.2", "--json", str(file)])

    document = json.loads(file.read_text(encoding="utf-8"))
    rows = {row["key"]: row for row in document["rows"]}
    assert code == 0
    assert {"request.whole", "request.streamed", "paced.tier", "paced.bare asyncio.Protocol, one beat"} <= set(rows)
    assert all(row["median"] > 0 for row in rows.values())
    assert rows["request.whole"]["goal"] == 0.4
    assert "CPU time of the router" in document["method"]


def test_missing_peer_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gateway that is not installed is named; with --strict that is not passed over."""
    assert main(["tier", "--rows", "peer", "--peer-python", "false"]) == 0
    assert "PEER_LEFT_OUT" in capsys.readouterr().out
    assert main(["tier", "--rows", "peer", "--peer-python", "false", "--strict"]) == 1
    assert main(["tier", "--rows", "peer", "--peer-python", str(tmp_path / "none")]) == 2


async def test_protocol_floor_streams_ready_made_events() -> None:
    """As many events as tokens were asked for, at the pace asked for; its CPU and memory can be read."""
    async with protocol_floor(2.0, Cores([ONE], [ONE], [], ONE)) as floor:
        endpoint = HttpEndpoint(Target.parse(floor.url), chat=True, generation=Generation())
        outcome = await Run(endpoint, Load(concurrency=4))([(Sample(10, text="hello"),)] * 8)
        await endpoint.close()
        cpu = floor.process.cpu_s()
        memory = floor.process.resident_mib()

    figures = measure(outcome.records)
    assert (figures.succeeded, figures.output_tokens, figures.events) == (8, 80, 80)
    assert figures.e2e_ms.least >= 15.0
    assert 0 < cpu < 60
    assert memory > 1
    with pytest.raises(ProcessLookupError):
        floor.process.cpu_s()


async def test_process_that_does_not_come_up_shows_its_log() -> None:
    """The error has the end of what it wrote."""
    async with running("floor", "bench.tier.protocol_floor", ["--port", "nonsense"], ONE) as process:
        with pytest.raises(ProcessError, match="nonsense"):
            await process.wait_for_port(free_ports(1)[0], 20.0)


async def test_own_cpu_clock_agrees_with_the_kernels() -> None:
    """The clock of another process is read like the one of this."""
    own = process_cpu_s(os.getpid())

    await asyncio.to_thread(sum, range(1_000_000))

    assert process_cpu_s(os.getpid()) > own
    assert resident_bytes(os.getpid()) > 1 << 20


def test_pinning_ends_with_its_block() -> None:
    """Cores are given back."""
    before = os.sched_getaffinity(0)
    with pinned(ONE) as possible:
        assert possible
        assert os.sched_getaffinity(0) == ONE

    assert os.sched_getaffinity(0) == before
