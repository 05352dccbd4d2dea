"""Real deployments with the simulated engine: up, ps, logs, chat, restart, stop."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from qwenserve.cli.readiness import is_http_ready, is_serving
from qwenserve.cli.state import DeploymentRecord, StateDirectory
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.cli.conftest import LIMIT_S, ROOT, CommandLine
from tests.cli.waiting import until

FAST = (
    "--engine", "simulated", "--http-port", "0", "--grpc-port", "0",
    "--set", "worker.simulated.step_ms=0", "--set", "worker.simulated.prefill_tokens_per_s=1000000",
)  # fmt: skip


def one_answer(qwenserve: CommandLine, deployment: str) -> str:
    """What the simulated engine says in three tokens, which are letters."""
    return qwenserve("chat", deployment, stdin="/params max_tokens=3\nhello\n").splitlines()[1]


def still_running(record: DeploymentRecord) -> list[str]:
    """Names of a deployment's processes that have not ended."""
    return [p.name for p in record.processes if p.identity is not None and p.identity.alive]


pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running(qwenserve: CommandLine) -> Iterator[Callable[[], DeploymentRecord]]:
    """A detached deployment with two of everything but tokenizers; returns its record."""
    qwenserve("up", "--name", "fleet", "--detach", *FAST, "--workers", "2", "--routers", "2", "--tokenizers", "1")
    yield lambda: StateDirectory(qwenserve.state).find("fleet")
    qwenserve("stop", "fleet")


def test_every_process_serves(running):
    """All processes are ready when `up` returns, each with a pid of its own."""
    record = running()

    assert record.state == "ready"
    assert [p.name for p in record.processes] == ["worker-0", "worker-1", "tokenizer-0", "router-0", "router-1"]
    assert len({p.identity.pid for p in record.processes}) == 5
    assert all(p.identity.alive for p in record.processes)


async def test_faces_answer(running):
    """gRPC health, HTTP readiness, and each tier's own address."""
    record = running()

    assert await is_http_ready(record.http)
    assert [await is_serving(p.address) for p in record.processes] == [True] * 5


