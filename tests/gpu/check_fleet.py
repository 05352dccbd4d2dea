"""Workers of one engine behind routers: `python -m tests.gpu.check_fleet ENGINE QUANTIZED_DIRECTORY …`.

Two workers with exact weights behind one router, one with 16 bits and one for each quantized checkpoint behind a router
each, all at once on one card. Prints one line of JSON a fact: greedy ids of each over HTTP, answers that are bound to a
form behind a thought, what `engine check` finds between the workers, and an answer whose engine's process is killed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
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
from typing import Any, NamedTuple

import grpc

from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.gpu.check_stack import below
from tests.gpu.engines import CASES, MAX_MODEL_LEN, MAX_RUNNING, MODEL, SETUPS
from tests.gpu.measure_serving import PORT, running, wait_for
from tests.gpu.report import say, step

STORY = 7
START_S = 150.0
# Long enough that its engine is killed in the middle of it.
LONG = 700
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}},
    "required": ["city", "sure"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Stack(NamedTuple):
    """A router and its workers, by the ports after `PORT`."""

    name: str
    model: Path
    weights: str
    workers: tuple[int, ...]
    router: int
    http: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{PORT + self.http}"

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{PORT + port}" for port in self.workers]


def exact_stack() -> Stack:
    return Stack("exact", MODEL, "", (1, 2), 11, 21)


def single(name: str, model: Path, number: int) -> Stack:
    return Stack(name, model, "bf16", (number,), number + 10, number + 20)


def flags(engine: str, stack: Stack, port: int) -> list[str]:
    setup = SETUPS[engine]
    settings = {
        "model.reference": str(stack.model),
        "model.weights": stack.weights or setup.weights,
        "model.max_model_len": MAX_MODEL_LEN,
        "worker.engine": engine,
        "worker.max_running": MAX_RUNNING,
        "worker.name": f"{stack.name}-{port}".replace(" ", "-"),
        "worker.port": PORT + port,
        **{f"worker.{engine}.{key}": value for key, value in setup.settings.items()},
        "router.workers": stack.addresses,
        "router.port": PORT + stack.router,
        "http.port": PORT + stack.http,
        "log.level": "info",
    }
    if engine == "vllm":
        # All of them share the card.
        small = {"kv_cache_memory_bytes": 1 << 30, "gpu_memory_utilization": 0.05}
        settings[f"worker.{engine}.options"] = {**setup.settings["options"], **small}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.loads(error.read())}


def ids(url: str, prompt: Sequence[int], tokens: int) -> tuple[list[int], dict[str, Any]]:
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = ask(url, "/v1/completions", body)
    if "choices" not in answer:
        return [], answer
    return answer["choices"][0]["token_ids"], answer["usage"]


def greedy(stack: Stack) -> None:
    """Answers to all cases at once, against the fixture."""
    with ThreadPoolExecutor(len(CASES)) as pool:
        found = list(pool.map(lambda case: ids(stack.url, case["prompt_ids"], len(case["output_ids"])), CASES))
    equal = [case["name"] for case, (given, _) in zip(CASES, found, strict=True) if given == case["output_ids"]]
    say("greedy over HTTP", stack=stack.name, equal=len(equal), of=len(CASES), equal_cases=equal)


def forms(stack: Stack) -> None:
    """Answers that keep to a form behind a thought, and calls that must be made."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 400,
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    for what, more in (
        ("JSON schema behind a thought", {"response_format": form}),
        ("JSON schema, not thinking", {"response_format": form, "enable_thinking": False}),
        ("regular expression behind a thought", {"structured_outputs": {"regex": "[A-Z][a-z]{2,9}"}}),
        ("choice behind a thought", {"structured_outputs": {"choice": ["Paris", "Rome"]}}),
        ("a call that must come", {"tools": [TOOL], "tool_choice": "required"}),
    ):
        answer = ask(stack.url, "/v1/chat/completions", body | more)
        if "choices" not in answer:
            say("form", of=what, error=answer)
            continue
        (choice,) = answer["choices"]
        message = choice["message"]
        say(
            "form",
            of=what,
            finish=choice["finish_reason"],
            thought=len(message.get("reasoning_content") or message.get("reasoning") or ""),
            content=message.get("content"),
            calls=[call["function"] for call in message.get("tool_calls") or ()],
            keeps_to_it=keeps(what, message),
        )


