"""The distributions that are built from this tree: they install one package, and what is in them runs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling builds the distributions; it is one of the dev extras")

ROOT = Path(__file__).parents[1]
LIMIT_S = 120.0

pytestmark = pytest.mark.timeout(400)


def built(folder: Path, target: Path) -> Path:
    """Builds a wheel of `folder` and unpacks it; returns where, which is what an installation would hold."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LIMIT_S)
    (wheel,) = target.glob("*.whl")
    installed = target / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def run(installed: Path, *arguments: str, **environment: str) -> str:
    """Runs Python with what was installed and the dependencies, and without this tree."""
    # -S leaves out the .pth file by which this tree is installed for its developers.
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=installed.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_by_itself(tmp_path: Path):
    """One package and nothing beside it; `up` answers with the model that comes along, far from this tree."""
    installed = built(ROOT, tmp_path)
    assert {entry.name.partition("-")[0] for entry in installed.iterdir()} == {"qwenserve"}
    state = {"QWENSERVE_STATE_DIR": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ports = ("--http-port", "0", "--grpc-port", "0")
    try:
        told = run(
            installed, "-m", "qwenserve.cli", "up", "--detach", "--name", "wheel", "--engine", "simulated",
            "--ask", "Who are you?", *ports, **state,
        )  # fmt: skip
        assert "answer tokens" in told
        assert str(installed / "qwenserve" / "models" / "qwen3-tiny") in run(
            installed, "-m", "qwenserve.cli", "ps", **state
        )
    finally:
        run(installed, "-m", "qwenserve.cli", "stop", "wheel", "--force", **state)


def test_the_client_has_the_public_stubs_and_needs_no_server(tmp_path: Path):
    """A program that calls a router imports these, and nothing of the server is there."""
    installed = built(ROOT / "clients" / "python", tmp_path)

    program = (
        "from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2\n"
        "from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc\n"
        "import importlib.util, grpc\n"
        "channel = grpc.insecure_channel('127.0.0.1:1')\n"
        "chat_pb2_grpc.ChatServiceStub(channel), tokenizer_pb2_grpc.TokenizerServiceStub(channel)\n"
        "print([importlib.util.find_spec(f'qwenserve.{name}') for name in ('router', 'worker', 'cli')])"
    )
    assert run(installed, "-c", program).strip() == "[None, None, None]"
    assert (installed / "qwenserve" / "py.typed").exists()
    public = {path.relative_to(ROOT / "protos/gen") for tier in ("chat", "tokenizer", "type")
              for path in (ROOT / "protos/gen/qwenserve" / tier).rglob("*.py")}  # fmt: skip
    assert {path.relative_to(installed) for path in installed.rglob("*.py")} == public