async def test_workers_are_for_their_own_routers(running):
    """`up` makes a token: another process of this machine that finds a worker's port cannot use it."""
    record = running()
    worker = next(process for process in record.processes if process.tier == "worker")

    async with grpc.aio.insecure_channel(worker.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker_pb2_grpc.WorkerServiceStub(channel).GetLoad(worker_pb2.GetLoadRequest(), timeout=LIMIT_S)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_http_answers(running):
    """The curl line that `up` prints works."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}).encode()
    request = urllib.request.Request(
        f"http://{running().http}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )

    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        answer = json.load(response)

    assert answer["usage"]["completion_tokens"] == 4


def test_ps(qwenserve, running):
    """The table has the ports, the name, the supervisor's pid, the state and where it came from."""
    record = running()

    header, *rows = qwenserve("ps").splitlines()

    ports = f"{record.http.split(':')[1]},{record.grpc.split(':')[1]}"
    assert header.split() == ["PORT(HTTP,RPC)", "NAME", "PID", "STATE", "PATH"]
    expected = [ports, "fleet", str(record.supervisor.pid), "ready", str(ROOT / "models" / "qwen3-tiny")]
    assert expected in [row.split() for row in rows]
    assert "worker-1" in qwenserve("ps", "--processes")


def test_chat_over_a_pipe(qwenserve, running):
    """Questions come from standard input; the answers, and nothing else, go to standard output."""
    script = "/params max_tokens=3\nhello\n/stats\nagain\n"

    lines = qwenserve("chat", "fleet", stdin=script).splitlines()

    assert lines[0] == "max_tokens=3"
    assert len(lines[1]) == 3, "the simulated engine's tokens are letters"
    assert re.fullmatch(
        r"\d+ prompt tokens( \(\d+ cached\))?, 3 answer tokens, first after \d+ ms, .* tokens/s", lines[-1]
    )


def test_failed_question_gives_a_failing_exit_code(qwenserve, running):
    """A script that pipes questions learns that one failed."""
    output = qwenserve("chat", "fleet", stdin="/params temperature=9\nhello\n", code=1)

    assert "temperature" in output


def test_saved_chat_is_continued(qwenserve, running, tmp_path):
    """A chat that was saved goes on in another process."""
    file = tmp_path / "chat.json"
    qwenserve("chat", "fleet", stdin=f"/params max_tokens=2\nhello\n/save {file}\n")

    assert "loaded 2 messages" in qwenserve("chat", "fleet", stdin=f"/load {file}\n/undo\n")
    assert json.loads(file.read_text())["messages"][0]["content"] == "hello"


def test_logs(qwenserve, running):
    """Each line is named after its process; one process can be chosen."""
    lines = qwenserve("logs", "fleet").splitlines()

    assert {line.split()[0] for line in lines} >= {"worker-0", "worker-1", "tokenizer-0", "router-0", "router-1"}
    events = [json.loads(line)["event"] for line in qwenserve("logs", "fleet", "--process", "worker-0").splitlines()]
    assert "ready" in events
    assert "worker-1" in qwenserve("logs", "fleet", "--process", "nobody", code=1)


def test_name_is_taken(qwenserve, running):
    """A second deployment of that name is refused before anything is started."""
    output = qwenserve("up", "--name", "fleet", "--detach", *FAST, code=1)

    assert "qwenserve stop fleet" in output


def test_taken_port_is_named(qwenserve, running):
    """The port of a running deployment is not shared by accident, many routers or not."""
    port = running().grpc.split(":")[1]
    output = qwenserve(
        "up",
        "--engine",
        "simulated",
        "--routers",
        "2",
        "--name",
        "other",
        "--http-port",
        "0",
        "--grpc-port",
        port,
        code=1,
    )

    assert f"router.port: cannot listen on 127.0.0.1:{port}" in output
    assert "--set router.port=" in output


def test_dead_worker_is_restarted(qwenserve, running):
    """A worker that dies is reported, started again, and takes requests again."""
    before = next(p for p in running().processes if p.name == "worker-0")
    os.kill(before.identity.pid, signal.SIGKILL)

    def back() -> bool:
        now = next(p for p in running().processes if p.name == "worker-0")
        return bool(now.restarts == 1 and now.state == "ready" and running().state == "ready")

    until(back, "worker-0 is ready again")
    assert "worker-0: ended (signal SIGKILL); restart 1" in qwenserve("logs", "fleet", "--process", "supervisor")
    assert len(one_answer(qwenserve, "fleet")) == 3


def test_stop_drains(qwenserve):
    """After `stop` all processes are gone, the record too, and the logs are still there."""
    qwenserve("up", "--name", "brief", "--detach", *FAST)
    record = StateDirectory(qwenserve.state).find("brief")

    follower = qwenserve.start("logs", "brief", "--follow")

    output = qwenserve("stop", "brief")

    followed, _ = follower.communicate(timeout=LIMIT_S)
    assert "draining" in followed
    assert "brief is stopped" in output
    assert still_running(record) == []
    assert "brief" not in qwenserve("ps")
    assert '"event": "stopped"' in qwenserve("logs", "brief", "--process", "worker-0")


def test_killed_supervisor_leaves_nothing_that_stop_cannot_find(qwenserve):
    """Processes whose supervisor was killed are shown as orphaned, and `stop` ends them."""
    qwenserve("up", "--name", "orphan", "--detach", *FAST)
    record = StateDirectory(qwenserve.state).find("orphan")
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: not record.supervisor.alive, "the supervisor is gone")

    assert "orphaned" in qwenserve("ps")
    qwenserve("stop", "orphan")

    assert still_running(record) == []


