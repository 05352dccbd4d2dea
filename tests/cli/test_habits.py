"""Command lines that people bring from other servers, and what a mistyped one is answered with."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenserve.cli.main import main
from qwenserve.cli.program import program
from qwenserve.cli.state import DeploymentRecord, StateDirectory
from qwenserve.runtime.config import load_config
from tests.cli.conftest import LIMIT_S, CommandLine

pytestmark = pytest.mark.timeout(180)

FAST = ("--engine", "simulated", "--grpc-port", "0", "--set", "worker.simulated.step_ms=0", "--detach")


def status(record: DeploymentRecord, model: str) -> int:
    """The status of a question to `model`."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    url = f"http://{record.http}/v1/chat/completions"
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def served(qwenserve: CommandLine) -> Iterator[tuple[DeploymentRecord, str]]:
    """A deployment started as vLLM's users would, and what was printed."""
    output = qwenserve(
        "serve", "models/qwen3-tiny", "--port", "0", "--host", "127.0.0.1", *FAST, "--name", "habits",
        "--ask", "Who are you?", "--served-model-name", "Mine", "yours",
    )  # fmt: skip
    yield StateDirectory(qwenserve.state).find("habits"), output
    qwenserve("stop", "habits")


def test_a_model_may_stand_where_a_configuration_file_may(served):
    """`serve MODEL` starts that model, and a detached one asks its question too."""
    record, output = served

    assert record.path.endswith("models/qwen3-tiny")
    assert "> Who are you?" in output
    assert "answer tokens" in output


@pytest.mark.parametrize(("model", "expected"), [("Mine", 200), ("YOURS", 200), ("", 200), ("qwen3-tiny", 404)])
def test_all_served_names_are_accepted(served, model, expected):
    """Every name given is the model's; its own no more."""
    assert status(served[0], model) == expected


def test_printed_steps_can_be_taken(served, qwenserve):
    """What is printed begins with a path that works, wherever the program is."""
    line = next(line for line in served[1].splitlines() if line.strip().endswith("chat habits"))

    assert line.split()[0].endswith("qwenserve")
    assert (qwenserve.state.parent / line.split()[0]).exists()


@pytest.mark.parametrize("form", ["{http}", "http://{http}", "http://{grpc}", "grpc://{grpc}", "{grpc}"])
def test_an_address_may_be_written_in_several_ways(served, qwenserve, form):
    """The HTTP port of a deployment of this machine means that deployment; a scheme is left out."""
    address = form.format(http=served[0].http, grpc=served[0].grpc)

    answer = qwenserve("chat", "--address", address, stdin="/params max_tokens=3\nhello\n").splitlines()[1]

    assert len(answer) == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost", "http://127.0.0.1:1/v1"])
def test_an_address_without_a_router_is_answered_at_once(qwenserve, address):
    """Nothing listens, or no port was given."""
    told = qwenserve("chat", "--address", address, stdin="x\n", code=1)

    assert "nothing listens at" in told or "expected HOST:PORT" in told


def test_a_foreign_http_server_is_named(qwenserve):
    """What speaks HTTP is no gRPC API, and that is said before any long wait."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            told = qwenserve("chat", "--address", f"127.0.0.1:{server.server_port}", stdin="x\n", code=1)
        finally:
            server.shutdown()
            thread.join()

    assert "is an HTTP server" in told


def test_run_takes_a_model(qwenserve, tmp_path):
    """`run MODEL` chats with a model that is started for it."""
    output = qwenserve(
        "run", "models/qwen3-tiny", "--engine", "simulated", stdin="/params max_tokens=3\nhello\n"
    ).splitlines()

    assert any(len(line) == 3 for line in output)


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("Qwen/Qwen3-4B", ("Qwen/Qwen3-4B", "Qwen3-4B")),
        ("models/qwen3-tiny", ("models/qwen3-tiny", "qwen3-tiny")),
        ("org/name/file.gguf", ("org/name/file", "file")),
        ("/data/models/mine/", ("mine",)),
        ("~/mine", ("mine",)),
        ("./mine", ("mine",)),
    ],
)
def test_default_names(reference, names):
    """The reference as given, and its last part; where files lie on a machine is not told to clients."""
    assert load_config(environment={}, overrides={"model.reference": reference}).config.model_names == names


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("up", "--wokers", "2"), "did you mean --workers?"),
        (("up", "--detached"), "did you mean --detach?"),
        (("worker", "--sett", "x=1"), "did you mean --set?"),
        (("bench", "serve", "--conurrency", "3"), "did you mean --concurrency?"),
        (("stop", "--xyzzy"), "see `qwenserve stop --help`"),
        (("ps", "surplus"), "unexpected argument 'surplus'"),
    ],
)
def test_a_wrong_flag_gets_the_nearest_one(capsys, arguments, told):
    """Of that very command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("up", "models/qwen3-tinny"), "did you mean models/qwen3-tiny?"),
        (("up", "nowhere.yaml"), "nowhere.yaml"),
        (("up", "models/qwen3-tiny", "--model", "x"), "two models"),
        (("run", "models/qwen3-tiny", "--model", "x"), "two models"),
    ],
)
def test_what_cannot_be_started_is_named(capsys, monkeypatch, tmp_path: Path, arguments, told):
    """A mistyped path is not looked for on the hub, and a file that is missing is one."""
    monkeypatch.setenv("QWENSERVE_STATE_DIR", str(tmp_path))

    assert main([*arguments, *(("--http-port", "0", "--grpc-port", "0") if arguments[0] == "up" else ())]) != 0

    assert told in capsys.readouterr().err


def test_version(capsys):
    """`--version` says which one this is."""
    with pytest.raises(SystemExit):
        main(["--version"])

    assert capsys.readouterr().out.startswith("qwenserve 0.")


def test_the_program_is_called_by_its_path_where_the_shell_does_not_find_it(monkeypatch):
    """And by its name where it does."""
    program.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    by_path = program()
    program.cache_clear()
    monkeypatch.setenv("PATH", str(Path(by_path).absolute().parent))

    assert program() == "qwenserve"
    assert Path(by_path).exists()
    program.cache_clear()
