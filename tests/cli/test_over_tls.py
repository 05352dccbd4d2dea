"""The commands that call a deployment, where its public ports speak TLS and ask for certificates."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.cli.certs import make_certificate, make_certificates
from qwenserve.cli.errors import CommandError
from qwenserve.cli.main import main
from qwenserve.cli.peer import find_router
from qwenserve.cli.state import DeploymentRecord, StateDirectory
from qwenserve.runtime.client_channel import router_channel
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import ConfigError, GrpcConfig
from qwenserve.runtime.grpc_setup import Health, listen, make_server
from qwenserve.runtime.tls import Certificate
from tests.cli.conftest import CommandLine
from tests.cli.test_deployment import FAST

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    make_certificates(folder / "stranger")
    return folder


def settings_of(files: Path) -> list[str]:
    """What a deployment with certificates on every hop is started with."""
    tls = {
        "cert_file": "router.pem",
        "key_file": "router.key",
        "client_ca_file": "ca.pem",
        "cluster_ca_file": "ca.pem",
    }
    return [part for name, file in tls.items() for part in ("--set", f"tls.{name}={files / file}")]


@pytest.fixture(scope="module")
def started(qwenserve: CommandLine, files: Path) -> str:
    """A deployment with certificates on every hop; what `up` printed."""
    return qwenserve("up", "--name", "secure", "--detach", "--ask", "hello", *FAST, *settings_of(files))


@pytest.fixture
def record(started: str, qwenserve: CommandLine, monkeypatch: pytest.MonkeyPatch) -> DeploymentRecord:
    """The deployment, which commands of this process find too."""
    monkeypatch.setenv("QWENSERVE_STATE_DIR", str(qwenserve.state))
    return StateDirectory(qwenserve.state).find("secure")


def shown(files: Path) -> list[str]:
    """What a caller elsewhere gives."""
    pair = ["--cert", str(files / "tokenizer.pem"), "--key", str(files / "tokenizer.key")]
    return ["--cacert", str(files / "ca.pem"), *pair]


def test_up_asks_and_prints_lines_that_work(started: str, files: Path, record: DeploymentRecord):
    """`--ask` is answered, and the hints name https and the files."""
    assert "> hello" in started
    assert "no answer" not in started
    curl = f"curl --cacert {files / 'router.pem'} --cert {files / 'router.pem'} --key {files / 'router.key'} "
    assert f"{curl}https://{record.http}/v1/chat/completions" in started
    assert f"grpcurl -cacert {files / 'router.pem'} -cert " in started


def test_chat_by_name_and_by_address(
    record: DeploymentRecord, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """By name nothing has to be said; by address the options of curl."""
    questions = tmp_path / "questions"
    questions.write_text("/params max_tokens=3\nhello\n")
    for arguments in (["secure"], ["--address", f"https://{record.grpc}", *shown(files)]):
        if "--address" in arguments:
            monkeypatch.setenv("QWENSERVE_STATE_DIR", str(tmp_path))  # another machine knows of no deployment here
        with questions.open(encoding="utf-8") as file:
            monkeypatch.setattr("sys.stdin", file)
            assert main(["chat", *arguments]) == 0


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (None, "speaks TLS: give --address https://"),
        (ClientTls("stranger/ca.pem"), "--cacert"),
        (ClientTls("worker.key"), "cannot use"),
    ],
)
async def test_what_is_missing_is_said(record: DeploymentRecord, files: Path, tls: ClientTls | None, said: str):
    """Plain text, another authority, and a file that holds no certificate."""
    if tls is not None:
        tls = tls._replace(ca_file=str(files / tls.ca_file))
    with pytest.raises(Exception, match=said) as refused:
        await find_router(record.grpc, tls, [])
    assert type(refused.value).__name__ in ("CommandError", ConfigError.__name__)


async def test_an_http_port_is_known_over_tls(record: DeploymentRecord, files: Path):
    """By the protocol that it offers."""
    tls = ClientTls(str(files / "ca.pem"), str(files / "worker.pem"), str(files / "worker.key"))
    with pytest.raises(Exception, match="is an HTTP server"):
        await find_router(record.http, tls, [])


def test_probe(record: DeploymentRecord, files: Path, capsys: pytest.CaptureFixture[str]):
    """Both faces; without a certificate nobody is told anything."""
    for address in ([record.grpc], [record.http, "--http"]):
        assert main(["probe", *address, *shown(files)]) == 0
        assert main(["probe", *address]) == 1
    assert main(["probe", record.grpc, "--cacert", "/no/such/file"]) == 2
    assert "/no/such/file" in capsys.readouterr().err


def test_a_health_check_knows_the_process_by_its_configuration(record: DeploymentRecord, files: Path):
    """Named by its tier, a process is asked as it is configured; so the same check works with and without TLS."""
    settings = settings_of(files)
    worker = next(process for process in record.processes if process.tier == "worker")
    port = worker.address.rpartition(":")[2]
    # The port of the record is the one for health checks; the worker's own is what routers call.
    router = ["--set", f"router.port={record.grpc.rpartition(':')[2]}"]
    http = ["--set", f"http.port={record.http.rpartition(':')[2]}"]
    assert main(["probe", "router", *router, *settings]) == 0
    assert main(["probe", "router", "--http", *http, *settings]) == 0
    assert main(["probe", "router", *router]) == 1
    assert main(["probe", "worker", "--set", f"worker.port={port}"]) == 0


def test_top_and_report(record: DeploymentRecord, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Metrics are read, by name and by address."""
    for source in (["secure"], ["--address", record.http, *shown(files)]):
        assert main(["top", *source, "--once", "--interval", "0.1"]) == 0
    assert "1 seen, 1 ready" in capsys.readouterr().out
    archive = tmp_path / "report.tar.gz"
    assert main(["report", "secure", "-o", str(archive), "--address", record.http, *shown(files)]) == 0
    with tarfile.open(archive) as tar:
        metrics = [tar.extractfile(member) for member in tar.getmembers() if "/metrics/" in member.name]
        texts = [file.read().decode() for file in metrics if file is not None]
    assert [text.startswith("# HELP") for text in texts] == [True, True]


