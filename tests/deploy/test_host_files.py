"""The files for a host without containers: nginx's in front of two routers, and systemd's units."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from qwenserve.runtime.config import load_config
from qwenserve.runtime.errors import Draining
from tests.deploy.compose_file import environment_file
from tests.deploy.compose_processes import DEPLOY
from tests.router.http.conftest import Served, serve
from tests.system.processes import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SYSTEMD = shutil.which("systemd-analyze")
ASK = {"messages": [{"role": "user", "content": "one two three"}], "stream": True}
LIMIT_S = 60.0


def main_file(folder: Path, included: Path) -> str:
    """What the distribution's own file has around ours, with everything in a folder of the test's."""
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{place}_temp_path {folder}/{place};" for place in places)
    return (
        f"daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off; {temporary} include {included}; }}\n"
    )


@contextlib.asynccontextmanager
async def proxy(folder: Path, *routers: Served) -> AsyncIterator[str]:
    """Runs nginx with our file in front of routers; yields its URL."""
    assert NGINX is not None
    port = free_port()
    text = (DEPLOY / "nginx" / "qwenserve.conf").read_text(encoding="utf-8").replace("8080", f"127.0.0.1:{port}")
    for number, router in enumerate(routers, 1):
        assert f"router-{number}:8000" in text
        text = text.replace(f"router-{number}:8000", f"127.0.0.1:{router.port}")
    included, main = folder / "qwenserve.conf", folder / "nginx.conf"
    included.write_text(text)
    main.write_text(main_file(folder, included))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-c", str(main), "-e", str(folder / "errors"), stderr=asyncio.subprocess.PIPE
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as web:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with web.get(f"{url}/metrics") as reply:
                        assert reply.status == 404  # one router's numbers would be taken for all
                        break
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.02)
        yield url
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), LIMIT_S)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")
async def test_nginx_passes_events_on_as_they_come_and_goes_round_a_router_that_drains(tmp_path: Path):
    """The first events are there while the answer stands still; a router that refuses is done without."""
    async with serve() as one, serve() as other, proxy(tmp_path, one, other) as url, aiohttp.ClientSession() as web:
        for router in (one, other):
            router.backend.gate = asyncio.Event()
        async with web.post(f"{url}/v1/chat/completions", json=ASK) as reply:
            assert reply.status == 200
            first = await asyncio.wait_for(reply.content.readuntil(b"You "), LIMIT_S)
            for router in (one, other):
                assert router.backend.gate is not None
                router.backend.gate.set()
            rest = await asyncio.wait_for(reply.content.read(), LIMIT_S)
        assert b"You " in first
        assert b"[DONE]" in rest

        one.backend.refusal = Draining("the router is shutting down", retry_after_s=1.0)
        statuses = []
        for _ in range(4):
            async with web.post(f"{url}/v1/chat/completions", json=ASK) as reply:
                await reply.read()
                statuses.append(reply.status)
    assert statuses == [200] * 4


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_containers_may_little_and_have_time_to_drain(name: str):
    """Read-only, without capabilities, health checked by the product's own probe; a container is given longer to stop
    than its process takes to drain.
    """
    variables = environment_file(DEPLOY / ".env")
    drain = load_config(environment={"QWENSERVE_DRAIN_TIMEOUT_S": variables["DRAIN_S"]}).config
    services = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))["services"]
    ours = {key: each for key, each in services.items() if each.get("image", "").startswith("qwenserve-")}
    assert ours
    for service in ours.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["stop_signal"] == "SIGTERM"
        assert service["healthcheck"]["test"][:3] == ["CMD", "qwenserve", "probe"]
        assert service["stop_grace_period"] == "${GRACE:-45s}"
    assert int(variables["GRACE"].removesuffix("s")) > drain.drain_timeout_s + drain.drain_notice_s


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_images_do_not_run_as_root(name: str):
    """What is built last in each stage that has a command runs as somebody else, and stops by SIGTERM."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    stages = [stage for stage in text.split("\nFROM ")[1:] if "\nCMD " in stage]
    assert stages
    for stage in stages:
        assert re.findall(r"^USER (.*)", stage, re.MULTILINE)[-1:] == ["10001"]
        assert "HEALTHCHECK" in stage
    assert "STOPSIGNAL SIGTERM" in text


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed (Debian: systemd)")
@pytest.mark.parametrize("tier", ["router", "worker", "tokenizer"])
async def test_systemd_takes_the_units(tmp_path: Path, tier: str):
    """systemd's own check finds nothing, with this installation's program and user in the unit's place."""
    assert SYSTEMD is not None
    text = (DEPLOY / "systemd" / f"qwenserve-{tier}@.service").read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("qwenserve")
    placed = re.sub(r"^ExecStart=/opt/qwenserve/bin/qwenserve ", f"ExecStart={program} ", text, flags=re.MULTILINE)
    assert placed != text
    assert f"{program} {tier} --config" in placed
    unit = tmp_path / f"qwenserve-{tier}@.service"
    unit.write_text(re.sub(r"^User=.*", "User=root", placed, flags=re.MULTILINE))
    tool = await asyncio.create_subprocess_exec(
        SYSTEMD, "verify", "--man=no", str(unit), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(tool.communicate(), LIMIT_S)

    assert (tool.returncode, said.decode()) == (0, "")
