"""`qwenserve pack`: a configuration and its model, or a reference to it, as one archive with a manifest.

The archive is a plain tar file: `manifest.json` first, then `qwenserve.yaml`, then `model/…` where the model is
included. The manifest names every other member with size and SHA-256, so that a damaged or altered archive is
refused before anything of it is used. That shows damage, not who made it: there is no signature.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenserve.cli.errors import CommandError
from qwenserve.cli.model import local_path
from qwenserve.cli.options import config_file, overrides_of, setting_texts
from qwenserve.cli.output import Output, ReportProgress
from qwenserve.cli.program import program
from qwenserve.runtime.config import SECRET_TEXTS, AuthConfig, LoadedConfig, annotated_yaml, load_config
from qwenserve.runtime.secret import Secret
from qwenserve.store.redis_url import without_login
from qwenserve.worker.engine_choice import engine_settings
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.model_files import resolve_model

MANIFEST = "manifest.json"
CONFIG = "qwenserve.yaml"
_MODEL = "model"
_FORMAT = 1
_MODEL_FILES = ("*.json", "*.jinja", "*.safetensors")
_MANIFEST_LIMIT = 16 << 20
_CHUNK = 1 << 20

_S = TypeVar("_S", bound=BaseModel)


class FileEntry(BaseModel):
    """One member of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What an archive holds. `model_path` is where the model lies in it; empty: it is only referred to."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: int
    model_name: str
    model_reference: str
    model_path: str = ""
    files: dict[str, FileEntry]


class Package(NamedTuple):
    """An archive that was checked and unpacked. `overrides` are YAML texts."""

    config_file: Path
    overrides: Mapping[str, str]


def run_pack(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    output = Output()
    loaded = load_config(config_file(arguments.config), overrides=overrides_of(arguments), engines=engine_settings())
    if loaded.config.auth.keys:
        output.line("note: auth.keys are left out; set them, or auth.key_file, where the archive is started", "yellow")
    if loaded.config.store.password or loaded.config.store.encryption_key or "@" in loaded.config.store.url:
        output.line(
            "note: passwords and keys of the store are left out; set them where the archive is started", "yellow"
        )
    with output.progress("packing") as report:
        manifest = pack(loaded, arguments.output, with_model=arguments.with_model, report=report)
    included = "model included" if manifest.model_path else f"model by reference: {manifest.model_reference}"
    output.line(
        f"{arguments.output}: {len(manifest.files)} files, {arguments.output.stat().st_size:,} bytes, {included}"
    )
    output.line(f"start it with `{program()} up {arguments.output}`")
    return 0


def pack(loaded: LoadedConfig, target: Path, *, with_model: bool, report: ReportProgress) -> Manifest:
    """Writes an archive and returns its manifest. Raises CommandError."""
    reference = loaded.config.model.reference
    local = local_path(reference)
    members: dict[str, Path] = {}
    model_path = ""
    if with_model:
        model_path, members = _model_members(_resolved(reference, report))
    config = _without_secrets(loaded, _MODEL if with_model else str(local or reference)).encode()
    files = {CONFIG: FileEntry(bytes=len(config), sha256=hashlib.sha256(config).hexdigest())}
    total = sum(path.stat().st_size for path in members.values())
    for name, path in members.items():
        files[name] = _entry(path)
        report(sum(entry.bytes for entry in files.values()), 2 * total)
    manifest = Manifest(
        format=_FORMAT,
        model_name=loaded.config.model_name,
        model_reference=str(local or reference),
        model_path=model_path,
        files=files,
    )
    texts = {MANIFEST: manifest.model_dump_json(indent=1).encode(), CONFIG: config}
    try:
        _write(target, texts, members, lambda done: report(total + done, 2 * total))
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror}") from None
    return manifest


def is_package(file: Path) -> bool:
    """Whether a file is meant to be an archive; one that is damaged should fail as such, not as bad YAML."""
    return file.suffix == ".tar" or (file.is_file() and tarfile.is_tarfile(file))


def unpack(file: Path, packages: Path) -> Package:
    """Checks an archive against its manifest and unpacks it below `packages`. Raises CommandError."""
    try:
        with tarfile.open(file, "r:") as archive:
            manifest, digest = _read_manifest(archive, file)
            folder = packages / digest
            packages.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=packages) as temporary:
                # Unpacked before: the archive is still checked, but not written again.
                unpacked = Path(temporary) / "unpacked"
                unpacked.mkdir()
                _extract(archive, manifest, None if folder.exists() else unpacked, file)
                if not folder.exists():
                    os.replace(unpacked, folder)
    except (OSError, tarfile.TarError) as error:
        raise CommandError(f"{file} is no archive of `qwenserve pack`, or is damaged: {error}") from None
    model = str(folder / manifest.model_path) if manifest.model_path else manifest.model_reference
    settings = {"model.reference": model, "model.name": manifest.model_name}
    return Package(folder / CONFIG, setting_texts(settings))


