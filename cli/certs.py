"""`qwenserve certs DIR`: a private authority and certificates for a test cluster, made by the system's openssl."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from qwenserve.cli.errors import CommandError

# One for each kind of process, so that one that leaks need not be replaced everywhere.
NODES = ("router", "worker", "tokenizer")
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_LOCAL = ("localhost", "127.0.0.1", "::1")


def run_certs(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    folder = Path(arguments.folder).expanduser()
    for name in arguments.client:
        _check_client(name)
    # Those of the processes stay as they are where only a client's is asked for: they may be for further hosts.
    if not arguments.client or arguments.host or not (folder / "ca.key").exists():
        make_certificates(folder, hosts=arguments.host, days=arguments.days)
    for name in arguments.client:
        make_client_certificate(folder, name, arguments.days)
    print(
        f"""{folder} has an authority (ca.pem, ca.key) and certificates of it: {", ".join(NODES)}.

Each process needs ca.pem and its own pair; keep ca.key elsewhere. For a router:

tls:
  cert_file: {folder.absolute() / "router.pem"}
  key_file: {folder.absolute() / "router.key"}
  cluster_ca_file: {folder.absolute() / "ca.pem"}

Clients: curl --cacert {folder.absolute() / "ca.pem"} https://localhost:8000/v1/models
Run it again to renew them before they expire: the authority stays, and running processes take the new files."""
    )
    return 0


def make_certificates(folder: Path, *, hosts: Sequence[str] = (), days: int = 365) -> None:
    """Makes what is missing of the authority, and certificates for `hosts` and this machine. Raises CommandError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, key = folder / "ca.pem", folder / "ca.key"
    if not (authority.exists() and key.exists()):
        subject = ("-subj", "/CN=Qwenserve test cluster", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        with _private(key):
            _openssl(
                "req", "-x509", *_CURVE, "-keyout", str(key), "-out", str(authority), "-days", str(10 * 365), *subject
            )
    names = dict.fromkeys([*_LOCAL, socket.gethostname(), *hosts])
    for node in NODES:
        make_certificate(folder, node, tuple(names), days)


def make_client_certificate(folder: Path, name: str, days: int) -> None:
    """Makes what a client shows where `tls.client_ca_file` is the folder's authority; it is nobody's server.

    Raises CommandError.
    """
    _make(folder, name, "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n", days)


def _check_client(name: str) -> None:
    taken = (*NODES, "ca")
    if not _CLIENT.match(name) or name in taken:
        raise CommandError(f"--client {name}: use letters, digits, '.', '_', '-', and none of {', '.join(taken)}")


def make_certificate(folder: Path, node: str, names: Sequence[str], days: int) -> None:
    """Makes a key and a certificate for `names`, by the authority in the folder. Raises CommandError."""
    extensions = f"subjectAltName={','.join(map(_alternative, names))}\n"
    _make(
        folder, node, f"{extensions}basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n", days
    )


def _make(folder: Path, node: str, wanted: str, days: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        request, chain, key = (Path(made) / name for name in ("request", "chain", "key"))
        extensions = Path(made) / "extensions"
        # Strict clients, such as those of Python 3.13, want to be told which key signed which.
        extensions.write_text(f"{wanted}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n", encoding="utf-8")
        with _private(key):
            _openssl("req", *_CURVE, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={node}")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"),
            "-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", str(chain),
        )  # fmt: skip
        # The key first: whoever looks between the two sees a pair that does not fit, and keeps the one before.
        os.replace(key, folder / f"{node}.key")
        os.replace(chain, folder / f"{node}.pem")


@contextlib.contextmanager
def _private(key: Path) -> Iterator[None]:
    """Makes the key's file, for its owner only, before openssl writes into it."""
    os.close(os.open(key, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    yield
    key.chmod(0o600)


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise CommandError("openssl is not installed; it makes the certificates (Debian: apt install openssl)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise CommandError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-500:]}")
