"""TLS: certificates that are read again when they change, for gRPC and HTTP, for those who listen and those who dial.

Files are looked at when a connection is made. What cannot be used (half written, a key that belongs to another
certificate) is left alone, with a line in the log, and the one before stays in use: connections that are open never
notice.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from qwenserve.runtime.config import ConfigError, TlsConfig
from qwenserve.runtime.logs import EventLog

_log = EventLog("tls")

# https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
_CIPHERS = "GRPC_SSL_CIPHER_SUITES"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Stamp = tuple[tuple[int, int, int], ...]


class Pems(NamedTuple):
    """One state of the files. `authority` is empty where nobody has to show a certificate."""

    chain: bytes
    key: bytes
    authority: bytes
    # Counts the states.
    version: int


class Certificate:
    """A certificate chain, its key, and the authority that the other side's certificate must come from.

    May be used from any thread.
    """

    def __init__(self, chain: str, key: str, authority: str = "", *, setting: str = "tls") -> None:
        """Reads the files. Raises ConfigError naming `setting`."""
        self._files = [Path(file).expanduser() for file in (chain, key, authority) if file]
        self._lock = threading.Lock()
        try:
            self._stamp = self._look()
            self._pems = self._read(1)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"{setting}: {_words(error, self._files)}") from None

    def current(self) -> Pems:
        """What the files hold now, or what they last held that can be used."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._stamp = stamp
                    self._pems = self._read(self._pems.version + 1)
                    _log.info("certificate_taken", file=str(self._files[0]))
            except (OSError, ValueError) as error:
                _log.warning("certificate_not_taken", reason=_words(error, self._files))
            return self._pems

    def _look(self) -> _Stamp:
        states = [file.stat() for file in self._files]
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)

    def _read(self, version: int) -> Pems:
        chain, key, *authority = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key, password=_no_password)
        for file in authority:
            context.load_verify_locations(file)
        texts = [file.read_bytes() for file in self._files]
        return Pems(texts[0], texts[1], texts[2] if authority else b"", version)

    def context(self, least: ssl.TLSVersion) -> ssl.SSLContext:
        """Returns what OpenSSL needs to listen with the files as they are."""
        chain, key, *authority = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = least
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(chain, key, password=_no_password)
        for file in authority:
            context.load_verify_locations(file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def public_certificate(config: TlsConfig) -> Certificate | None:
    """Returns what the public ports listen with; None for plain text. Raises ConfigError."""
    if not config.cert_file and not config.key_file:
        if config.client_ca_file:
            raise ConfigError("tls.client_ca_file: clients can show a certificate over TLS only; set tls.cert_file too")
        return None
    _require(config.cert_file, "tls.cert_file", "tls.key_file")
    _require(config.key_file, "tls.key_file", "tls.cert_file")
    return Certificate(config.cert_file, config.key_file, config.client_ca_file, setting="tls.cert_file")


def cluster_certificate(config: TlsConfig) -> Certificate | None:
    """Returns what the deployment's processes show each other; None for plain text. Raises ConfigError."""
    if not config.cluster_ca_file:
        if config.cluster_cert_file or config.cluster_key_file:
            raise ConfigError("tls.cluster_ca_file: is needed beside a certificate: the others' must come from it")
        return None
    chain, key = config.cluster_cert_file or config.cert_file, config.cluster_key_file or config.key_file
    _require(chain, "tls.cluster_cert_file", "tls.cluster_ca_file")
    _require(key, "tls.cluster_key_file", "tls.cluster_ca_file")
    return Certificate(chain, key, config.cluster_ca_file, setting="tls.cluster_cert_file")


def metrics_certificate(config: TlsConfig) -> Certificate:
    """Returns what a port for metrics listens with. Raises ConfigError where there is nothing."""
    certificate = public_certificate(config) or cluster_certificate(config)
    if certificate is None:
        raise ConfigError(
            "metrics.tls: needs tls.cert_file and tls.key_file, or tls.cluster_ca_file with a certificate"
        )
    return certificate


def grpc_environment(config: TlsConfig) -> Mapping[str, str]:
    """Returns what gRPC must find in the environment when it is loaded, to keep to the least version.

    It has no setting for versions, but one for the ciphers of 1.2 (those of 1.3 are not chosen by it). The one that it
    gets needs a key that both sides know in advance, which nobody here has: so 1.3 is what can be agreed upon.
    """
    speaks_tls = bool(config.cert_file or config.cluster_ca_file)
    return {_CIPHERS: "ECDHE-PSK-CHACHA20-POLY1305"} if speaks_tls and config.min_version == "1.3" else {}


def server_credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Returns what a gRPC server listens with. With an authority it takes nobody without a certificate from it."""
    first = certificate.current()
    fetch = _fetcher(certificate, first.version)
    return grpc.dynamic_ssl_server_credentials(_configuration(first), fetch, bool(first.authority))


def channel_credentials(pems: Pems) -> grpc.ChannelCredentials:
    """Returns what a gRPC channel dials with: the other side's certificate must come from the authority."""
    return grpc.ssl_channel_credentials(pems.authority, pems.key, pems.chain)


class HttpContext(ssl.SSLContext):
    """What an HTTP server listens with. Every connection gets the certificate as it is when it comes."""

    _certificate: Certificate
    _least: ssl.TLSVersion
    _made: tuple[int, ssl.SSLContext]

    @classmethod
    def of(cls, certificate: Certificate, config: TlsConfig) -> HttpContext:
        """Returns one for a certificate."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._certificate = certificate
        context._least = _VERSIONS[config.min_version]
        context._made = certificate.current().version, certificate.context(context._least)
        return context

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """What asyncio calls for a new connection."""
        version = self._certificate.current().version
        if version != self._made[0]:
            try:
                self._made = version, self._certificate.context(self._least)
            except OSError as error:  # changed again in this moment: the next connection looks once more
                _log.warning("certificate_not_taken", reason=str(error))
        return self._made[1].wrap_bio(*arguments, **named)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.authority or None)


def _fetcher(certificate: Certificate, version: int) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Returns what gRPC asks before each handshake; None means that nothing changed."""
    given = version

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        pems = certificate.current()
        if pems.version == given:
            return None
        given = pems.version
        return _configuration(pems)

    return fetch


def _require(file: str, setting: str, beside: str) -> None:
    if not file:
        raise ConfigError(f"{setting}: is needed beside {beside}")


def _no_password() -> str:
    # OpenSSL would ask on the terminal.
    raise ValueError("the key is encrypted; give it without a password, readable by this process only")


def _words(error: Exception, files: list[Path]) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{files[0]} and {files[1]} are no certificate chain and key of it in PEM ({error.reason or error})"
    if isinstance(error, OSError):
        return f"cannot read {error.filename or files[0]}: {error.strerror or error}"
    return str(error)
