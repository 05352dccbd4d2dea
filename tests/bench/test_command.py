"""The command line against servers with known behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from qwenserve.bench import plots
from qwenserve.bench.command import main
from tests.bench.servers import Behaviour, ChatServer, OpenAIServer


@contextlib.contextmanager
def in_thread(server: Any) -> Iterator[Any]:
    """Serves beside the test, on a loop of its own: the command brings its own loop."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with server.serving():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def bench(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def measured(folder: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    """Runs a command and returns the JSON that it wrote."""
    file = folder / "result.json"

    assert bench(*arguments, "--json", file) == code

    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def figures(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["runs"][0]["figures"]
    return found


def codes(document: dict[str, Any]) -> set[str]:
    # Whether this machine is calm while tests run is no matter here.
    return {finding["code"] for finding in document["findings"]} - {"CLIENT_SATURATED", "CPU_TAKEN_AWAY", "LATE_SENDS"}


def test_known_timing_is_measured(tmp_path: Path) -> None:
    """Times are at least what the server takes, counts are exact, prompts have exact lengths."""
    with in_thread(OpenAIServer(Behaviour(first_s=0.03, gap_s=0.01))) as server:
        document = measured(
            tmp_path, "serve", "--url", server.url, "--requests", 32, "--concurrency", 8, "--prompt", 20, "--output", 6
        )

    found = figures(document)
    assert (found["sent"], found["succeeded"], found["output_tokens"], found["events"]) == (32, 32, 192, 192)
    assert found["prompt_tokens"] == 32 * 22
    assert found["ttft_ms"]["least"] >= 29.0
    assert found["tpot_ms"]["p50"] >= 9.9
    assert found["e2e_ms"]["least"] >= 79.0
    assert found["peak_concurrency"] == server.most_at_once == 8
    assert codes(document) == set()
    assert {body["model"] for body in server.bodies} == {"served"}
    assert "20 prompt tokens" in document["method"]
    assert document["runs"][0]["client"]["us_per_event"] > 0


def test_token_ids_go_over_completions(tmp_path: Path) -> None:
    """Prompts are ids of the server's own words, as many as asked for."""
    with in_thread(OpenAIServer()) as server:
        document = measured(
            tmp_path, "serve", "--url", server.url, "--api", "completions", "--requests", 30, "--prompt", 17
        )

    assert {len(body["prompt"]) for body in server.bodies} == {17}
    assert figures(document)["prompt_tokens"] == 30 * 17


def test_open_loop_keeps_its_schedule(tmp_path: Path) -> None:
    """With a rate, sends follow the clock; the SLO is applied."""
    with in_thread(OpenAIServer()) as server:
        document = measured(
            tmp_path,
            *("serve", "--url", server.url, "--requests", 40, "--rate", 200, "--output", 2),
            *("--goodput", "ttft:10000", "e2e:10000"),
        )

    found = figures(document)
    assert found["duration_s"] >= 0.15
    assert found["good_share"] == 1.0
    assert "open loop, 200 requests/s" in document["method"]


def test_conversations_send_the_answers_back(tmp_path: Path) -> None:
    """Each turn holds all messages before it; a job's turns come one after the other."""
    with in_thread(OpenAIServer()) as server:
        document = measured(
            tmp_path,
            *("serve", "--url", server.url, "--dataset", "multi-turn", "--turns", 3, "--requests", 12),
            *("--prompt", 5, "--output", 2),
        )

    turns = [body["messages"] for body in server.bodies[1:]]
    assert sorted({len(messages) for messages in turns}) == [1, 3, 5]
    last = next(messages for messages in turns if len(messages) == 5)
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[1]["content"] == "w w "
    assert figures(document)["sent"] == 36


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Behaviour(cached_tokens=10), "WARM_CACHE"),
        (Behaviour(length_share=0.5), "UNEQUAL_OUTPUT_LENGTHS"),
        (Behaviour(tokens_per_event=3), "MERGED_EVENTS"),
    ],
)
def test_strict_makes_doubts_an_error(tmp_path: Path, behaviour: Behaviour, code: str) -> None:
    """The finding is printed, stored, and with --strict the exit code is 1."""
    with in_thread(OpenAIServer(behaviour)) as server:
        document = measured(
            tmp_path, "serve", "--url", server.url, "--requests", 40, "--prompt", 20, "--output", 6, "--strict", code=1
        )

    assert codes(document) == {code}


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(fail_every=4, fail_status=429), "HTTP 429 busy"),
        (Behaviour(fail_every=4, fail_status=500), "HTTP 500 busy"),
        (Behaviour(fail_every=4, fail_in_stream=True), "in stream: WORKER_LOST"),
    ],
)
def test_errors_are_counted_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: Behaviour, reason: str
) -> None:
    """Failures are in no latency; the rest is measured; the run goes on."""
    with in_thread(OpenAIServer(behaviour)) as server:
        server.bodies.append({})  # the request before all others is not one that fails
        document = measured(tmp_path, "serve", "--url", server.url, "--requests", 40, "--output", 3)

    assert figures(document)["errors"] == {reason: 10}
    assert figures(document)["succeeded"] == 30
    assert "FAILED_REQUESTS" in codes(document)
    assert reason in capsys.readouterr().out


