"""Four workers behind two routers: `python -m tests.gpu.measure_fleet MODEL_DIRECTORY`, one line of JSON a round.

A vLLM worker with random weights on each GPU, and, with `--pairs`, one over each two of them. In turn: one worker by
itself and all four with four times the load; then prompts that share beginnings, workers chosen by cached prefix and in
turn. All servers run all the time, so that rounds can alternate; clients share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.gpu.measure_serving import PORT, cores_of, running, wait_for
from tests.gpu.report import say, step

TEMPORARY = Path(tempfile.gettempdir())

_BASE = PORT + 100
_START_S = 300.0
_METRICS = 60
# From the start of a client's process to its first request.
_CLIENT_START_S = 3.0


class Server(NamedTuple):
    """A worker and its GPUs; `port` is behind `_BASE`."""

    name: str
    gpus: str
    port: int


class Front(NamedTuple):
    """A router; its own port and that of its HTTP server are behind `_BASE`."""

    name: str
    workers: Sequence[Server]
    port: int
    policy: str = "prefix"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{_BASE + self.port + 1}"


def worker_command(server: Server, options: argparse.Namespace) -> list[str]:
    settings: dict[str, Any] = {
        "model.reference": str(options.model),
        "model.weights": "random",
        "model.max_model_len": options.window,
        "worker.engine": options.engine,
        # More than its share: a worker that gets some more than another computes them all the same.
        "worker.max_running": options.streams * 4 // 3,
        "worker.name": server.name,
        "worker.port": _BASE + server.port,
        "worker.stall_timeout_s": 60,
        "metrics.port": _BASE + _METRICS + server.port,
        "log.level": "warning",
    }
    if options.engine == "vllm":
        settings["worker.vllm.options"] = {
            "dtype": "bfloat16",
            "max_num_batched_tokens": 8192,
            "kv_cache_memory_bytes": options.cache_gib << 30,
            # Servers of both kinds start at once on the same cards.
            "gpu_memory_utilization": 0.05,
            "tensor_parallel_size": len(server.gpus.split(",")),
        }
    return _command("worker", settings)


def router_command(front: Front, options: argparse.Namespace) -> list[str]:
    settings = {
        "model.reference": str(options.model),
        "router.workers": [f"127.0.0.1:{_BASE + worker.port}" for worker in front.workers],
        "router.policy": front.policy,
        "router.port": _BASE + front.port,
        "http.port": _BASE + front.port + 1,
        "log.level": "warning",
    }
    return _command("router", settings)


def _command(kind: str, settings: dict[str, Any]) -> list[str]:
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", "qwenserve.cli.main", kind, *flags]


def bench(url: str, out: Path, *more: str) -> dict[str, Any]:
    """Runs one load client; returns its figures."""
    command = [sys.executable, "-m", "qwenserve.bench", "serve", "--url", url, "--api", "completions"]
    command += ["--token-range", "1000:3900", "--json", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if not out.exists():
        raise RuntimeError(f"no result: {done.stdout[-500:]} {done.stderr[-1500:]}")
    figures: dict[str, Any] = json.loads(out.read_text())["runs"][0]["figures"]
    return figures


def generated(servers: Sequence[Server]) -> list[float]:
    """Tokens that each worker has generated since it started, as its metrics tell."""
    found = []
    for server in servers:
        with urllib.request.urlopen(f"http://127.0.0.1:{_BASE + _METRICS + server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("qwenserve_engine_generated_tokens_total")]
        found.append(sum(float(line.rsplit(" ", 1)[1]) for line in lines))
    return found


def scale(label: str, fronts: Sequence[Front], clients: int, seed: int, options: argparse.Namespace) -> None:
    """One round: `clients` load clients, in turn at the fronts, each with the streams of one worker.

    Lengths are spread, so that requests end one by one. Tokens are counted at the workers between two moments at which
    all clients are well under way.
    """
    spread = f"uniform:{options.tokens // 2}:{options.tokens * 3 // 2}"
    more = ["--prompt", spread, "--output", spread, "--concurrency", str(options.streams)]
    more += ["--requests", str(40 * options.streams), "--seconds", str(options.warm_s + options.window_s + 1)]

    def one(number: int) -> dict[str, Any]:
        out = options.out / f"fleet-{label}-{seed}-{number}.json".replace(" ", "-")
        return bench(fronts[number % len(fronts)].url, out, *more, "--seed", str(seed * 10 + number))

    servers = fronts[0].workers
    routers = [options.pids[front.name] for front in fronts]
    with ThreadPoolExecutor(clients) as pool:
        running_clients = [pool.submit(one, number) for number in range(clients)]
        time.sleep(_CLIENT_START_S + options.warm_s)
        before = [sum(cores_of(pid).values()) for pid in routers]
        began, first = time.monotonic(), generated(servers)
        time.sleep(options.window_s - 1)
        last = generated(servers)
        took = time.monotonic() - began
        cores = [(sum(cores_of(pid).values()) - used) / took for pid, used in zip(routers, before, strict=True)]
        figures = [each.result() for each in running_clients]
    rates = [(b - a) / took for a, b in zip(first, last, strict=True)]
    say(
        "scale",
        fleet=label,
        clients=clients,
        streams=clients * options.streams,
        tokens_per_s=round(sum(rates), 1),
        of_each_worker=[round(rate, 1) for rate in rates],
        window_s=round(took, 2),
        failed=sum(each["failed"] for each in figures),
        ttft_ms=[[round(each["ttft_ms"][p], 1) for p in ("p50", "p99")] for each in figures],
        gap_ms=[[round(each["itl_ms"][p], 2) for p in ("p50", "p99")] for each in figures],
        router_cores=[round(share, 3) for share in cores],
    )


def shared(front: Front, seed: int, options: argparse.Namespace) -> None:
    """One round of prompts that share beginnings. Groups come in turn, and their number has no divisor in common with
    the workers': taken in turn, each group comes to each worker."""
    out = options.out / f"fleet-shared-{front.policy}-{seed}.json"
    more = ["--dataset", "shared-prefix", "--prefix", "3072", "--groups", "63", "--prompt", "64", "--output", "64"]
    more += ["--requests", "512", "--concurrency", "64", "--seed", str(seed)]
    found = bench(front.url, out, *more)
    say(
        "shared prefixes",
        policy=front.policy,
        seed=seed,
        requests=found["succeeded"],
        failed=found["failed"],
        prompt_tokens=found["prompt_tokens"],
        cached_tokens=found["cached_tokens"],
        ttft_ms={p: round(found["ttft_ms"][p], 1) for p in ("p50", "p90", "p99")},
        requests_per_s=round(found["requests_per_s"], 2),
        duration_s=round(found["duration_s"], 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", default="vllm", choices=("vllm", "simulated"), help="the latter tries this out")
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--pairs", action="store_true", help="a worker over each two GPUs, too")
    parser.add_argument("--streams", type=int, default=96, help="of one worker")
    parser.add_argument("--tokens", type=int, default=512, help="of a prompt, and of an answer, in the middle")
    parser.add_argument("--warm-s", type=int, default=6, help="before tokens are counted")
    parser.add_argument("--window-s", type=int, default=13, help="while they are")
    parser.add_argument("--cache-gib", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wait-for", type=Path, help="measure only once this file exists")
    parser.add_argument("--wait-s", type=float, default=240.0, help="at most so long")
    parser.add_argument("--out", type=Path, default=TEMPORARY)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.window = 4096
    options.pids = {}
    singles = [Server(f"gpu-{number}", str(number), number + 1) for number in range(options.gpus)]
    pairs = [Server(f"gpus-{n}-{n + 1}", f"{n},{n + 1}", n + 10) for n in range(0, options.gpus, 2) if options.pairs]
    alone = Front("alone", singles[:1], 20)
    both = [Front("first", singles, 22), Front("second", singles, 24)]
    in_turn = Front("in turn", singles, 26, "round_robin")
    paired = [Front("paired", pairs, 28), Front("paired, second", pairs, 30)] if pairs else []
    with contextlib.ExitStack() as all_running:
        processes = {}
        for server in (*singles, *pairs):
            # Compiled at the same time: each has its caches to itself.
            caches = {name: str(TEMPORARY / server.name / name) for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR")}
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": server.gpus, **caches}
            processes[server.name] = all_running.enter_context(
                running(f"fleet-{server.name}", worker_command(server, options), options.out, environment)
            )
        for front in (alone, *both, in_turn, *paired):
            name = f"fleet-router-{front.name}".replace(" ", "-").replace(",", "")
            router = all_running.enter_context(running(name, router_command(front, options), options.out))
            options.pids[front.name] = router.pid
            processes[front.name] = router
        for front in (alone, *both, in_turn, *paired):
            took = wait_for(f"{front.url}/readyz", processes[front.workers[0].name], _START_S)
            say("ready", front=front.name, took_s=round(took, 1))
        for server in singles + pairs:
            # A router is ready with its first worker.
            only = Front(f"warm {server.name}", [server], 80 + 2 * server.port)
            step(f"warm {server.name}", partial(_warm, only, options))
        began = time.monotonic()
        while options.wait_for and not options.wait_for.exists() and time.monotonic() - began < options.wait_s:
            time.sleep(0.2)
        say("measuring", waited_s=round(time.monotonic() - began, 1))
        for number in range(options.rounds):
            step("one", partial(scale, "one worker", [alone], 1, 3 * number + 1, options))
            step("all", partial(scale, "all workers", both, options.gpus, 3 * number + 2, options))
        if paired:
            step("pairs", partial(scale, "pairs", paired, len(pairs), 3 * options.rounds + 1, options))
        for number in range(options.rounds):
            for front in (both[0], in_turn):
                step(front.policy, partial(shared, front, 100 + 2 * number + (front is in_turn), options))


def _warm(front: Front, options: argparse.Namespace) -> None:
    name = f"fleet-{front.name}".replace(" ", "-")
    with running(name, router_command(front, options), options.out) as router:
        wait_for(f"{front.url}/readyz", router, _START_S)
        lengths = ("--prompt", "64", "--output", "32", "--requests", "64", "--concurrency", "64")
        bench(front.url, options.out / f"{name}.json", *lengths)


if __name__ == "__main__":
    main()
