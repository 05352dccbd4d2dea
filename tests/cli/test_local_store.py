"""A store that a deployment starts for itself."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest

from qwenserve.cli.drill.faults import DRILLS
from qwenserve.cli.errors import CommandError
from qwenserve.cli.local_store import ask_store, command, server_program, server_settings
from qwenserve.cli.main import main
from qwenserve.cli.plan import Addresses, Counts, make_plan
from qwenserve.cli.ports import Endpoint, free_endpoints
from qwenserve.cli.readiness import Health
from qwenserve.cli.state import StateDirectory
from qwenserve.runtime.config import Config
from tests.cli.conftest import LIMIT_S, CommandLine
from tests.cli.waiting import until
from tests.store.servers import why_none

real = pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")


@real
async def test_a_server_of_ones_own(tmp_path: Path):
    """It asks for its password, keeps to its bound, and its health is known without the password."""
    [endpoint] = free_endpoints("127.0.0.1", 1)
    file = tmp_path / "store.conf"
    file.write_text(server_settings(endpoint, password="t1", max_bytes=5_000_000))
    assert await ask_store(str(endpoint)) is Health.GONE
    process = await asyncio.create_subprocess_exec(
        server_program(), str(file), stdout=asyncio.subprocess.DEVNULL, cwd=tmp_path
    )
    try:

        async def serves() -> bool:
            return await ask_store(str(endpoint)) is Health.SERVING

        await asyncio.wait_for(_until(serves), LIMIT_S)
        assert await command(str(endpoint), "t1", "SET", "a", "b") == "+OK"
        assert await command(str(endpoint), "t1", "CONFIG", "SET", "maxmemory", "5000000") == "+OK"
        with pytest.raises(CommandError, match="NOAUTH"):
            await command(str(endpoint), "another", "SET", "a", "b")
    finally:
        process.terminate()
        await process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["store.conf"], "nothing was left on disk"


async def _until(look):
    while not await look():  # noqa: ASYNC110  # another process offers no event
        await asyncio.sleep(0.02)


async def test_a_server_that_hangs_is_silent_and_one_that_loads_does_not_serve():
    """What a supervisor makes of it: the first is ended, the second waited for."""
    said = [b""]

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        for line, health in (
            (b"-LOADING Redis is loading\r\n", Health.NOT_SERVING),
            (b"+PONG\r\n", Health.SERVING),
            (b"-NOAUTH Authentication required.\r\n", Health.SERVING),
        ):
            said[0] = line
            assert await ask_store(address) is health


def test_where_no_server_is_installed_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Neither on the path nor in a wheel."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("qwenserve.cli.local_store._WHEELS", ())

    with pytest.raises(CommandError, match="install redis-server"):
        server_program()


def test_two_stores_are_one_too_many(capsys: pytest.CaptureFixture[str]):
    """A server of its own, and another one that is named."""
    assert main(["up", "--store", "--set", "store.url=redis://127.0.0.1:1"]) == 1
    assert "leave one of them out" in capsys.readouterr().err


def test_the_store_is_started_first_and_with_its_own_command():
    """It is no program of ours: no setting is passed to it, and the others find it by theirs."""
    addresses = Addresses(None, Endpoint("127.0.0.1", 1), [], [], Endpoint("127.0.0.1", 7))
    plan = make_plan(
        Config(),
        name="x",
        path="x",
        counts=Counts(0, 1, 0),
        addresses=addresses,
        config_file=None,
        overrides={"store.url": "redis://127.0.0.1:7", "store.password": "hush"},
        store_command=("redis-server", "x.conf"),
    )

    assert [(p.name, p.probe) for p in plan.processes] == [("store-0", "127.0.0.1:7"), ("router-0", "127.0.0.1:1")]
    assert plan.processes[0].arguments == ("redis-server", "x.conf")
    assert not any("hush" in argument for process in plan.processes for argument in process.arguments)


@real
@pytest.mark.long
def test_up_with_a_store(qwenserve: CommandLine):
    """Every process is in it, repeats come from it, and whatever is done to it no request fails."""
    qwenserve(
        "up", "--name", "stored", "--detach", "--store", "--engine", "simulated", "--http-port", "0",
        "--grpc-port", "0", "--set", "worker.simulated.step_ms=1", "--set", "store.lease_s=1",
        "--workers", "1", "--routers", "2", "--tokenizers", "1",
    )  # fmt: skip
    record = StateDirectory(qwenserve.state).find("stored")
    drills = [name for name in DRILLS if name.startswith("redis-")]
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "cache": "readwrite"})
    request = urllib.request.Request(
        f"http://{record.http}/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
    )

    def hit() -> bool:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return bool(response.headers["x-cache"] == "hit")

    try:
        until(hit, "an answer from the store")
        rows = [line.split() for line in qwenserve("ps", "--cluster").splitlines() if "127.0.0.1" in line]
        assert sorted(row[2] for row in rows) == [
            *["router"] * 2,
            "tokenizer",
            "worker",
        ]
        output = qwenserve(
            "drill", "stored", "--drills", *drills, "--times", "1", "--seconds", "1", "--clients", "4", "--tokens", "20"
        )
        seen = [line.split()[:2] for line in output.splitlines() if line.startswith("redis-") and "…" not in line]
        assert seen == [[name, "pass"] for name in drills], output
        until(hit, "an answer from the store again")
    finally:
        qwenserve("stop", "stored")
