"""Whom the processes of one deployment believe.

Workers and tokenizers serve routers, and nobody else. Beyond loopback they listen only where something tells routers
from strangers: a token that all of the deployment know, or certificates of its own authority.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from qwenserve.runtime.addresses import is_loopback
from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.errors import Unauthenticated
from qwenserve.runtime.secret import Secret
from qwenserve.runtime.tls import Certificate, cluster_certificate

TOKEN_HEADER = "x-cluster-token"

_NO_TOKEN = Secret()


@dataclass(frozen=True)
class Trust:
    """What a process shows to others of its deployment and asks of them.

    Without a token it asks for none; without a certificate it speaks plain text. `name` is what others' certificates
    must be for; empty: the host in their address.
    """

    token: Secret = _NO_TOKEN
    certificate: Certificate | None = None
    name: str = ""

    @classmethod
    def from_config(cls, config: Config) -> Trust:
        """Returns what the configuration says. Raises ConfigError."""
        return cls(config.cluster.token, cluster_certificate(config.tls), config.tls.cluster_name)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call to another process of the deployment carries."""
        return ((TOKEN_HEADER, self.token.reveal()),) if self.token else ()

    @property
    def version(self) -> int:
        """Another number means another certificate: a channel keeps the one that it was made with."""
        return self.certificate.current().version if self.certificate is not None else 0

    def check(self, given: str | bytes | None) -> None:
        """Looks at the token of a call. Raises Unauthenticated."""
        if self.token and not (isinstance(given, str) and hmac.compare_digest(_digest(given), _digest(self.token))):
            raise Unauthenticated(
                "this port is for the processes of its own deployment; give all of them the same cluster.token"
            )

    def check_listening(self, host: str, setting: str) -> None:
        """Raises ConfigError where strangers could reach a worker or tokenizer that listens on `host`."""
        if not is_loopback(host) and not self.token and self.certificate is None:
            raise ConfigError(
                f"{setting}: other machines reach {host}, and nothing would keep strangers from this port; set "
                "cluster.token (QWENSERVE_CLUSTER__TOKEN) to one long random text for all routers, workers and "
                "tokenizers, or give them certificates (tls.cluster_ca_file), or listen on 127.0.0.1"
            )


# Asks for nothing and shows nothing.
OPEN = Trust()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
