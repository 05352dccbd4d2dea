"""TLS of those who call a router's public ports from outside: what they believe, and what they show."""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path
from typing import NamedTuple

from qwenserve.runtime.config import ConfigError, TlsConfig

_END = "-----END CERTIFICATE-----"
_SECURE = ("https://", "grpcs://")


class ClientTls(NamedTuple):
    """Files in PEM. Without `ca_file` the authorities of the system are believed; `cert_file` and `key_file` are for
    servers that ask for a certificate. `own`: `ca_file` is the server's own certificate, known from its configuration;
    exactly that one is believed then, whatever the name that the server is reached by.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    own: bool = False

    def context(self) -> ssl.SSLContext:
        """Returns what connections are made with. Raises ConfigError naming the file."""
        file = self.ca_file
        try:
            context = ssl.create_default_context(cadata=self.believed() or None)
            # As gRPC and curl do: what was given is believed, also where it is not the root of its chain.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.check_hostname = not self.own
            if self.cert_file:
                file = self.cert_file
                context.load_cert_chain(_path(self.cert_file), _path(self.key_file or self.cert_file))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"cannot use {file}: {_reason(error)}") from None
        return context

    def believed(self) -> str:
        """Returns the certificates of `ca_file`; of a server's chain its own alone, as an authority above it has signed
        others, too. Empty for the system's authorities. Raises OSError.
        """
        if not self.ca_file:
            return ""
        text = Path(_path(self.ca_file)).read_text(encoding="ascii", errors="replace")
        return text.partition(_END)[0] + _END + "\n" if self.own else text

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Returns what changes with the files; a missing one has a stamp, too."""
        return tuple(_stamp_of(file) for file in (self.ca_file, self.cert_file, self.key_file) if file)

    def pair(self) -> tuple[bytes, bytes] | None:
        """Returns the key and the certificate to show; None for none. Raises OSError."""
        if not self.cert_file:
            return None
        return Path(_path(self.key_file or self.cert_file)).read_bytes(), Path(_path(self.cert_file)).read_bytes()


def own_tls(config: TlsConfig, *, cluster: bool = False) -> ClientTls | None:
    """Returns how this machine's own commands call a port of a process with this configuration, by its certificate,
    which they also show where one must be shown; None for plain text. `cluster`: the port of a worker or tokenizer.
    """
    asks = config.cluster_ca_file if cluster else config.client_ca_file
    chain, key = config.cert_file, config.key_file
    if cluster:
        chain, key = config.cluster_cert_file or chain, config.cluster_key_file or key
    if not chain or (cluster and not asks):
        return None
    chain, key = (str(Path(file).expanduser().absolute()) for file in (chain, key))
    return ClientTls(chain, *((chain, key) if asks else ("", "")), own=True)


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options, named as curl's."""
    group = parser.add_argument_group("TLS (also where the address begins with https://)")
    group.add_argument("--cacert", metavar="FILE", default="", help="authority that the router's certificate is of")
    group.add_argument("--cert", metavar="FILE", default="", help="certificate to show to the router")
    group.add_argument("--key", metavar="FILE", default="", help="its key (default: in the same file)")


def tls_of(arguments: argparse.Namespace, address: str = "", known: ClientTls | None = None) -> ClientTls | None:
    """Returns what the command line asks for; None for plain text.

    TLS is used where the address begins with https:// or grpcs://, where a file is given, and where `known`, what a
    configuration says, is not None.
    """
    if known is None and not (arguments.cacert or arguments.cert or address.startswith(_SECURE)):
        return None
    tls = known or ClientTls()
    if arguments.cacert:
        tls = tls._replace(ca_file=arguments.cacert, own=False)
    if arguments.cert:
        tls = tls._replace(cert_file=arguments.cert, key_file=arguments.key)
    return tls


def _stamp_of(file: str) -> tuple[int, int, int]:
    try:
        state = Path(_path(file)).stat()
    except OSError:
        return (0, 0, 0)
    return state.st_mtime_ns, state.st_size, state.st_ino


def _path(file: str) -> str:
    return str(Path(file).expanduser())


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it holds no certificate in PEM, or its key is another one's ({error.reason or error})"
    return str(getattr(error, "strerror", None) or error)
