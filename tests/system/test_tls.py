"""Every hop over TLS: who is refused, and certificates that change under load."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.cli.certs import make_certificate, make_certificates
from qwenserve.cli.main import main
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.tokenizer_session import TokenizerLost, TokenizerSession
from qwenserve.router.main import Router
from qwenserve.router.shim.main import Shim
from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.grpc_setup import Health, listen, make_server
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.tls import cluster_certificate, public_certificate
from qwenserve.runtime.trust import Trust
from qwenserve.text.assets import load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.prompt_session import PROMPT_SERVICE, PromptServicer
from tests.system.stack import TINY, stack_config, start_worker, until

LIMIT_S = 60
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our authority, another one, and what it must not be enough to have."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    make_certificates(folder / "stranger")
    make_certificate(folder, "expired", ("localhost", "127.0.0.1"), days=-1)
    make_certificate(folder, "elsewhere", ("elsewhere.example",), days=1)
    return folder


def configured(folder: Path, **overrides: Any) -> Config:
    tls = {
        "tls__cert_file": folder / "router.pem",
        "tls__key_file": folder / "router.key",
        "tls__client_ca_file": folder / "ca.pem",
        "tls__cluster_ca_file": folder / "ca.pem",
        "tls__cluster_cert_file": folder / "worker.pem",
        "tls__cluster_key_file": folder / "worker.key",
    }
    return stack_config(**{key: str(value) for key, value in tls.items()}, **overrides)


@contextlib.asynccontextmanager
async def tokenizer(config: Config) -> AsyncIterator[int]:
    trust = Trust.from_config(config)
    server = make_server(config.grpc, trust=trust)
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(PromptServicer(load_assets(TINY), config), server)
    health = Health(server, [PROMPT_SERVICE])
    port = listen(server, "127.0.0.1:0", trust.certificate)
    await server.start()
    await health.set(True)
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def deployment(config: Config) -> AsyncIterator[tuple[Router, dict[str, int]]]:
    """Worker, tokenizer and router, each hop over TLS; and the port of each."""
    worker = await start_worker(config)
    try:
        async with tokenizer(config) as tokens:
            addresses = {"workers": (f"127.0.0.1:{worker.port}",), "tokenizers": (f"127.0.0.1:{tokens}",)}
            config = config.model_copy(update={"router": config.router.model_copy(update=addresses)})
            router = Router(config, ServedModel.load(TINY, config))
            async with router.serving(Shutdown()):
                await until(lambda: all(session.ready for session in router.sessions), LIMIT_S)
                yield router, {"worker": worker.port, "tokenizer": tokens, "grpc": router.grpc_port}
    finally:
        await worker.stop()


def client(folder: Path, name: str = "tokenizer", authority: str = "ca.pem") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / authority)
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def ask(port: int, context: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://127.0.0.1:{port}/v1/chat/completions", json=HELLO, ssl=context) as reply,
    ):
        await reply.read()
        return reply.status


async def check(port: int, credentials: grpc.ChannelCredentials | None) -> int:
    """Asks a gRPC port for its health. A pool of its own: no connection of an earlier call is used."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    address = f"127.0.0.1:{port}"
    channel = (
        grpc.aio.secure_channel(address, credentials, options=options)
        if credentials is not None
        else grpc.aio.insecure_channel(address, options=options)
    )
    async with channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
    return int(reply.status)


