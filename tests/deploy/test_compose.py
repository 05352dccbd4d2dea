"""What the compose file says is what was tried: its commands, environments and health checks as plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.compose_file import Service, environment_file, read_services
from tests.deploy.compose_processes import DEPLOY, LISTENS, free_ports, healthy, running
from tests.system.processes import free_port


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    return read_services(
        DEPLOY / "compose.yaml", {**environment_file(DEPLOY / ".env"), "CLUSTER_TOKEN": "a-token-of-this-test"}
    )


def test_the_cluster_is_complete(services: dict[str, Service]):
    """Two routers, two workers, a tokenizer and a shim, and routers name workers and tokenizers that exist."""
    assert sorted(services) == ["router-1", "router-2", "shim", "tokenizer", "worker-1", "worker-2"]
    for name in ("router-1", "router-2"):
        named = re.findall(r"([a-z0-9-]+):\d+", str(services[name].environment))
        assert set(named) == {"worker-1", "worker-2", "tokenizer"}


def test_every_published_port_is_listened_on(services: dict[str, Service]):
    """What a container publishes is a port that its tier listens on, and no two publish the same one."""
    published = [host for service in services.values() for host in service.ports.values()]
    assert len(published) == len(set(published))
    for service in services.values():
        assert set(service.ports) <= set(LISTENS[service.command[0]])


@pytest.mark.timeout(300)
async def test_the_file_starts_and_answers(services: dict[str, Service], tmp_path: Path):
    """Every service comes up by its own health check, all that speak HTTP answer, and SIGTERM ends each with code 0."""
    ports = free_ports(services)
    async with contextlib.AsyncExitStack() as stack:
        processes = {
            name: await stack.enter_async_context(running(service, ports, tmp_path / "cache"))
            for name, service in services.items()
        }
        for name in ("worker-1", "worker-2", "tokenizer", "router-1", "router-2", "shim"):
            await healthy(services[name], ports, processes[name])
        question = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
        async with aiohttp.ClientSession() as session:
            for name in ("router-1", "router-2", "shim"):
                url = f"http://127.0.0.1:{ports[name, 8000]}/v1/chat/completions"
                async with session.post(url, json=question) as reply:
                    assert "Paris" in (await reply.json())["choices"][0]["message"]["content"]
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        ended = await asyncio.gather(*(process.wait() for process in processes.values()))

    assert ended == [0] * len(processes)


async def test_a_probe_tells_by_its_exit_code():
    """Where nobody listens the probe says so and ends with 1."""
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qwenserve.cli", "probe", f"127.0.0.1:{free_port()}", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await probe.communicate()

    assert (probe.returncode, said) == (1, b"not serving\n")