def _resolved(reference: str, report: ReportProgress) -> Path:
    try:
        return resolve_model(str(local_path(reference) or reference), report)
    except EngineError as error:
        raise CommandError(f"model.reference: {error}") from None


def _model_members(model: Path) -> tuple[str, dict[str, Path]]:
    if model.is_file():
        name = f"{_MODEL}/{model.name}"
        return name, {name: model}
    found = sorted({path for pattern in _MODEL_FILES for path in model.glob(pattern) if path.is_file()})
    return _MODEL, {f"{_MODEL}/{path.name}": path for path in found}


def _without_secrets(loaded: LoadedConfig, reference: str) -> str:
    config = loaded.config
    auth = AuthConfig(key_file=config.auth.key_file)
    # Where the store is, is no secret; how to log in is.
    store = config.store.model_copy(update={"url": Secret(without_login(config.store.url))})
    model = config.model.model_copy(update={"reference": reference, "name": config.model_name})
    changed = config.model_copy(update={"auth": auth, "model": model, "store": store})
    for key in SECRET_TEXTS - {"store.url"}:
        changed = _with_empty(changed, key.split("."))
    return annotated_yaml(LoadedConfig(changed, {}, loaded.engines))


def _with_empty(section: _S, path: Sequence[str]) -> _S:
    """Returns a section with one of its settings empty."""
    name, *below = path
    value = _with_empty(getattr(section, name), below) if below else Secret()
    return section.model_copy(update={name: value})


def _entry(path: Path) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _write(target: Path, texts: Mapping[str, bytes], members: Mapping[str, Path], report: Any) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # PAX: names of any length and script.
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, text in texts.items():
                archive.addfile(_member(name, len(text)), io.BytesIO(text))
            done = 0
            for name, path in members.items():
                with path.open("rb") as file:
                    archive.addfile(_member(name, path.stat().st_size), file)
                done += path.stat().st_size
                report(done)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    # Without times and owners the same content gives the same archive.
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


def _read_manifest(archive: tarfile.TarFile, file: Path) -> tuple[Manifest, str]:
    member = archive.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > _MANIFEST_LIMIT:
        raise CommandError(f"{file} does not begin with a {MANIFEST}; it was not made by `qwenserve pack`")
    text = _open(archive, member).read()
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CommandError(f"{file}: {MANIFEST} cannot be used: {error.errors()[0]['msg']}") from None
    if manifest.format != _FORMAT:
        raise CommandError(f"{file} has format {manifest.format}; this version reads format {_FORMAT}")
    inside = [*manifest.files, *([manifest.model_path] if manifest.model_path else [])]
    for name in inside:
        _check_name(name, file)
    if CONFIG not in manifest.files:
        raise CommandError(f"{file} has no {CONFIG}")
    return manifest, hashlib.sha256(text).hexdigest()[:32]


def _check_name(name: str, file: Path) -> None:
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or str(PurePosixPath(name)) != name
    ):
        raise CommandError(f"{file}: {name!r} points outside of the archive; nothing was unpacked")


def _extract(archive: tarfile.TarFile, manifest: Manifest, folder: Path | None, file: Path) -> None:
    """Checks every member, and writes it below `folder` unless that is None."""
    missing = dict(manifest.files)
    while (member := archive.next()) is not None:
        entry = missing.pop(member.name, None)
        # A sparse one can be of any size, whatever the archive's own: nothing that we pack is.
        if entry is None or not member.isreg() or member.issparse():
            raise CommandError(f"{file}: {member.name!r} is not in the manifest, or is no plain file")
        if member.size != entry.bytes:
            raise CommandError(f"{file}: {member.name} is not what the manifest says; get the archive again")
        digest = hashlib.sha256()
        with _open(archive, member) as source, _sink(folder, member.name) as sink:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                sink.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise CommandError(f"{file}: {member.name} is not what the manifest says; get the archive again")
    if missing:
        raise CommandError(f"{file} lacks {', '.join(sorted(missing))}; get the archive again")


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    source = archive.extractfile(member)
    if source is None:
        raise CommandError(f"{member.name} is no plain file")
    return source


def _sink(folder: Path | None, name: str) -> IO[bytes]:
    if folder is None:
        return open(os.devnull, "wb")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")