def credentials(folder: Path, name: str = "tokenizer", authority: str = "ca.pem") -> grpc.ChannelCredentials:
    pair = [(folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes()] if name else []
    return grpc.ssl_channel_credentials((folder / authority).read_bytes(), *pair)


async def test_every_port_takes_its_own_and_nobody_else(certificates: Path):
    """HTTP, public gRPC, worker, tokenizer refuse plain text, no certificate, a stranger's and an expired one; and
    clients refuse a server of another authority."""
    serving = health_pb2.HealthCheckResponse.SERVING
    async with deployment(configured(certificates)) as (router, ports):
        assert await ask(router.http_port, client(certificates)) == 200
        for context in (
            client(certificates, ""),
            client(certificates, "stranger/worker"),
            client(certificates, "expired"),
            client(certificates, authority="stranger/ca.pem"),
        ):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await ask(router.http_port, context)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{router.http_port}/healthz"):
                pass
        for port in ports.values():
            assert await check(port, credentials(certificates)) == serving
            for refused in (
                None,
                credentials(certificates, ""),
                credentials(certificates, "stranger/worker"),
                credentials(certificates, "expired"),
                credentials(certificates, authority="stranger/ca.pem"),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await check(port, refused)
                assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


WRONG = pytest.mark.parametrize("wrong", ["plain", "stranger", "expired", "elsewhere"])


def wrong_server(folder: Path, wrong: str) -> Config:
    """The configuration of a worker or tokenizer that no router should believe."""
    if wrong == "plain":
        return stack_config()
    name = "stranger/worker" if wrong == "stranger" else wrong
    pair = {"cert": folder / f"{name}.pem", "key": folder / f"{name}.key"}
    return stack_config(
        tls__cluster_ca_file=str(folder / "ca.pem"),
        **{f"tls__cluster_{what}_file": str(file) for what, file in pair.items()},
    )


@WRONG
async def test_a_router_believes_no_other_tokenizer(certificates: Path, wrong: str):
    """One in plain text, of another authority, expired, or for another name gets no prompt, until told that name."""
    config = configured(certificates)
    async with tokenizer(wrong_server(certificates, wrong)) as port:
        for name in ["", *(["elsewhere.example"] if wrong == "elsewhere" else [])]:
            trust = dataclasses.replace(Trust.from_config(config), name=name)
            session = TokenizerSession(f"127.0.0.1:{port}", config.model_name, config.grpc, LIMIT_S, trust)
            asked = asyncio.wait_for(session.ask(tokenizer_pb2.Prompt(text="Hello")), LIMIT_S)
            try:
                if name:
                    assert (await asked).token_ids
                else:
                    with pytest.raises(TokenizerLost):
                        await asked
            finally:
                await session.close()


@WRONG
async def test_a_router_believes_no_other_worker(certificates: Path, wrong: str):
    """One in plain text, of another authority, expired, or for another name gets no session, until told that name."""
    worker = await start_worker(wrong_server(certificates, wrong))
    try:
        for name, ready in [("", False), *([("elsewhere.example", True)] if wrong == "elsewhere" else [])]:
            config = configured(
                certificates, tls__cluster_name=name, router__workers=[f"127.0.0.1:{worker.port}"], http__enabled=False
            )
            router = Router(config, ServedModel.load(TINY, config))
            async with router.serving(Shutdown()):
                session = router.sessions[0]
                core = router.core
                await until(lambda at=session, of=core: at.ready or "UNAVAILABLE" in of.ready(), LIMIT_S)
                assert session.ready is ready, core.ready()
    finally:
        await worker.stop()


async def test_new_certificates_are_taken_under_load_and_nothing_is_lost(certificates: Path, tmp_path: Path):
    """Every file is replaced while requests run, over new and kept connections and over gRPC; all are answered to their
    end, and new connections see the new authority's pair.
    """
    make_certificates(tmp_path)
    mine = tmp_path / "mine"  # the clients' own files stay as they are
    mine.mkdir()
    for name in ("ca.pem", "tokenizer.pem", "tokenizer.key"):
        shutil.copy(tmp_path / name, mine / name)

    async with deployment(configured(tmp_path)) as (router, ports):
        answered: list[object] = []
        going = True

        async def keep_asking() -> None:
            while going:
                answered.append(await ask(router.http_port, client(mine)))

        async def keep_streaming() -> None:
            url = f"https://127.0.0.1:{router.http_port}/v1/chat/completions"
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client(mine))) as session:
                while going:
                    async with session.post(url, json={**HELLO, "stream": True}) as reply:
                        text = await reply.text()
                    answered.append(200 if text.endswith("data: [DONE]\n\n") else text)

        async def keep_calling() -> None:
            request = chat_pb2.ChatCompletionRequest(
                conversation=message_pb2.Conversation(
                    messages=[message_pb2.Message(role=message_pb2.ROLE_USER, content="Hello")]
                )
            )
            request.sampling.max_tokens = 4
            async with grpc.aio.secure_channel(f"127.0.0.1:{ports['grpc']}", credentials(mine)) as channel:
                while going:
                    call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion(request, timeout=LIMIT_S)
                    code = await call.code()
                    answered.append(200 if code is grpc.StatusCode.OK else code)

        async def seen(port: int) -> bytes:
            context = client(mine)
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            return certificate

        asking = [asyncio.ensure_future(work()) for work in (keep_asking, keep_streaming, keep_calling)]
        every = {**ports, "http": router.http_port}
        before = {name: await seen(port) for name, port in every.items()}
        await until(lambda: len(answered) >= 6, LIMIT_S)
        await asyncio.to_thread(make_certificates, tmp_path)
        so_far = len(answered)
        after = {name: await seen(port) for name, port in every.items()}
        await until(lambda: len(answered) >= so_far + 4, LIMIT_S)
        going = False
        await asyncio.gather(*asking)

    assert set(answered) == {200}
    assert all(before[name] != after[name] for name in every)


