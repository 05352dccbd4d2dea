"""An engine behind router and worker, over HTTP: `python -m tests.gpu.check_stack ENGINE`, one line of JSON a fact.

Greedy ids of all fixture cases at once, then the engine's own process killed with an answer under way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.gpu.engines import CASES, MAX_MODEL_LEN, MAX_RUNNING, MODEL, SETUPS
from tests.gpu.measure_serving import PORT, running, wait_for
from tests.gpu.report import say

URL = f"http://127.0.0.1:{PORT + 3}"


def ask(body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{URL}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def greedy(case: dict[str, Any]) -> bool:
    body = {
        "prompt": case["prompt_ids"],
        "max_tokens": len(case["output_ids"]),
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return bool(ask(body)["choices"][0]["token_ids"] == case["output_ids"])


def below(pid: int) -> list[tuple[int, str]]:
    """The processes below one, by a look at all."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found, parents = [], {pid}
    for _ in range(6):
        new = [(int(a), name) for a, b, name in rows if int(b) in parents and int(a) not in parents]
        found += new
        parents |= {each for each, _ in new}
    return found


def stream_until_it_ends(result: list[Any]) -> None:
    body = {
        "prompt": CASES[7]["prompt_ids"],
        "max_tokens": 1500,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{URL}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    events = 0
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            for line in answer:
                events += line.startswith(b"data:")
                result[0] = events
                if b"error" in line:
                    result[1] = line.decode()[:300]
    except OSError as error:
        result[1] = repr(error)
    result[2] = time.monotonic()


def main(arguments: Sequence[str]) -> None:
    (engine,) = arguments
    setup = SETUPS[engine]
    settings = {
        "model.reference": str(MODEL),
        "model.weights": setup.weights,
        "model.max_model_len": MAX_MODEL_LEN,
        "worker.engine": engine,
        "worker.max_running": MAX_RUNNING,
        "worker.port": PORT + 1,
        **{f"worker.{engine}.{key}": value for key, value in setup.settings.items()},
        "router.workers": [f"127.0.0.1:{PORT + 1}"],
        "router.port": PORT + 2,
        "router.continuation_wait_s": 2,
        "http.port": PORT + 3,
        "log.level": "info",
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "qwenserve.cli.main"]
    logs = Path(os.environ.get("OUT", "/tmp"))
    with (
        running("stack-worker", [*command, "worker", *flags], logs) as worker,
        running("stack-router", [*command, "router", *flags], logs),
    ):
        say("ready", took_s=round(wait_for(f"{URL}/readyz", worker, 240), 1))
        with ThreadPoolExecutor(len(CASES)) as pool:
            equal = list(pool.map(greedy, CASES))
        say("greedy through the stack", equal=sum(equal), of=len(CASES))
        result: list[Any] = [0, None, None]
        thread = threading.Thread(target=stream_until_it_ends, args=(result,))
        thread.start()
        while result[0] < 5 and thread.is_alive():
            time.sleep(0.01)
        processes = below(worker.pid)
        victim = next((pid for pid, name in processes if "EngineC" in name or "sched" in name.lower()), processes[0][0])
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        ready: float | None = None
        while time.monotonic() - began < 30:
            try:
                urllib.request.urlopen(f"{URL}/readyz", timeout=2).close()
            except (urllib.error.HTTPError, OSError):
                ready = round(time.monotonic() - began, 2)
                break
            time.sleep(0.02)
        worker.wait(30)
        exited = round(time.monotonic() - began, 2)
        thread.join(60)
        left = [name for pid, name in processes if Path(f"/proc/{pid}").exists()]
        say(
            "engine killed",
            processes=processes,
            not_ready_after_s=ready,
            worker_exit=worker.returncode,
            worker_exited_after_s=exited,
            stream_events=result[0],
            stream_end=result[1],
            stream_ended_after_s=round((result[2] or 0) - began, 2),
            left=left,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
