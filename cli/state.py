"""What this machine's deployments have left on disk: records, logs, locks.

    $QWENSERVE_STATE_DIR, else $XDG_STATE_HOME/qwenserve, else ~/.local/state/qwenserve
    ├── chat_history
    ├── packages/<digest>/            unpacked archives
    └── deployments/<name>/
        ├── lock                      held as long as the deployment's supervisor lives
        ├── token, store-password     what its processes know each other and their store by
        ├── store.conf                how its own store is configured, where it starts one
        ├── plan.json                 what is to run
        ├── record.json               what runs
        └── logs/<process>.log

A record is replaced as a whole, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from qwenserve.cli.errors import CommandError
from qwenserve.cli.processes import ProcessIdentity
from qwenserve.cli.program import program
from qwenserve.runtime.client_tls import ClientTls

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")

ProcessState = Literal["starting", "ready", "restarting", "stopping", "stopped", "failed"]
DeploymentState = Literal["starting", "ready", "degraded", "draining", "failed"]


class ProcessRecord(BaseModel):
    """One process of a deployment."""

    model_config = ConfigDict(frozen=True)

    name: str
    tier: str
    address: str
    state: ProcessState = "starting"
    identity: ProcessIdentity | None = None
    restarts: int = 0
    # A digest of what it was started with: whether a later supervisor can take it over.
    settings: str = ""

    @property
    def running(self) -> bool:
        """Whether it has a process that has not ended."""
        return self.identity is not None and self.identity.alive


class DeploymentRecord(BaseModel):
    """One deployment. `http` and `grpc` are `host:port`; `http` is empty where it is switched off."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    path: str
    http: str
    grpc: str
    drain_timeout_s: float
    # How to call both; None: in plain text.
    tls: ClientTls | None = None
    state: DeploymentState = "starting"
    reason: str = ""
    supervisor: ProcessIdentity
    processes: tuple[ProcessRecord, ...] = ()

    @property
    def http_url(self) -> str:
        """Where its HTTP API is; empty where it has none."""
        return f"{'https' if self.tls is not None else 'http'}://{self.http}" if self.http else ""

    @property
    def shown_state(self) -> str:
        """The state as a person should read it: a record outlives a supervisor that was killed."""
        if self.state == "failed":
            return self.state
        if not self.supervisor.alive:
            return "orphaned" if any(process.running for process in self.processes) else "dead"
        whole = all(process.running for process in self.processes)
        state = "degraded" if self.state == "ready" and not whole else self.state
        return f"degraded {self.serving}/{len(self.processes)}" if state == "degraded" else state

    @property
    def serving(self) -> int:
        """How many processes are ready and have not ended."""
        return sum(process.state == "ready" and process.running for process in self.processes)


class Deployment:
    """The folder of one deployment."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.logs = folder / "logs"

    def prepare(self) -> None:
        """Makes the folders, readable by their owner only."""
        for folder in (self.folder, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log_file(self, process: str) -> Path:
        """Where a process writes its log."""
        return self.logs / f"{process}.log"

    def token(self, name: str = "token") -> str:
        """A secret of this deployment, which it keeps. Readable by its owner only."""
        self.prepare()
        file = self.folder / name
        if not file.exists():
            # A letter first: settings are YAML, where digits could be a number.
            replace_text(file, f"t{secrets.token_hex(24)}")
        return file.read_text(encoding="utf-8")

    @property
    def plan_file(self) -> Path:
        """What is to run."""
        return self.folder / "plan.json"

    @property
    def store_settings(self) -> Path:
        """How the store that it starts itself is configured, password included. Readable by its owner only."""
        return self.folder / "store.conf"

    @property
    def _record_file(self) -> Path:
        return self.folder / "record.json"

    def read(self) -> DeploymentRecord | None:
        """Returns the record; None if there is none, or one of a version that cannot be read."""
        try:
            return DeploymentRecord.model_validate_json(self._record_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, record: DeploymentRecord) -> None:
        """Replaces the record."""
        replace_text(self._record_file, record.model_dump_json(indent=1))

    def forget(self) -> None:
        """Removes the record; the logs stay."""
        self._record_file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps the deployment's name for this process. Raises CommandError if it runs already."""
        self.prepare()
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandError(
                    f"a deployment named {self.name!r} is running; stop it with `{program()} stop {self.name}` "
                    "or choose another name with --name"
                ) from None
            yield


class StateDirectory:
    """All deployments of this user on this machine."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    @property
    def history_file(self) -> Path:
        """Lines typed into `qwenserve chat`."""
        return self.root / "chat_history"

    @property
    def packages(self) -> Path:
        """Where archives are unpacked."""
        return self.root / "packages"

    def deployment(self, name: str) -> Deployment:
        """Returns the deployment of that name, whether it exists or not. Raises CommandError for a bad name."""
        if not _NAME.match(name):
            raise CommandError(f"{name!r} is no name for a deployment; use lower-case letters, digits, '.', '_', '-'")
        return Deployment(self.root / "deployments" / name)

    def deployments(self) -> list[Deployment]:
        """Returns the folders of all deployments, by name."""
        folder = self.root / "deployments"
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        return [self.deployment(name) for name in names if _NAME.match(name)]

    def records(self) -> list[DeploymentRecord]:
        """Returns the records of all deployments, by name."""
        found = (deployment.read() for deployment in self.deployments())
        return [record for record in found if record is not None]

    def find(self, name: str | None) -> DeploymentRecord:
        """Returns the record of that name, or the only one. Raises CommandError naming what there is."""
        records = {record.name: record for record in self.records()}
        if name is not None:
            if name not in records:
                known = ", ".join(records) or "none"
                raise CommandError(f"no deployment is named {name!r}; there is: {known}")
            return records[name]
        if not records:
            raise CommandError(f"nothing is running; start something with `{program()} up`")
        if len(records) > 1:
            raise CommandError(f"several deployments exist, name one of: {', '.join(records)}")
        return next(iter(records.values()))


def default_root() -> Path:
    """The state directory that the environment asks for."""
    if given := os.environ.get("QWENSERVE_STATE_DIR"):
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "qwenserve"


def name_from(model: str) -> str:
    """Returns a deployment's default name: the model's, in the letters that a name may have."""
    name = re.sub(r"[^a-z0-9._-]+", "-", model.lower()).strip("-._")[:63]
    return name or "default"


def replace_text(path: Path, text: str) -> None:
    """Writes a file as a whole: readers see the old text or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