async def test_a_router_shows_its_new_certificate_when_it_connects_again(tmp_path: Path):
    """A worker that comes back with another authority is reached once the router's files are of it too."""
    make_certificates(tmp_path)
    config = configured(tmp_path, http__enabled=False)
    worker = await start_worker(config)
    addresses = {"workers": (f"127.0.0.1:{worker.port}",)}
    of_router = config.model_copy(update={"router": config.router.model_copy(update=addresses)})
    router = Router(of_router, ServedModel.load(TINY, config))
    async with router.serving(Shutdown()):
        session = router.sessions[0]
        await until(lambda: session.ready, LIMIT_S)
        port = worker.port
        await worker.stop()
        await until(lambda: not session.ready, LIMIT_S)
        make_certificates(tmp_path / "new")
        for file in (tmp_path / "new").iterdir():
            file.replace(tmp_path / file.name)
        again = config.model_copy(update={"worker": config.worker.model_copy(update={"port": port})})
        worker = await start_worker(again)
        try:
            await until(lambda: session.ready, LIMIT_S)
        finally:
            await worker.stop()


async def test_a_shim_shows_its_certificate_and_believes_no_other_router(certificates: Path, tmp_path: Path):
    """With another authority's files it finds no router; once they are replaced it does, and is itself reached over TLS
    by those who show a certificate.
    """
    names = ("ca.pem", "worker.pem", "worker.key")
    for name in names:
        shutil.copy(certificates / "stranger" / name, tmp_path / name)
    async with deployment(configured(certificates)) as (_, ports):
        config = configured(
            certificates,
            shim__routers=[f"127.0.0.1:{ports['grpc']}"],
            shim__router_wait_s=0,
            shim__ca_file=str(tmp_path / "ca.pem"),
            shim__cert_file=str(tmp_path / "worker.pem"),
            shim__key_file=str(tmp_path / "worker.key"),
        )
        shim = Shim(config)
        async with shim.serving(Shutdown()):
            assert await ask(shim.http_port, client(certificates)) == 503
            for name in names:
                shutil.copy(certificates / name, tmp_path / name)
            await until(lambda: shim.routers.ready, LIMIT_S)
            assert await ask(shim.http_port, client(certificates)) == 200
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
                await ask(shim.http_port, client(certificates, ""))


