"""A store over TLS that asks for certificates: whom it refuses, and who refuses it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from qwenserve.cli.certs import make_certificate, make_certificates
from qwenserve.runtime.config import ConfigError, StoreConfig
from qwenserve.store.interface import StoreUnreachable
from qwenserve.store.opening import open_store
from qwenserve.store.shared import SharedStore
from qwenserve.store.tls_files import TlsFiles
from tests.store.servers import RedisServer, backend_of, running_redis, why_none
from tests.system.processes import free_port

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    make_certificates(folder / "stranger")
    make_certificate(folder, "expired", ("127.0.0.1",), days=-1)
    make_certificate(folder, "elsewhere", ("elsewhere.example",), days=1)
    return folder


def tls_server(files: Path, name: str = "worker") -> tuple[RedisServer, int]:
    """A server that shows the certificate `name` at a port of its own, and what that is."""
    port = free_port()
    options = {
        "tls-port": port,
        "tls-cert-file": files / f"{name}.pem",
        "tls-key-file": files / f"{name}.key",
        "tls-ca-cert-file": files / "ca.pem",
        "tls-auth-clients": "yes",
    }
    return RedisServer(None, *(part for key, value in options.items() for part in (f"--{key}", str(value)))), port


def shown(files: Path, name: str = "router", authority: str = "ca.pem") -> TlsFiles:
    pair = (files / f"{name}.pem", files / f"{name}.key") if name else ("", "")
    return TlsFiles(str(files / authority), *map(str, pair))


async def asked(url: str, tls: TlsFiles | None) -> None:
    """Asks once over a connection of its own. Raises StoreUnreachable."""
    backend = backend_of(url, tls=tls)
    try:
        await asyncio.wait_for(backend.ping(), LIMIT_S)
    finally:
        await backend.close()


async def started(server: RedisServer) -> None:
    try:
        await server.start()
    except (OSError, asyncio.TimeoutError):
        pytest.skip("this server is built without TLS")


needs_server = pytest.mark.skipif(bool(why_none()), reason=why_none())


@needs_server
async def test_a_store_takes_its_own_and_nobody_else(files: Path):
    """Plain text, no certificate, a stranger's and an expired one; and we believe no other authority."""
    server, port = tls_server(files)
    try:
        await started(server)
        url = f"rediss://127.0.0.1:{port}"
        await asked(url, shown(files))
        for refused in (
            shown(files, ""),
            shown(files, "stranger/worker"),
            shown(files, "expired"),
            shown(files, authority="stranger/ca.pem"),
        ):
            with pytest.raises(StoreUnreachable):
                await asked(url, refused)
        with pytest.raises(StoreUnreachable):
            await asked(f"redis://127.0.0.1:{port}", None)
    finally:
        await server.close()


@needs_server
@pytest.mark.parametrize("name", ["expired", "elsewhere"])
async def test_a_store_must_show_a_certificate_for_its_name(files: Path, name: str):
    """One that has expired, or is for another name, is not believed."""
    server, port = tls_server(files, name)
    try:
        await started(server)
        with pytest.raises(StoreUnreachable, match="expired" if name == "expired" else "mismatch"):
            await asked(f"rediss://127.0.0.1:{port}", shown(files))
    finally:
        await server.close()


@needs_server
async def test_a_store_in_plain_text_is_not_believed(files: Path):
    """It makes nothing of a handshake, and waits for the rest of a command: the caller's time limit ends that."""
    async with running_redis() as server:
        backend = backend_of(f"rediss://127.0.0.1:{server.port}", tls=shown(files))
        store = SharedStore(backend, timeout_s=0.2, where="test")
        assert await store.members("workers") is None
        await store.close()


@needs_server
async def test_new_certificates_are_taken_when_the_old_ones_do_not_work(files: Path, tmp_path: Path):
    """Without a restart: files that were replaced are used for the next connection."""
    own = TlsFiles(*(str(tmp_path / name) for name in ("ca.pem", "router.pem", "router.key")))
    for file in own:
        shutil.copy(files / "stranger" / Path(file).name, file)
    server, port = tls_server(files)
    try:
        await started(server)
        backend = backend_of(f"rediss://127.0.0.1:{port}", tls=own)
        for call in (backend.ping, lambda: backend.members("workers")):
            with pytest.raises(StoreUnreachable):
                await asyncio.wait_for(call(), LIMIT_S)
        for file in own:
            shutil.copy(files / Path(file).name, file)
        await asyncio.wait_for(backend.ping(), LIMIT_S)
        # The client that has read the old ones notices when they do not work.
        with pytest.raises(StoreUnreachable):
            await asyncio.wait_for(backend.members("workers"), LIMIT_S)
        assert await asyncio.wait_for(backend.members("workers"), LIMIT_S) == {}
        await backend.close()
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ca_file": "/no/such/ca.pem"}, "store.ca_file"),
        ({"cert_file": "worker.pem", "key_file": "router.key"}, "store.cert_file"),
    ],
)
@needs_server
def test_files_that_cannot_be_used_are_named(files: Path, settings: dict[str, str], named: str):
    """Before anything is connected."""
    paths = {key: str(files / name) for key, name in settings.items()}
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        open_store(StoreConfig.model_validate({"url": "rediss://127.0.0.1:1", **paths}))
