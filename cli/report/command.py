"""`qwenserve report`: one archive for a bug report, without secrets and without anybody's prompts."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from qwenserve.cli.config_command import shown
from qwenserve.cli.errors import CommandError
from qwenserve.cli.options import config_file, overrides_of
from qwenserve.cli.output import Output
from qwenserve.cli.processes import last_lines
from qwenserve.cli.ps import process_table_of
from qwenserve.cli.report.redact import Scrubber, safe_line, safe_settings
from qwenserve.cli.state import Deployment, DeploymentRecord, StateDirectory
from qwenserve.runtime.client_tls import ClientTls, tls_of
from qwenserve.runtime.config import SECRETS, ConfigError, LoadedConfig, load_config
from qwenserve.runtime.process import parse_setting
from qwenserve.runtime.secret import Secret
from qwenserve.worker.engine_choice import engine_settings

_LINES = 2000
_LOG_BYTES = 4 << 20
_TIMEOUT_S = 5.0
_MOST_METRICS = 8 << 20
# Parts of variables' names that tell that the value is nobody else's affair.
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_README = """\
What `qwenserve report` put together. Look through it before you send it.

about.json     versions, machine, GPUs
settings/      effective settings of each process; secrets are hidden
processes.txt  processes as `qwenserve ps -p` shows them
metrics/       what each router told at /metrics
logs/          the last lines of each log. Only known fields are there: quoted texts, messages of exceptions, and what
               callers sent are left out.
"""


def run_report(arguments: argparse.Namespace) -> int:
    """Writes the archive; returns the exit code."""
    state = StateDirectory()
    deployment = _deployment(state, arguments.name)
    record = deployment.read() if deployment is not None else None
    configs = _configs(arguments, record)
    scrubber = Scrubber([*_secrets_of(configs.values()), *_secrets_of_environment()])
    name = deployment.name if deployment is not None else "machine"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = arguments.output or Path(f"qwenserve-report-{name}-{stamp}.tar.gz")
    logs = {file.stem: file for file in (*_logs_of(deployment), *arguments.log)}
    routers = [(record.http_url, tls_of(arguments, known=record.tls))] if record is not None and record.http else []
    routers += [(_url(address, arguments), tls_of(arguments, address)) for address in arguments.address]
    members = {
        "README.txt": _README,
        "about.json": json.dumps(_about(), indent=1),
        **{f"settings/{process}.txt": _settings_text(loaded) for process, loaded in configs.items()},
        **({"processes.txt": _processes_text(record)} if record is not None else {}),
        **{f"metrics/{number}.txt": _metrics_of(url, tls) for number, (url, tls) in enumerate(routers)},
        **{f"logs/{process}.log": _log_text(file) for process, file in logs.items()},
    }
    folder = f"qwenserve-report-{name}"
    try:
        _write(target, {f"{folder}/{member}": scrubber.clean(text) for member, text in members.items()})
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror or error}; name another file with -o") from None
    output = Output()
    output.line(f"{target}: {len(members)} files, {target.stat().st_size / 1e3:,.0f} kB")
    output.line(
        "It holds no prompts, answers or keys, as far as that can be known: look through it before you send it."
    )
    return 0


def _deployment(state: StateDirectory, name: str | None) -> Deployment | None:
    """Returns the deployment of that name, running or not, or the only one; None where there is none."""
    if name is not None:
        found = state.deployment(name)
        if not found.folder.is_dir():
            known = ", ".join(each.name for each in state.deployments()) or "none"
            raise CommandError(f"no deployment is named {name!r}; there is: {known}")
        return found
    known_here = state.deployments()
    running = [record.name for record in state.records()]
    if len(known_here) > 1 and len(running) != 1:
        raise CommandError(f"several deployments exist, name one of: {', '.join(each.name for each in known_here)}")
    if len(running) == 1:
        return state.deployment(running[0])
    return known_here[0] if known_here else None


def _configs(arguments: argparse.Namespace, record: DeploymentRecord | None) -> dict[str, LoadedConfig]:
    """Returns the settings of each process that runs; where none does, those that the command line names."""
    found = {}
    for process in record.processes if record is not None else ():
        # One that has ended meanwhile, or whose file has been changed since, must not keep the rest from being told.
        with contextlib.suppress(OSError, ConfigError):
            if process.identity is not None and process.running:
                found[process.name] = _config_of(process.identity.pid)
    if found:
        return found
    own = load_config(config_file(arguments.config), overrides=overrides_of(arguments), engines=engine_settings())
    return {"qwenserve": own}


def _config_of(pid: int) -> LoadedConfig:
    """Reads a process's settings where it has them from. Raises OSError where there is no /proc, or no such process."""
    arguments = _zero_separated(Path(f"/proc/{pid}/cmdline"))
    environment = dict(item.split("=", 1) for item in _zero_separated(Path(f"/proc/{pid}/environ")) if "=" in item)
    given = list(pairwise(arguments))
    file = next((Path(value) for option, value in given if option == "--config"), None)
    overrides = dict(parse_setting(value) for option, value in given if option == "--set")
    return load_config(file, environment=environment, overrides=overrides, engines=engine_settings())


def _zero_separated(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").rstrip("\0").split("\0")


def _settings_text(loaded: LoadedConfig) -> str:
    told = safe_settings({setting.key: shown(setting) for setting in loaded.settings()})
    sources = {setting.key: setting.source for setting in loaded.settings()}
    return "".join(f"{key} = {text}  ({sources[key]})\n" for key, text in told.items())


def _secrets_of(configs: Iterable[LoadedConfig]) -> Iterator[str]:
    for loaded in configs:
        for setting in loaded.settings():
            if setting.key in SECRETS:
                values = setting.value if isinstance(setting.value, tuple) else (setting.value,)
                for value in values:
                    if isinstance(value, Secret) and value:
                        yield value.reveal()


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= 8 and any(part in name.upper() for part in _SECRET_NAMES):
            yield value


def _logs_of(deployment: Deployment | None) -> list[Path]:
    return sorted(deployment.logs.glob("*.log")) if deployment is not None else []


def _log_text(file: Path) -> str:
    lines = last_lines(file, _LINES, limit_bytes=_LOG_BYTES)
    return "".join(f"{safe_line(line)}\n" for line in lines)


def _processes_text(record: DeploymentRecord) -> str:
    header, rows = process_table_of([record])
    lines = ["  ".join(cells) for cells in (header, *rows)]
    return f"{record.name}: {record.shown_state} {record.reason}\n" + "".join(f"{line}\n" for line in lines)


def _url(address: str, arguments: argparse.Namespace) -> str:
    if "://" in address:
        return address.rstrip("/")
    return f"{'https' if tls_of(arguments, address) is not None else 'http'}://{address}"


def _metrics_of(url: str, tls: ClientTls | None) -> str:
    try:
        context = tls.context() if tls is not None else None
        with urllib.request.urlopen(f"{url}/metrics", timeout=_TIMEOUT_S, context=context) as reply:
            return str(reply.read(_MOST_METRICS).decode("utf-8", "replace"))
    except (ConfigError, OSError, ValueError) as error:
        return f"not reached: {type(error).__name__}\n"


def _about() -> dict[str, object]:
    wanted = {
        requirement.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].split("!")[0].strip()
        for requirement in metadata.requires("qwenserve") or []
    }
    versions = {}
    for name in sorted({"qwenserve", *wanted}):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "versions": versions,
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.splitlines()


def _write(target: Path, members: Mapping[str, str]) -> None:
    # Readable by its owner only, from the beginning.
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in members.items():
            body = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(body), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(body))