def test_a_file_that_cannot_be_used_leaves_the_one_before(tmp_path: Path):
    """Half a file, or a key of another certificate: the old pair goes on, and the next good one is taken."""
    make_certificates(tmp_path)
    certificate = cluster_certificate(configured(tmp_path).tls)
    assert certificate is not None
    first = certificate.current()

    (tmp_path / "worker.pem").write_text("-----BEGIN CERTIFICATE-----\nhalf")
    assert certificate.current() == first
    (tmp_path / "worker.pem").unlink()
    assert certificate.current() == first
    make_certificate(tmp_path, "worker", ("localhost",), days=1)
    taken = certificate.current()

    assert taken.version == first.version + 1
    assert taken.chain == (tmp_path / "worker.pem").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tls__key_file": "''"}, "tls.key_file"),
        ({"tls__cert_file": "/no/such/file.pem"}, "/no/such/file.pem"),
        ({"tls__cert_file": "''", "tls__key_file": "''"}, "tls.client_ca_file"),
    ],
)
def test_settings_that_do_not_go_together_are_named(certificates: Path, change: dict[str, str], named: str):
    """The error names the setting or the file."""
    config = stack_config(
        **{
            "tls__cert_file": str(certificates / "router.pem"),
            "tls__key_file": str(certificates / "router.key"),
            "tls__client_ca_file": str(certificates / "ca.pem"),
            **change,
        }
    )
    with pytest.raises(ConfigError) as caught:
        public_certificate(config.tls)
    assert named in str(caught.value)


def test_a_certificate_lets_a_worker_listen_beyond_loopback(certificates: Path):
    """Mutual TLS keeps strangers out as a token does."""
    Trust.from_config(configured(certificates)).check_listening("0.0.0.0", "worker.host")


async def test_http_keeps_to_the_least_version(certificates: Path):
    """With 1.3 set, a client of 1.2 is refused."""
    old = client(certificates)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with deployment(configured(certificates, tls__min_version="'1.3'")) as (router, _):
        assert await ask(router.http_port, client(certificates)) == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await ask(router.http_port, old)


async def test_grpc_keeps_to_the_least_version(certificates: Path):
    """With 1.3 set, a process refuses a client of 1.2 at its gRPC port too, and so does what it dials with."""
    settings = {
        "model.reference": TINY,
        "tokenizer.port": 0,
        "tls.min_version": "'1.3'",
        "tls.cluster_ca_file": certificates / "ca.pem",
        "tls.cluster_cert_file": certificates / "worker.pem",
        "tls.cluster_key_file": certificates / "worker.key",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qwenserve.tokenizer_svc",
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        port = json.loads(await asyncio.wait_for(process.stderr.readline(), LIMIT_S))["port"]
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client(certificates)
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            dial = asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            if version is ssl.TLSVersion.TLSv1_2:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.wait_for(dial, LIMIT_S)
            else:
                _, writer = await asyncio.wait_for(dial, LIMIT_S)
                writer.transport.abort()
    finally:
        process.kill()
        await process.communicate()


def test_certs_makes_what_the_documentation_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The authority is kept, keys are private, certificates are for the names that were given."""
    assert main(["certs", str(tmp_path), "--host", "gpu7.lan", "--host", "10.0.0.7"]) == 0
    authority = (tmp_path / "ca.pem").read_bytes()
    assert main(["certs", str(tmp_path)]) == 0

    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert {file.stat().st_mode & 0o077 for file in tmp_path.glob("*.key")} == {0}
    assert "cluster_ca_file" in capsys.readouterr().out
    assert main(["certs", str(tmp_path), "--host", "gpu7.lan"]) == 0
    assert main(["certs", str(tmp_path), "--client", "alice"]) == 0
    assert main(["certs", str(tmp_path), "--client", "../alice"]) == 1
    shown = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "worker.pem", "-noout", "-ext", "subjectAltName"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "gpu7.lan" in shown
    strict = client(tmp_path, "alice")
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    assert handshake(strict, tmp_path / "router") == "CN=router"
    nobodys_server = subprocess.run(
        ["openssl", "verify", "-purpose", "sslserver", "-CAfile", tmp_path / "ca.pem", tmp_path / "alice.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert nobodys_server.returncode != 0


def handshake(context: ssl.SSLContext, pair: Path) -> str:
    """Shakes hands with a server that asks for certificates, in memory; returns the name that it showed."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(f"{pair}.pem", f"{pair}.key")
    server.load_verify_locations(pair.with_name("ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(back, there, server_hostname="localhost")
    theirs = server.wrap_bio(there, back, server_side=True)
    for side in (ours, theirs, ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    theirs.getpeercert()
    subject = (ours.getpeercert() or {})["subject"]
    return "CN=" + str(dict(part[0] for part in subject)["commonName"])  # type: ignore[misc]
