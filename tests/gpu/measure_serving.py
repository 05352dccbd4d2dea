"""The same load on an engine's own server, on this stack with the engine in its worker, and on the engine offline.

    python -m tests.gpu.measure_serving ENGINE MODEL_DIRECTORY [--streams 128,256] [--rounds 2] [--tokens 1024] …

One server after the other on one card, each for all its rounds; clients and servers share the machine. Prints one line
of JSON a round: tokens/s, times at the client, and the cores that each group of processes used meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.report import say

PORT = 18200
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


def rounds(name: str, url: str, processes: dict[str, int], options: argparse.Namespace) -> None:
    """Every round at one server."""
    warm = load(url, 64, 64, 7, options.out / f"{name}-warm.json")
    say("warm-up", server=name, failed=warm["failed"], errors=warm["errors"])
    for streams in options.streams:
        for number in range(options.rounds):
            before = {part: cores_of(pid) for part, pid in processes.items()}
            began = time.monotonic()
            figures = load(url, streams, options.tokens, 100 + number, options.out / f"{name}-{streams}-{number}.json")
            wall = figures["duration_s"]
            used = {
                f"{part}:{process}": round((seconds - before[part].get(process, 0.0)) / wall, 3)
                for part, pid in processes.items()
                for process, seconds in cores_of(pid).items()
            }
            say(
                "round",
                server=name,
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


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """What every server of a comparison gets."""
    if options.engine == "vllm":
        return {"gpu_memory_utilization": 0.9, "max_num_batched_tokens": 8192, **options.option}
    return dict(options.option)


def options_setting(options: argparse.Namespace) -> dict[str, Any]:
    """The same, as this stack takes it; the simulated engine, for trying this script out, has none."""
    if options.engine == "simulated":
        return {}
    return {f"worker.{options.engine}.options": {"dtype": "bfloat16", **engine_options(options)}}


def own(options: argparse.Namespace) -> None:
    """The engine's own server."""
    streams = max(options.streams)
    common = ["--port", str(PORT), "--host", "127.0.0.1"]
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
    with running("own", [sys.executable, *command, *common], options.out) as process:
        took = wait_for(f"http://127.0.0.1:{PORT}/health", process, 240)
        say("ready", server="own", took_s=round(took, 1))
        rounds("own", f"http://127.0.0.1:{PORT}", {"server": process.pid}, options)


def ours(options: argparse.Namespace) -> None:
    """A router and a worker."""
    settings = {
        "model.reference": str(options.model),
        "model.weights": "random",
        "model.max_model_len": options.window,
        "worker.engine": options.engine,
        "worker.max_running": max(options.streams),
        "worker.port": PORT + 1,
        "worker.stall_timeout_s": 60,
        **options_setting(options),
        **{f"worker.{options.engine}.{key}": value for key, value in options.setting.items()},
        "router.workers": [f"127.0.0.1:{PORT + 1}"],
        "router.port": PORT + 2,
        "http.port": PORT + 3,
        "log.level": "warning",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "qwenserve.cli.main"]
    url = f"http://127.0.0.1:{PORT + 3}"
    with (
        running("worker", [*command, "worker", *flags], options.out) as worker,
        running("router", [*command, "router", *flags], options.out) as router,
    ):
        took = wait_for(f"{url}/readyz", worker, 240)
        say("ready", server="ours", took_s=round(took, 1))
        rounds("ours", url, {"worker": worker.pid, "router": router.pid}, options)


OFFLINE = """
import json, sys, time, random
def main():
    directory, window, streams, rounds, tokens, options = json.loads(sys.argv[1])
    from vllm import LLM, SamplingParams
    llm = LLM(directory, load_format="dummy", dtype="bfloat16", max_model_len=window, max_num_seqs=max(streams),
              skip_tokenizer_init=True, disable_log_stats=True, **options)
    def once(count, length, seed):
        r = random.Random(seed)
        prompts = [{"prompt_token_ids": [r.randrange(1000, 3900) for _ in range(length)]} for _ in range(count)]
        p = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, detokenize=False)
        t = time.perf_counter()
        out = llm.generate(prompts, p, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in out) / (time.perf_counter() - t)
    once(64, 64, 1)
    for n in streams:
        for k in range(rounds):
            print("OFFLINE", json.dumps([n, round(once(n, tokens, 100 + k), 1)]), flush=True)
if __name__ == "__main__":
    main()
"""


def offline(options: argparse.Namespace) -> None:
    """vLLM's `generate`, in a process of its own."""
    script = options.out / "offline.py"
    script.write_text(OFFLINE)
    given = [str(options.model), options.window, options.streams, options.rounds, options.tokens]
    argument = json.dumps([*given, engine_options(options)])
    done = subprocess.run([sys.executable, str(script), argument], capture_output=True, text=True, check=False)
    (options.out / "offline.log").write_text(done.stdout + done.stderr)
    for line in done.stdout.splitlines():
        if line.startswith("OFFLINE "):
            streams, rate = json.loads(line.removeprefix("OFFLINE "))
            say("round", server="offline", streams=streams, tokens_per_s=rate)
    if done.returncode:
        say("FAILED", server="offline", error=done.stderr[-800:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=lambda text: [int(part) for part in text.split(",")], default=[128])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--servers", default="own,ours,offline")
    parser.add_argument("--option", type=json.loads, default={}, help="of the engine, for all servers")
    parser.add_argument("--setting", type=json.loads, default={}, help="of this stack's engine section")
    parser.add_argument("--out", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.window = 2 * options.tokens + 16
    for name in options.servers.split(","):
        try:
            {"own": own, "ours": ours, "offline": offline}[name](options)
        except Exception as error:  # noqa: PERF203  # the others are measured all the same
            say("FAILED", server=name, error=f"{type(error).__name__}: {str(error)[:1500]}")


if __name__ == "__main__":
    main()
