"""One process of a tier in the foreground: what service managers and containers start."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.cli.conftest import LIMIT_S, CommandLine
from tests.cli.waiting import until

pytestmark = pytest.mark.timeout(180)

FAST = ("--set", "worker.engine=simulated", "--set", "worker.simulated.step_ms=0")


def until_event(process: "subprocess.Popen[str]", event: str) -> dict[str, object]:
    """Reads a process's log up to an event, and returns it."""
    assert process.stdout is not None
    for line in process.stdout:
        told: dict[str, object] = json.loads(line)
        if told["event"] == event:
            return told
    raise AssertionError(f"ended with {process.wait(LIMIT_S)} before {event}")


@pytest.fixture
def start(qwenserve: CommandLine) -> Iterator[object]:
    processes: list[subprocess.Popen[str]] = []

    def run(tier: str, *arguments: str) -> "subprocess.Popen[str]":
        settings = [part for item in arguments for part in ("--set", item)]
        processes.append(qwenserve.start(tier, *FAST, *settings))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def status(url: str, body: object = None) -> int:
    """The status of a GET, or of a POST where there is a body."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_three_foreground_processes_are_a_deployment(start):
    """Each tier is started from a directory that holds no model; the first signal announces, the second ends."""
    worker = start("worker", "worker.port=0")
    tokenizer = start("tokenizer", "tokenizer.port=0")
    workers = f"router.workers=[127.0.0.1:{until_event(worker, 'ready')['port']}]"
    tokenizers = f"router.tokenizers=[127.0.0.1:{until_event(tokenizer, 'ready')['port']}]"
    router = start("router", "http.port=0", "router.port=0", workers, tokenizers, "drain_notice_s=600")
    url = f"http://127.0.0.1:{until_event(router, 'serving')['http_port']}"
    until_event(router, "ready")
    question = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}
    assert status(f"{url}/v1/chat/completions", question) == 200

    router.send_signal(signal.SIGTERM)

    until(lambda: status(f"{url}/readyz") == 503, "readiness says no")
    assert status(f"{url}/v1/chat/completions", question) == 200, "the listener is open, and answers"
    router.send_signal(signal.SIGTERM)
    assert router.wait(LIMIT_S) == 0
    for process in (worker, tokenizer):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--set", "worker.prot=1"), "did you mean 'worker.port'"),
        (("--set", "model.reference=./no-such-folder"), "no-such-folder does not exist"),
        (("--set", "model.reference=models/qwen3-tinny"), "did you mean models/qwen3-tiny"),
    ],
)
def test_what_cannot_start_says_why(qwenserve, arguments, told):
    """A bad setting or reference ends the process with 2, before anything listens."""
    assert told in qwenserve("worker", *arguments, code=2)
