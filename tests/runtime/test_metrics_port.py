"""The port of its own on which any tier tells its metrics."""

from __future__ import annotations

import aiohttp
import pytest

from qwenserve.runtime.config import ConfigError, MetricsConfig
from qwenserve.runtime.metrics import process_registry
from qwenserve.runtime.metrics_port import metrics_port
from tests.system.processes import free_port


async def test_it_serves_metrics_and_nothing_else():
    """Prometheus's text at /metrics; 404 and 405 for the rest."""
    config = MetricsConfig(port=free_port())
    async with metrics_port(config, process_registry()) as port, aiohttp.ClientSession() as session:
        assert port == config.port
        base = f"http://127.0.0.1:{port}"
        async with session.get(f"{base}/metrics") as reply:
            assert reply.status == 200
            assert reply.headers["Content-Type"].startswith("text/plain")
            text = await reply.text()
        async with session.get(base) as reply:
            assert reply.status == 404
        async with session.post(f"{base}/metrics") as reply:
            assert (reply.status, reply.headers["Allow"]) == (405, "GET")

    assert "process_resident_memory_bytes" in text
    assert "qwenserve_build_info{version=" in text


async def test_without_a_port_nothing_listens():
    async with metrics_port(MetricsConfig(), process_registry()) as port:
        assert port == 0


async def test_a_taken_port_is_named_with_the_remedy():
    config = MetricsConfig(port=free_port())
    async with metrics_port(config, process_registry()):
        with pytest.raises(ConfigError, match=rf"metrics.port: cannot listen on 127.0.0.1:{config.port}: .*; choose"):
            async with metrics_port(config, process_registry()):
                pass


async def test_processes_that_share_ports_share_it():
    """A rolling restart starts the next router beside the old one."""
    config = MetricsConfig(port=free_port())
    async with (
        metrics_port(config, process_registry(), share_port=True),
        metrics_port(config, process_registry(), share_port=True) as second,
    ):
        assert second == config.port
