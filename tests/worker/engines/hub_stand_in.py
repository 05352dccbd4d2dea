"""A model hub on loopback that serves one directory as one repository, as far as downloading needs."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

COMMIT = "1" * 40


class _Requests(http.server.BaseHTTPRequestHandler):
    def __init__(self, directory: Path, repository: str, *args: Any) -> None:
        self._directory = directory
        self._repository = repository
        super().__init__(*args)

    def log_message(self, *args: object) -> None:
        """Keeps the tests' output clean."""

    def do_HEAD(self) -> None:
        self._reply(*self._content())

    def do_GET(self) -> None:
        self._reply(*self._content())

    def _content(self) -> tuple[int, bytes, dict[str, str]]:
        path = self.path.partition("?")[0]
        files = {p.name: p for p in self._directory.iterdir()}
        api = f"/api/models/{self._repository}"
        if path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": n, "size": p.stat().st_size} for n, p in files.items()]
            return 200, json.dumps({"id": self._repository, "sha": COMMIT, "siblings": siblings}).encode(), {}
        if path.startswith(f"{api}/tree/"):
            entries = [{"type": "file", "path": n, "size": p.stat().st_size, "oid": n} for n, p in files.items()]
            return 200, json.dumps(entries).encode(), {}
        front, _, name = path.rpartition("/")
        if front.startswith(f"/{self._repository}/resolve/") and name in files:
            body = files[name].read_bytes()
            return 200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        missing = "EntryNotFound" if self._repository in path else "RepoNotFound"
        return 404, b"", {"X-Error-Code": missing}

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextlib.contextmanager
def hub_serving(directory: Path, repository: str) -> Iterator[str]:
    """Yields the endpoint of a hub with this one repository."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Requests, directory, repository))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