def test_drill(record: DeploymentRecord, capsys: pytest.CaptureFixture[str]):
    """Its clients and its faults."""
    quick = ["--clients", "2", "--tokens", "4", "--times", "1", "--seconds", "0.1"]
    assert main(["drill", "secure", "--drills", "slow-reader", "disconnects", *quick]) == 0
    assert capsys.readouterr().out.count(" pass ") == 2


@pytest.mark.parametrize("api", ["completions", "grpc-completion"])
def test_bench_serve(record: DeploymentRecord, files: Path, tmp_path: Path, api: str):
    """Over HTTP, and over gRPC with the HTTP API beside it."""
    url = record.grpc if api.startswith("grpc") else record.http
    document = tmp_path / "figures.json"
    load = ["--requests", "4", "--prompt", "8", "--output", "4", "--concurrency", "2", "--json", str(document)]
    side = ["--tokenize-url", f"https://{record.http}", "--token-range", "100:200"]
    assert main(["bench", "serve", "--url", f"https://{url}", "--api", api, *side, *load, *shown(files)]) == 0
    assert json.loads(document.read_text())["runs"]


@pytest.mark.parametrize("name", ["expired", "elsewhere"])
async def test_a_router_must_show_a_certificate_for_its_name(files: Path, tmp_path: Path, name: str):
    """One that has expired, or is for another name, is believed by no command that goes by an authority. Our own
    deployment's is known itself, whatever name it is for, and must not have expired either.
    """
    for file in ("ca.pem", "ca.key"):
        shutil.copy(files / file, tmp_path / file)
    hosts = ("elsewhere.example",) if name == "elsewhere" else ("127.0.0.1",)
    make_certificate(tmp_path, name, hosts, days=-1 if name == "expired" else 1)
    certificate, key = str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")
    server = make_server(GrpcConfig())
    health = Health(server, [])
    port = listen(server, "127.0.0.1:0", Certificate(certificate, key))
    await server.start()
    await health.set(True)
    try:
        address = f"127.0.0.1:{port}"
        with pytest.raises(CommandError, match="expired" if name == "expired" else "mismatch"):
            await find_router(address, ClientTls(str(tmp_path / "ca.pem")), [])
        own = ClientTls(certificate, own=True)
        if name == "expired":
            with pytest.raises(CommandError, match="expired"):
                await find_router(address, own, [])
        else:
            assert await find_router(address, own, []) == (address, own)
            async with await router_channel(address, own) as channel:
                request = health_pb2.HealthCheckRequest()
                reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await server.stop(None)