@pytest.mark.parametrize("same", [True, False])
def test_the_next_up_takes_over_what_a_killed_supervisor_left(qwenserve, same):
    """Processes with the same settings serve on under the new supervisor; others are drained and replaced."""
    qwenserve("up", "--name", "left", "--detach", *FAST)
    state = StateDirectory(qwenserve.state)
    before = state.find("left")
    os.kill(before.supervisor.pid, signal.SIGKILL)
    until(lambda: not before.supervisor.alive, "the supervisor is gone")
    port = before.grpc.split(":")[1]
    told = qwenserve("up", "--name", "other", "--detach", *FAST, "--grpc-port", port, code=1)
    assert "it is the deployment 'left' (orphaned" in told

    changed = () if same else ("--set", "http.max_body_bytes=4096")
    qwenserve("up", "--name", "left", "--detach", *FAST, *changed)

    after = state.find("left")
    assert (after.state, after.http, after.grpc) == ("ready", before.http, before.grpc)
    pids = [[p.identity.pid for p in record.processes if p.identity] for record in (before, after)]
    assert (pids[0] == pids[1]) is same
    assert bool(still_running(before)) is same
    assert len(one_answer(qwenserve, "left")) == 3
    worker = after.processes[0].identity
    assert worker is not None
    worker.send(signal.SIGKILL)
    until(lambda: state.find("left").processes[0].restarts == 1, "the new supervisor restarts it")
    qwenserve("stop", "left")
    assert still_running(after) == []


def test_restart_replaces_every_process(qwenserve):
    """The command names each process and returns when all are new; what they replaced drains, and ends soon."""
    qwenserve("up", "--name", "renewed", "--detach", *FAST)
    state = StateDirectory(qwenserve.state)
    before = state.find("renewed")

    output = qwenserve("restart", "renewed")

    assert "worker-0: restarted" in output
    assert "router-0: restarted" in output
    until(lambda: still_running(before) == [], "the processes that were replaced ended")
    assert len(one_answer(qwenserve, "renewed")) == 3
    qwenserve("stop", "renewed")


def test_force_does_not_wait(qwenserve):
    """A forced stop ends answers under way."""
    qwenserve("up", "--name", "slow", "--detach", *FAST, "--set", "worker.simulated.step_ms=200")
    record = StateDirectory(qwenserve.state).find("slow")
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    with socket.create_connection(tuple(record.http.split(":")), LIMIT_S) as stream:  # type: ignore[arg-type]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        stream.sendall(head.encode() + body)
        assert stream.recv(4096).startswith(b"HTTP/1.1 200")

        qwenserve("stop", "slow", "--force")

    assert still_running(record) == []


def test_start_that_fails_shows_why(qwenserve):
    """A process that dies at start ends the deployment; its last lines are shown and the exit code tells."""
    output = qwenserve("up", "--name", "broken", "--detach", *FAST, "--set", "worker.simulated.answer=x,y", code=1)

    assert "worker-0 ended (exit code 1)" in output
    assert "engine_not_started" in output
    assert "failed" in qwenserve("ps")
    qwenserve("stop", "broken")
    assert "broken" not in qwenserve("ps")


def test_foreground_drains_on_interrupt(qwenserve):
    """`up` stays; ctrl-C drains and ends with 0."""
    process = qwenserve.start("up", "--name", "front", *FAST, "--ask", "Who are you?")
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "ctrl-C drains" in line:
                break
        text = "".join(lines)
        assert "curl http://127.0.0.1:" in text
        assert "> Who are you?" in text
        assert "answer tokens" in text
        assert "simulated" in text

        process.send_signal(signal.SIGINT)

        rest, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, rest
        assert "draining" in rest
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_interrupted_detach_leaves_nothing_behind(qwenserve):
    """ctrl-C before a background deployment is ready takes it back."""
    process = qwenserve.start("up", "--name", "hasty", "--detach", *FAST)
    assert process.stdout is not None
    try:
        assert "starting hasty" in process.stdout.readline()

        process.send_signal(signal.SIGINT)

        rest, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130, rest
        assert "hasty is stopped" in rest
        assert "hasty" not in qwenserve("ps")
        assert not StateDirectory(qwenserve.state).deployment("hasty").plan_file.exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_up_starts_an_archive(qwenserve, tmp_path):
    """What was packed runs from the archive alone."""
    archive = tmp_path / "packed.tar"
    qwenserve(
        "pack", "-o", str(archive), "--with-model", "--set", "worker.engine=simulated", "--set", "model.name=Packed"
    )

    output = qwenserve("up", str(archive), "--detach", "--http-port", "0", "--grpc-port", "0")

    assert "qwenserve chat packed" in output
    record = StateDirectory(qwenserve.state).find("packed")
    assert (record.path, record.model) == (str(archive), "Packed")
    assert len(one_answer(qwenserve, "packed")) == 3
    qwenserve("stop", "packed")