def keeps(what: str, message: dict[str, Any]) -> bool:
    content = message.get("content") or ""
    try:
        if what.startswith("JSON"):
            given = json.loads(content)
            whole = given.keys() == {"city", "sure"} and isinstance(given["sure"], bool)
            return bool(whole and len(given["city"]) <= 12)
        if what.startswith("regular"):
            return re.fullmatch("[A-Z][a-z]{2,9}", content) is not None
        if what.startswith("choice"):
            return content in ("Paris", "Rome")
        (call,) = message["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        return bool(call["function"]["name"] == "get_weather" and arguments.keys() == {"city"})
    except (ValueError, KeyError, TypeError):
        return False


def agreement(a: Stack, b: Stack, out: Path) -> None:
    """What `engine check` finds between two workers."""
    command = [sys.executable, "-m", "qwenserve.cli.main", "engine", "check", a.addresses[0], b.addresses[0]]
    command += ["--tokenizer", str(MODEL), "--limit", "12", "--max-tokens", "256", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    name = f"check-{a.name}-{b.name}".replace(" ", "-")
    (out / f"{name}.json").write_text(done.stdout)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        say("FAILED", step=name, code=done.returncode, error=done.stderr[-1000:])
        return
    wanted = ("texts", "positions", "top1_agreement", "mean_kl", "perplexity_a", "perplexity_b", "greedy_agreement")
    say("engine check", a=a.name, b=b.name, code=done.returncode, **{key: found[key] for key in wanted})


def info(stack: Stack) -> None:
    """What a worker says of itself."""
    with grpc.insecure_channel(stack.addresses[0]) as channel:
        told = worker_pb2_grpc.WorkerServiceStub(channel).GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=10)
    say("worker", stack=stack.name, info=str(told)[:3000])


def load_of(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        return int(stub.GetLoad(worker_pb2.GetLoadRequest(), timeout=10).running)


def killed(stack: Stack, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """The engine's process behind a running answer is killed; the answer goes on at the other worker."""
    prompt = CASES[STORY]["prompt_ids"]
    began = time.monotonic()
    whole, _ = ids(stack.url, prompt, LONG)
    took = time.monotonic() - began
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(ids(stack.url, prompt, LONG)))
    began = time.monotonic()
    thread.start()
    place = -1
    while place < 0 and time.monotonic() - began < 10:
        place = next((n for n, address in enumerate(stack.addresses) if load_of(address)), -1)
    time.sleep(took / 3)
    processes = below(workers[place].pid)
    names = [(pid, name) for pid, name in processes if "EngineC" in name or "sched" in name.lower()]
    victim = names[0][0] if names else workers[place].pid
    os.kill(victim, signal.SIGKILL)
    at = time.monotonic()
    thread.join(60)
    given, usage = result[0] if result else ([], {})
    ended = time.monotonic()
    workers[place].wait(30)
    say(
        "engine's process killed",
        processes=processes,
        victim=victim,
        answered=len(given),
        equal=given == whole,
        first_difference=next((n for n, (a, b) in enumerate(zip(given, whole, strict=False)) if a != b), None),
        usage=usage,
        without_kill_s=round(took, 2),
        with_kill_s=round(ended - began, 2),
        worker_exit=workers[place].returncode,
        worker_exited_after_s=round(time.monotonic() - at, 2),
        left=[name for pid, name in processes if Path(f"/proc/{pid}").exists()],
    )
    say("after it", again=ids(stack.url, prompt, LONG)[0] == whole)


def main(arguments: Sequence[str]) -> None:
    engine, *directories = arguments
    out = Path(os.environ.get("OUT", "/tmp"))
    command = [sys.executable, "-m", "qwenserve.cli.main"]
    exact, plain = exact_stack(), single("16 bits", MODEL, 3)
    quantized = [single(Path(each).name, Path(each), number) for number, each in enumerate(directories, 4)]
    with contextlib.ExitStack() as all_running:

        def begin(kind: str, stack: Stack, port: int) -> subprocess.Popen[bytes]:
            name = f"{kind}-{stack.name}-{port}".replace(" ", "-")
            return all_running.enter_context(running(name, [*command, kind, *flags(engine, stack, port)], out))

        # What is still being made when the others begin is waited for at the end.
        early = [stack for stack in quantized if made(stack)]
        workers: dict[str, list[subprocess.Popen[bytes]]] = {}

        def start(*stacks: Stack) -> None:
            for stack in stacks:
                workers[stack.name] = [begin("worker", stack, port) for port in stack.workers]
            for stack in stacks:
                begin("router", stack, stack.workers[0])

        def ready(stack: Stack) -> None:
            took = wait_for(f"{stack.url}/readyz", workers[stack.name][0], START_S)
            say("ready", stack=stack.name, took_s=round(took, 1))

        def late(stack: Stack) -> None:
            began = time.monotonic()
            while not made(stack) and time.monotonic() - began < START_S:
                time.sleep(0.2)
            start(stack)
            ready(stack)

        start(*early, exact, plain)
        step("start", lambda: ready(exact))
        for stack in early:
            step(f"start {stack.name}", functools.partial(ready, stack))
            step(f"greedy {stack.name}", functools.partial(greedy, stack))
            step(f"agreement {stack.name}", functools.partial(agreement, exact, stack, out))
            step(f"worker {stack.name}", functools.partial(info, stack))
        step("greedy", lambda: greedy(exact))
        step("forms", lambda: forms(exact))
        step("killed", lambda: killed(exact, workers[exact.name]))
        step("start 16 bits", lambda: ready(plain))
        step("greedy 16 bits", lambda: greedy(plain))
        for stack in early:
            step(f"agreement 16 bits, {stack.name}", functools.partial(agreement, plain, stack, out))
        for stack in quantized:
            if stack not in early:
                step(f"start {stack.name}", functools.partial(late, stack))
                step(f"greedy {stack.name}", functools.partial(greedy, stack))
                step(f"agreement 16 bits, {stack.name}", functools.partial(agreement, plain, stack, out))
                step(f"worker {stack.name}", functools.partial(info, stack))


def made(stack: Stack) -> bool:
    """Whether the checkpoint is there; it appears by one rename."""
    return (stack.model / "config.json").exists()


if __name__ == "__main__":
    main(sys.argv[1:])
