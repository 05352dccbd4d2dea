"""The tier's rows against the real worker and router."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.command import main
from qwenserve.bench.load import Load, Run
from qwenserve.bench.measures import measure
from qwenserve.bench.meter import process_cpu_s, resident_bytes
from qwenserve.bench.samples import Sample
from qwenserve.bench.tier.context import Context
from qwenserve.bench.tier.cores import Cores
from qwenserve.bench.tier.latency import latency_rows
from qwenserve.bench.tier.processes import ProcessError, free_ports, pinned, running
from qwenserve.bench.tier.scaling import scaling_rows
from qwenserve.bench.tier.stack import protocol_floor
from qwenserve.bench.tier.wrk import wrk_rows
from tests.store.servers import why_none

ONE = frozenset(Cores.of_this_machine().measured)


def measured(folder: Path, rows: str, seconds: float, *more: str) -> dict[str, Any]:
    """Runs rows of the command for one repetition, which must succeed, and returns its JSON document."""
    file = folder / "tier.json"

    assert main(["tier", "--rows", rows, "--repeat", "1", f"--seconds={seconds}", *more, "--json", str(file)]) == 0

    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def by_key(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a document."""
    return {row["key"]: row for row in document["rows"]}


@pytest.mark.long
@pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")
def test_kept_answers_are_measured(tmp_path: Path) -> None:
    """New and repeated prompts with a Redis server of the row's own, by the same without, where they fit the window."""
    rows = by_key(measured(tmp_path, "kept", 0.1))

    assert {"kept.off", "kept.new", "kept.repeat", "kept.new_by_off.2000"} <= set(rows)
    assert "kept.off.30000" not in rows, "the small model's window has 8,192 tokens"
    assert rows["kept.repeat_by_off"]["goal"] == 1.0
    assert all(row["median"] > 0 for row in rows.values())


@pytest.mark.slow
def test_rows_are_measured(tmp_path: Path) -> None:
    """One short repetition of two rows: every figure is there, and the processes are gone afterwards."""
    document = measured(tmp_path, "request,paced", 0.2)

    rows = by_key(document)
    assert {"request.whole", "request.streamed", "paced.tier", "paced.bare asyncio.Protocol, one beat"} <= set(rows)
    assert all(row["median"] > 0 for row in rows.values())
    assert rows["request.whole"]["goal"] == 0.4
    assert "CPU time of the router" in document["method"]


@pytest.mark.long
@pytest.mark.timeout(180)
def test_tokenizer_rows_are_measured(tmp_path: Path) -> None:
    """A deployment with a tokenizer process: every figure is there."""
    document = measured(tmp_path, "tokenizer", 0.2)

    rows = by_key(document)
    assert {"tokenizer.200.tier", "tokenizer.8000.added"} <= set(rows)
    cpu = [row for row in rows.values() if row["unit"] == "ms CPU"]
    assert len(cpu) == 6
    assert all(row["median"] > 0 for row in cpu)
    assert document["parameters"]["model"] == "qwen3-tiny"


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_rows_under_wrk_are_measured(tmp_path: Path) -> None:
    """Several routers on one port all answer, where they can have a core or a slice of one each; memory is followed to
    the last request, and the logs do not pile up."""
    document = measured(tmp_path, "scaling,memory", 1, "--memory-requests", "400")

    rows = {key: row["median"] for key, row in by_key(document).items()}
    assert {"memory.rest", "memory.100%"} <= set(rows)
    if "TOO_FEW_CORES" in {finding["code"] for finding in document["findings"]}:
        assert "scaling.1" not in rows
    else:
        assert {"scaling.1", "scaling.2", "scaling.4"} <= set(rows)
        assert 0 <= rows["scaling.even.4"] <= 1 <= rows["scaling.wait.4"]
        assert rows["scaling.gain.2"] == pytest.approx(rows["scaling.2"] / rows["scaling.1"])
    assert rows["memory.100%"] > 10
    cache = by_key(document)["memory.100%"]["note"]
    assert cache.endswith(" MiB in the token cache")
    assert 0 < float(cache.split()[0]) < 1


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_latencies_are_measured_under_load(tmp_path: Path) -> None:
    """wrk makes the load, a process of its own measures; who was on which beat and how busy the router was is told."""
    rows = by_key(measured(tmp_path, "latency", 0.5))

    assert set(rows) == {"latency.ttft", "latency.itl"}
    through = float(rows["latency.itl"]["note"].split()[0])
    assert through - rows["latency.itl"]["median"] > 5  # the workers' own steps take 10 ms
    assert "requests/s (Poisson)" in rows["latency.ttft"]["note"]


@pytest.mark.long
def test_the_workers_side_is_measured_by_itself(tmp_path: Path) -> None:
    """Every figure is there, and with how many steps a message it came about."""
    rows = by_key(measured(tmp_path, "worker", 0.5))

    ratio = rows.pop("worker.paced.ratio")
    assert ratio["median"] == pytest.approx(rows["worker.paced"]["median"] / rows["worker.floor"]["median"])
    assert set(rows) == {"worker.floor", "worker.paced", "worker.paced.awake", "worker.paced.many", "worker.fast"}
    for row in rows.values():
        assert row["median"] > 0
        merged = re.findall(r"([\d.]+) steps a message$", row["note"])
        assert [float(steps) >= 1 for steps in merged] == [True]


async def test_without_wrk_its_rows_are_told_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding instead of figures."""
    monkeypatch.setenv("PATH", "/nonexistent")
    context = Context(Console(), Cores([ONE], [ONE], [], ONE), "", 1, 1.0, 1, "", "")

    for measured in (await scaling_rows(context), await latency_rows(context), await wrk_rows(context)):
        assert measured[0] == []
        assert [finding.code for finding in measured[1]] == ["NO_WRK"]


async def test_forgotten_log_starts_again() -> None:
    """What is written later is at its beginning, not behind a hole."""
    async with running("floor", "qwenserve.bench.tier.protocol_floor", ["--port", "nonsense"], ONE) as process:
        with pytest.raises(ProcessError):
            await process.wait_for("never", 20.0)
        assert "nonsense" in process.log
        process.forget_log()
        assert process.log == ""


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
    async with running("floor", "qwenserve.bench.tier.protocol_floor", ["--port", "nonsense"], ONE) as process:
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


@pytest.mark.long
@pytest.mark.timeout(180)
def test_tls_rows_are_measured(tmp_path: Path) -> None:
    """Two deployments in turn, one with certificates on every hop."""
    rows = by_key(measured(tmp_path, "tls", 0.2))

    assert {"tls.token.tls", "tls.request.ratio"} <= set(rows)
    assert all(row["median"] > 0 for row in rows.values())
