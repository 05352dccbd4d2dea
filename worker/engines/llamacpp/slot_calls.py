"""Copies of slots' states: llama.cpp's server writes and reads them for whoever asks over its private socket."""

from __future__ import annotations

import http.client
import json
import socket

# Such a call takes milliseconds, after the step that is under way.
_LIMIT_S = 60.0


class SlotCallError(Exception):
    """No answer came: the call may still be carried out."""


class SlotCalls:
    """One server's slots. Use it from any thread; calls block. Files are open ones of this process, by their number."""

    def __init__(self, path: str, key: str) -> None:
        self._path = path
        self._key = key

    def save(self, slot: int, file: int) -> bool:
        """Writes a slot's state over what is in the file; returns whether it is there. Raises SlotCallError."""
        return self._call(slot, "save", file)

    def restore(self, slot: int, file: int) -> bool:
        """Replaces a slot's content. Returns False where that failed; the slot may then be empty. Raises
        SlotCallError.
        """
        return self._call(slot, "restore", file)

    def _call(self, slot: int, action: str, file: int) -> bool:
        connection = _Connection(self._path)
        # A connection that stays open holds one of the server's threads.
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request("POST", f"/slots/{slot}?action={action}", json.dumps({"filename": str(file)}), headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise SlotCallError(f"llama.cpp did not answer to {action} a slot's state: {error!r}") from error
        finally:
            connection.close()
        return answer.status == http.client.OK


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket's path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_LIMIT_S)
        self.sock.connect(self._path)