def test_repeated_runs_have_medians_and_new_prompts(tmp_path: Path) -> None:
    """No prompt is sent twice, and the summary has ranges; rows for every request in CSV."""
    with in_thread(OpenAIServer()) as server:
        document = measured(
            tmp_path,
            *("serve", "--url", server.url, "--requests", 30, "--repeat", 3, "--warmup", 4, "--output", 2),
            *("--csv", tmp_path / "rows.csv", "--requests-in-json"),
        )

    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(prompts) == len(set(prompts)) == 94
    assert len(document["runs"]) == 3
    summary = document["summary"]["requests_per_s"]
    assert summary["least"] <= summary["median"] <= summary["most"]
    with (tmp_path / "rows.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["run"] for row in rows] == [str(run) for run in range(3) for _ in range(30)]
    assert len(document["runs"][0]["requests"]) == 30


def test_whole_answers_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stream an answer is one event; the key comes from the environment and is in no result."""
    monkeypatch.setenv("BENCH_TEST_KEY", "sk-secret")
    with in_thread(OpenAIServer()) as server:
        document = measured(
            tmp_path,
            *("serve", "--url", server.url, "--requests", 30, "--no-stream", "--api-key-env", "BENCH_TEST_KEY"),
        )

    assert set(server.keys) == {"Bearer sk-secret"}
    assert figures(document)["output_tokens"] == 30 * 128
    assert "sk-secret" not in json.dumps(document)


def test_what_cannot_be_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line that says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert bench("serve", "--url", nobody) == 2
    assert "is it up?" in capsys.readouterr().err
    assert bench("serve", "--concurrency", 0) == 2
    assert bench("serve", "--json", tmp_path / "no" / "folder.json", "--url", nobody) == 2
    assert bench("compare", tmp_path / "a.json", tmp_path / "b.json") == 2
    assert bench("tier", "--rows", "nothing") == 2
    assert bench() == 2
    with in_thread(OpenAIServer(Behaviour(has_tokenize=False))) as server:
        assert bench("serve", "--url", server.url, "--api", "completions") == 2
        assert "--token-range" in capsys.readouterr().err
        assert bench("serve", "--url", server.url, "--requests", 30) == 0
        assert "prompt lengths are in words" in capsys.readouterr().out


@pytest.mark.parametrize("api", ["grpc-chat", "grpc-session", "grpc-completion"])
def test_grpc(tmp_path: Path, api: str) -> None:
    """One call per request, or all packed on one."""
    words = ("--token-range", "10:500") if api == "grpc-completion" else ()
    with in_thread(ChatServer()) as server:
        document = measured(
            tmp_path, "serve", "--url", server.address, "--api", api, "--requests", 40, "--output", 7, *words
        )

    found = figures(document)
    assert (found["succeeded"], found["output_tokens"], found["events"], found["cached_tokens"]) == (40, 280, 280, 40)


@pytest.mark.parametrize(
    ("api", "reason"), [("grpc-chat", "RESOURCE_EXHAUSTED QUEUE_FULL"), ("grpc-session", "QUEUE_FULL")]
)
def test_grpc_failures(tmp_path: Path, api: str, reason: str) -> None:
    """A refused chat is told by reason; others on the same session go on."""
    data = tmp_path / "data.jsonl"
    lines = [json.dumps({"prompt": f"{'FAIL' if n % 4 == 0 else 'fine'} {n}", "max_tokens": 3}) for n in range(40)]
    data.write_text("\n".join(lines), encoding="utf-8")
    with in_thread(ChatServer()) as server:
        document = measured(tmp_path, "serve", "--url", server.address, "--api", api, "--dataset", data)

    assert figures(document)["errors"] == {reason: 10}
    assert figures(document)["succeeded"] == 30


def test_sweep_names_a_knee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points rise in concurrency, and the plot, where matplotlib is installed, is a PNG."""
    plot = ("--plot", tmp_path / "sweep.png") if find_spec("matplotlib") else ()
    with in_thread(OpenAIServer(Behaviour(gap_s=0.002))) as server:
        document = measured(
            tmp_path,
            *("sweep", "--url", server.url, "--requests", 8, "--to", 4, "--output", 3),
            *plot,
        )

    assert [point["concurrency"] for point in document["points"]] == [1, 2, 4]
    assert document["knee"] in (1, 2, 4)
    assert "Knee at concurrency" in capsys.readouterr().out
    assert not plot or (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_missing_plots_are_told_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody measures for an hour to learn that matplotlib is missing."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(plots.NoPlots):
        plots.check()
    with in_thread(OpenAIServer()) as server:
        assert bench("serve", "--url", server.url, "--plot", tmp_path / "x.png") == 2

    assert server.bodies == []
    assert "pip install" in capsys.readouterr().err


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two results side by side; one run each is too few, which --strict refuses."""
    with in_thread(OpenAIServer()) as server:
        for name in ("a", "b"):
            file = tmp_path / f"{name}.json"
            assert bench("serve", "--url", server.url, "--requests", 30, "--output", 2, "--json", file) == 0

    assert bench("compare", tmp_path / "a.json", tmp_path / "b.json") == 0
    assert "FEW_RUNS" in capsys.readouterr().out
    assert bench("compare", tmp_path / "a.json", tmp_path / "b.json", "--strict") == 1


def test_dataset_files_can_be_served(tmp_path: Path) -> None:
    """What `bench dataset` writes, `bench serve` sends; without a server lengths are in words."""
    data = tmp_path / "data.jsonl"
    with in_thread(OpenAIServer()) as server:
        assert bench("dataset", data, "--url", server.url, "--requests", 30, "--prompt", 9, "--output", 4) == 0
        document = measured(tmp_path, "serve", "--url", server.url, "--dataset", data)

    assert figures(document)["output_tokens"] == 30 * 4
    assert {len(body["messages"][0]["content"].split()) for body in server.bodies} == {9}
    assert bench("dataset", data, "--dataset", "shared-prefix", "--requests", 3) == 0
    assert len(data.read_text(encoding="utf-8").splitlines()) == 3


def test_throughput_drives_an_engine(tmp_path: Path) -> None:
    """The engine is kept full, every token is counted, and the method says that it is simulated."""
    document = measured(
        tmp_path,
        *("throughput", "--requests", 40, "--prompt", 30, "--output", 5, "--repeat", 2, "--warmup", 4),
        *("--set", "worker.engine=simulated", "--set", "worker.simulated.step_ms=0", "--set", "worker.max_running=4"),
    )

    found = figures(document)
    assert (found["succeeded"], found["output_tokens"], found["prompt_tokens"]) == (40, 200, 1200)
    assert found["peak_concurrency"] == 4
    assert "simulated: a timing model" in document["method"]
    assert bench("throughput", "--set", "worker.engien=simulated") == 2


def test_memory_is_drawn_until_the_processes_have_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg, table = tmp_path / "memory.svg", tmp_path / "memory.csv"
    files = ("--svg", svg, "--csv", table, "--title", "a < b")

    assert bench("memory", f"this={os.getpid()}", "--seconds", 0.02, "--every", 0.01, *files) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) >= 3
    assert all(float(row["this"]) > 1 for row in rows)
    drawn = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert "a < b" in drawn
    assert "this" in drawn

    assert bench("memory", "gone=999999999", "--seconds", 600) == 2
    assert "there is no such process" in capsys.readouterr().err
