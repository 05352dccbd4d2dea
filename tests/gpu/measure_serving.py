"""The same load on an engine's own server, on this stack with the engine in its worker, and on the engine offline.

    python -m tests.gpu.measure_serving ENGINE MODEL_DIRECTORY [--streams 128,256] [--rounds 2] [--tokens 1024] …

One server after the other on one card, each for all its rounds, or with `--in-turn CACHE_GIB` all at once on it, each
with a KV cache of so many GiB, and one round of each after the other. Clients and servers share the machine. Prints one
line of JSON a round: tokens/s, times at the client, and the cores that each group of processes used meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.gpu.report import say

PORT = 18200
_START_S = 240.0
_WAIT_S = 400.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cores_of(root: int) -> dict[str, float]:
    """CPU seconds of a process and those below it, by what they are called."""
    parents: dict[int, list[int]] = {}
    seconds: dict[int, tuple[str, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            head, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
        seconds[int(entry.name)] = (head.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICKS)
    found: dict[str, float] = {}

    def walk(pid: int) -> None:
        name, used = seconds.get(pid, ("", 0.0))
        found[name] = found.get(name, 0.0) + used
        for child in parents.get(pid, ()):
            walk(child)

    walk(root)
    return found


def wait_for(url: str, process: subprocess.Popen[bytes], limit_s: float) -> float:
    """Waits until an address answers 200; returns how long it took."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode} before {url} answered")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return time.monotonic() - began
        time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within {limit_s:.0f} s")


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], logs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, told to stop and waited for at the end. `environment`: all of it, where it is not this process's."""
    with (logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def load(url: str, streams: int, tokens: int, seed: int, output: Path) -> dict[str, Any]:
    """Runs `qwenserve bench serve` and returns its figures."""
    command = [sys.executable, "-m", "qwenserve.bench", "serve", "--url", url, "--api", "completions"]
    command += ["--requests", str(streams), "--concurrency", str(streams), "--seed", str(seed)]
    command += ["--prompt", str(tokens), "--output", str(tokens), "--token-range", "1000:3900", "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    if not output.exists():
        raise RuntimeError(f"no result: {done.stdout[-500:]} {done.stderr[-1500:]}")
    document = json.loads(output.read_text())
    figures: dict[str, Any] = document["runs"][0]["figures"]
    return figures


class Server(NamedTuple):
    """A server that is up: where it is, and its processes by what they are."""

    name: str
    url: str
    processes: dict[str, int]

    def warm(self, options: argparse.Namespace) -> None:
        warm = load(self.url, 64, 64, 7, options.out / f"{self.name}-warm.json")
        say("warm-up", server=self.name, failed=warm["failed"], errors=warm["errors"])

    def round(self, streams: int, number: int, options: argparse.Namespace) -> None:
        before = {part: cores_of(pid) for part, pid in self.processes.items()}
        began = time.monotonic()
        out = options.out / f"{self.name}-{streams}-{number}.json"
        figures = load(self.url, streams, options.tokens, 100 + number, out)
        wall = figures["duration_s"]
        used = {
            f"{part}:{process}": round((seconds - before[part].get(process, 0.0)) / wall, 3)
            for part, pid in self.processes.items()
            for process, seconds in cores_of(pid).items()
        }
        say(
            "round",
            server=self.name,
            streams=streams,
            tokens_per_s=round(figures["output_tokens_per_s"], 1),
            failed=figures["failed"],
            errors=figures["errors"],
            ttft_ms=[round(figures["ttft_ms"][p], 1) for p in ("p50", "p99")],
            tpot_ms=[round(figures["tpot_ms"][p], 2) for p in ("p50", "p99")],
            gap_ms=[round(figures["itl_ms"][p], 2) for p in ("p50", "p99")],
            cores={part: share for part, share in used.items() if share >= 0.005},
            took_s=round(time.monotonic() - began, 1),
        )


class Offline:
    """vLLM's `generate`, in a process of its own that does a round when it is told to."""

    name = "offline"

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def warm(self, options: argparse.Namespace) -> None:
        self._rate(64, 64, 1)

    def round(self, streams: int, number: int, options: argparse.Namespace) -> None:
        rate = self._rate(streams, options.tokens, 100 + number)
        say("round", server=self.name, streams=streams, tokens_per_s=rate)

    def _rate(self, streams: int, tokens: int, seed: int) -> float:
        told, asked = self._process.stdout, self._process.stdin
        assert told is not None
        assert asked is not None
        asked.write(f"{streams} {tokens} {seed}\n".encode())
        asked.flush()
        for line in told:
            if line.startswith(b"OFFLINE "):
                return float(line.split()[1])
        raise RuntimeError(f"the process ended with {self._process.wait()}; its log says why")


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """What every server of a comparison gets."""
    if options.engine != "vllm":
        return dict(options.option)
    memory: dict[str, Any] = {"gpu_memory_utilization": 0.9}
    if options.in_turn:
        memory = {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": options.in_turn << 30}
    return {**memory, "max_num_batched_tokens": 8192, **options.option}


def options_setting(options: argparse.Namespace) -> dict[str, Any]:
    """The same, as this stack takes it; the simulated engine, for trying this script out, has none."""
    if options.engine == "simulated":
        return {}
    return {f"worker.{options.engine}.options": {"dtype": "bfloat16", **engine_options(options)}}


@contextlib.contextmanager
def own(options: argparse.Namespace) -> Iterator[Callable[[], Server]]:
    """The engine's own server."""
    port = options.port
    common = ["--port", str(port), "--host", "127.0.0.1"]
    streams = max(options.streams)
    if options.engine == "vllm":
        command = ["-m", "vllm.entrypoints.cli.main", "serve", str(options.model), "--load-format", "dummy"]
        command += ["--dtype", "bfloat16", "--max-model-len", str(options.window), "--max-num-seqs", str(streams)]
        command += ["--no-enable-log-requests", "--disable-uvicorn-access-log", "--disable-log-stats"]
    else:
        command = ["-m", "sglang.launch_server", "--model-path", str(options.model), "--load-format", "dummy"]
        command += ["--dtype", "bfloat16", "--context-length", str(options.window)]
        command += ["--max-running-requests", str(streams), "--log-level", "warning"]
    for key, value in engine_options(options).items():
        flag = f"--{key.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    with running("own", [sys.executable, *command, *common], options.out, caches("own", options)) as process:

        def ready() -> Server:
            took = wait_for(f"http://127.0.0.1:{port}/health", process, _START_S)
            say("ready", server="own", took_s=round(took, 1))
            return Server("own", f"http://127.0.0.1:{port}", {"server": process.pid})

        yield ready


@contextlib.contextmanager
def ours(options: argparse.Namespace) -> Iterator[Callable[[], Server]]:
    """A router and a worker."""
    port = options.port
    settings = {
        "model.reference": str(options.model),
        "model.weights": "random",
        "model.max_model_len": options.window,
        "worker.engine": options.engine,
        "worker.max_running": max(options.streams),
        "worker.port": port + 1,
        "worker.stall_timeout_s": 60,
        **options_setting(options),
        **{f"worker.{options.engine}.{key}": value for key, value in options.setting.items()},
        "router.workers": [f"127.0.0.1:{port + 1}"],
        "router.port": port + 2,
        "http.port": port + 3,
        "log.level": "warning",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "qwenserve.cli.main"]
    url = f"http://127.0.0.1:{port + 3}"
    with (
        running("worker", [*command, "worker", *flags], options.out, caches("ours", options)) as worker,
        running("router", [*command, "router", *flags], options.out) as router,
    ):

        def ready() -> Server:
            took = wait_for(f"{url}/readyz", worker, _START_S)
            say("ready", server="ours", took_s=round(took, 1))
            return Server("ours", url, {"worker": worker.pid, "router": router.pid})

        yield ready


OFFLINE = """
import json, sys, time, random
def main():
    directory, window, streams, options = json.loads(sys.argv[1])
    from vllm import LLM, SamplingParams
    llm = LLM(directory, load_format="dummy", dtype="bfloat16", max_model_len=window, max_num_seqs=streams,
              skip_tokenizer_init=True, disable_log_stats=True, **options)
    print("READY", flush=True)
    for line in sys.stdin:
        count, length, seed = map(int, line.split())
        r = random.Random(seed)
        prompts = [{"prompt_token_ids": [r.randrange(1000, 3900) for _ in range(length)]} for _ in range(count)]
        p = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False)
        t = time.perf_counter()
        out = llm.generate(prompts, p, use_tqdm=False)
        rate = sum(len(o.outputs[0].token_ids) for o in out) / (time.perf_counter() - t)
        print("OFFLINE", round(rate, 1), flush=True)
if __name__ == "__main__":
    main()
"""


@contextlib.contextmanager
def offline(options: argparse.Namespace) -> Iterator[Callable[[], Offline]]:
    """vLLM's `generate`."""
    script = options.out / "offline.py"
    script.write_text(OFFLINE)
    argument = json.dumps([str(options.model), options.window, max(options.streams), engine_options(options)])
    with (
        (options.out / "offline.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(script), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=caches("offline", options),
        ) as process,
    ):

        def ready() -> Offline:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"READY"):
                    return Offline(process)
            raise RuntimeError(f"offline ended with {process.wait()}; offline.log says why")

        try:
            yield ready
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def caches(name: str, options: argparse.Namespace) -> dict[str, str]:
    """The environment of a server: what it compiles at the same time as another is its own."""
    folder = options.out / "caches" / name
    return {**os.environ, **{key: str(folder / key) for key in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR")}}


def one_after_the_other(options: argparse.Namespace) -> None:
    for name in options.servers.split(","):
        try:
            with SERVERS[name](options) as ready:
                server = ready()
                server.warm(options)
                for streams in options.streams:
                    for number in range(options.rounds):
                        server.round(streams, number, options)
        except Exception as error:  # noqa: PERF203  # the others are measured all the same
            say("FAILED", server=name, error=f"{type(error).__name__}: {str(error)[:1500]}")


def in_turn(options: argparse.Namespace) -> None:
    names = options.servers.split(",")
    with contextlib.ExitStack() as all_running:
        starting = {name: all_running.enter_context(SERVERS[name](options)) for name in names}
        up: list[Server | Offline] = []
        for name, ready in starting.items():
            try:
                server = ready()
                server.warm(options)
                up.append(server)
            except Exception as error:  # noqa: PERF203  # the others are measured all the same
                say("FAILED", server=name, error=f"{type(error).__name__}: {str(error)[:1500]}")
        began = time.monotonic()
        while options.wait_for and not options.wait_for.exists() and time.monotonic() - began < _WAIT_S:
            time.sleep(0.2)
        say("measuring", waited_s=round(time.monotonic() - began, 1))
        for streams in options.streams:
            for number in range(options.rounds):
                for server in up:
                    server.round(streams, number, options)


SERVERS: dict[str, Callable[[argparse.Namespace], contextlib.AbstractContextManager[Callable[[], Server | Offline]]]]
SERVERS = {"own": own, "ours": ours, "offline": offline}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=lambda text: [int(part) for part in text.split(",")], default=[128])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--servers", default="own,ours,offline")
    parser.add_argument("--in-turn", type=int, default=0, metavar="CACHE_GIB", help="all servers at once")
    parser.add_argument("--wait-for", type=Path, help="with --in-turn: measure only once this file exists")
    parser.add_argument("--port", type=int, default=PORT, help="and the three behind it")
    parser.add_argument("--option", type=json.loads, default={}, help="of the engine, for all servers")
    parser.add_argument("--setting", type=json.loads, default={}, help="of this stack's engine section")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.window = 2 * options.tokens + 16
    if options.in_turn:
        in_turn(options)
    else:
        one_after_the_other(options)


if __name__ == "__main__":
    main()
