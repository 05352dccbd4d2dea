"""The port of its own on which any tier tells its metrics."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from qwenserve.cli.certs import make_certificates
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import Config, ConfigError, MetricsConfig, TlsConfig
from qwenserve.runtime.metrics import process_registry
from qwenserve.runtime.metrics_port import metrics_port
from tests.system.processes import free_port

FILES = {"ca": "ca.pem", "cert": "worker.pem", "key": "worker.key"}


async def test_it_serves_metrics_and_nothing_else():
    """Prometheus's text at /metrics; 404 and 405 for the rest."""
    config = Config(metrics=MetricsConfig(port=free_port()))
    async with metrics_port(config, process_registry()) as port, aiohttp.ClientSession() as session:
        assert port == config.metrics.port
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


async def test_over_tls_it_asks_for_what_the_process_asks_for(tmp_path: Path):
    """A worker's port takes those who show a certificate of the cluster, and nobody in plain text."""
    make_certificates(tmp_path)
    files = {f"cluster_{name}_file": str(tmp_path / file) for name, file in FILES.items()}
    config = Config(metrics=MetricsConfig(port=free_port(), tls=True), tls=TlsConfig(**files))
    async with metrics_port(config, process_registry()) as port, aiohttp.ClientSession() as session:
        own = ClientTls(str(tmp_path / "ca.pem"), str(tmp_path / "router.pem"), str(tmp_path / "router.key")).context()
        async with session.get(f"https://127.0.0.1:{port}/metrics", ssl=own) as reply:
            assert reply.status == 200
        for url, context in (
            (f"http://127.0.0.1:{port}/metrics", True),
            (f"https://127.0.0.1:{port}/metrics", ClientTls(str(tmp_path / "ca.pem")).context()),
        ):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await session.get(url, ssl=context)


async def test_tls_without_a_certificate_is_named():
    config = Config(metrics=MetricsConfig(port=free_port(), tls=True))
    with pytest.raises(ConfigError, match=r"metrics\.tls: needs tls\.cert_file"):
        async with metrics_port(config, process_registry()):
            pass


async def test_without_a_port_nothing_listens():
    async with metrics_port(Config(), process_registry()) as port:
        assert port == 0


async def test_a_taken_port_is_named_with_the_remedy():
    config = Config(metrics=MetricsConfig(port=free_port()))
    async with metrics_port(config, process_registry()):
        with pytest.raises(
            ConfigError, match=rf"metrics.port: cannot listen on 127.0.0.1:{config.metrics.port}: .*; choose"
        ):
            async with metrics_port(config, process_registry()):
                pass


async def test_processes_that_share_ports_share_it():
    """A rolling restart starts the next router beside the old one."""
    config = Config(metrics=MetricsConfig(port=free_port()))
    async with (
        metrics_port(config, process_registry(), share_port=True),
        metrics_port(config, process_registry(), share_port=True) as second,
    ):
        assert second == config.metrics.port
