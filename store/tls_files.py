"""Files for TLS to a store."""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple


class TlsFiles(NamedTuple):
    """Files in PEM. Without an authority the system's are believed; `chain` and `key` are for servers that ask."""

    authority: str = ""
    chain: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Returns what a connection is made with. Raises OSError for files that cannot be used."""
        context = ssl.create_default_context()
        if self.authority:
            context.load_verify_locations(self.authority)
        if self.chain:
            context.load_cert_chain(self.chain, self.key or None)
        return context

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Returns what changes with the files; a missing one has a stamp, too."""
        return tuple(_stamp_of(file) for file in self if file)


def _stamp_of(file: str) -> tuple[int, int, int]:
    try:
        state = os.stat(file)
    except OSError:
        return (0, 0, 0)
    return state.st_mtime_ns, state.st_size, state.st_ino