def test_own_folders_named_like_ours_do_no_harm(qwenserve):
    """A folder `router` in the user's directory is not taken for the router."""
    for name in ("router", "worker"):
        folder = qwenserve.state.parent / name
        folder.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('the wrong package')")

    qwenserve("up", "--name", "names", "--detach", *FAST)
    qwenserve("stop", "names")


def test_keys_guard_both_faces_and_stay_unseen(qwenserve, monkeypatch):
    """With a key configured a chat needs it; the key is in no process's arguments and no record."""
    qwenserve("up", "--name", "keyed", "--detach", *FAST, "--set", "auth.keys=[topsecret]")
    record = StateDirectory(qwenserve.state).find("keyed")

    assert "no API key given" in qwenserve("chat", "keyed", stdin="hello\n", code=1)
    chat = ("chat", "keyed", "--api-key", "topsecret")
    assert len(qwenserve(*chat, stdin="/params max_tokens=3\nhello\n").splitlines()[1]) == 3
    commands = [Path(f"/proc/{p.identity.pid}/cmdline").read_bytes() for p in record.processes if p.identity]
    assert not any(b"topsecret" in command for command in commands)
    assert "topsecret" not in record.model_dump_json()
    qwenserve("stop", "keyed")


def test_chat_starts_what_it_needs(qwenserve, tmp_path, monkeypatch):
    """`chat --model` runs the embedded engine on a model directory for as long as the chat lasts."""
    monkeypatch.setitem(qwenserve.environment, "XDG_CACHE_HOME", str(tmp_path))

    output = qwenserve(
        "chat", "--model", str(ROOT / "models" / "qwen3-tiny"), "--stats", stdin="/params max_tokens=8\nHello!\n"
    )

    assert "8 answer tokens" in output
    assert list((tmp_path / "qwenserve" / "gguf").rglob("*.gguf"))
    assert "chat-" not in qwenserve("ps")


# Runs the command line, and sends itself a signal at a moment that no other process can hit for certain.
ENDED_AT = """
import os, sys
from qwenserve.cli.main import main
from {module} import {owner}

unpatched = {owner}.{method}

def told_to_end(self, *given):
    result = unpatched(self, *given)
    if {condition}:
        os.kill(os.getpid(), {number})
    return result

{owner}.{method} = told_to_end
sys.exit(main(sys.argv[1:]))
"""
MOMENTS = {
    "ready": {
        "module": "qwenserve.cli.state",
        "owner": "Deployment", "method": "write", "condition": "given[0].state == 'ready'",
    },
    "between ready and the first question": {
        "module": "qwenserve.cli.output", "owner": "Output", "method": "line", "condition": "'simulated' in given[0]",
    },
    "waiting for a question": {
        "module": "qwenserve.cli.chat.lines", "owner": "PipedQuestions", "method": "next", "condition": "True",
    },
}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_chat_leaves_nothing_behind(qwenserve, moment, number):
    """A chat that is told to end stops what it started, whenever that comes, and though its input stays open."""
    program = ENDED_AT.format(number=number.value, **MOMENTS[moment])
    chat = subprocess.Popen(
        [sys.executable, "-I", "-c", program, "chat", "--engine", "simulated"],
        cwd=qwenserve.state.parent, env=qwenserve.environment, stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert chat.wait(LIMIT_S) == 128 + number
        assert f"chat-{chat.pid}" not in qwenserve("ps")
    finally:
        chat.kill()
        chat.communicate()
