"""Archives: what goes in comes out, and what was altered is refused."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenserve.cli.errors import CommandError
from qwenserve.cli.main import main
from qwenserve.cli.options import setting_texts
from qwenserve.cli.package import CONFIG, MANIFEST, is_package, pack, unpack
from qwenserve.runtime.config import SECRET_TEXTS, load_config

Members = dict[str, bytes]


def nothing(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "qwen3-mini"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(f'{{"file": "{name}"}}')
    (folder / "notes.txt").write_text("not the model's")
    return folder


@pytest.fixture
def archive(tmp_path: Path, model: Path) -> Path:
    target = tmp_path / "mini.tar"
    pack(loaded(model), target, with_model=True, report=nothing)
    return target


def loaded(model: Path, **overrides: Any):
    return load_config(environment={}, overrides={"model.reference": str(model), "http.port": 8123, **overrides})


def members_of(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def write(archive: Path, members: Members) -> None:
    with tarfile.open(archive, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_model_and_settings_come_out_again(archive: Path, model: Path, tmp_path: Path):
    """An unpacked archive has the settings that were effective, and the model's own files."""
    package = unpack(archive, tmp_path / "packages")

    config = load_config(package.config_file, environment={}, overrides=package.overrides).config
    unpacked = Path(config.model.reference)
    assert (config.http.port, config.model_name) == (8123, "qwen3-mini")
    assert sorted(path.name for path in unpacked.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert all((unpacked / path.name).read_bytes() == path.read_bytes() for path in model.glob("*.json"))
    assert unpacked.is_relative_to(tmp_path / "packages")


def test_model_by_reference(model: Path, tmp_path: Path):
    """Without the model's files the archive refers to where they are."""
    manifest = pack(loaded(model), tmp_path / "a.tar", with_model=False, report=nothing)
    package = unpack(tmp_path / "a.tar", tmp_path / "packages")

    assert list(manifest.files) == [CONFIG]
    assert package.overrides == setting_texts({"model.reference": str(model), "model.name": "qwen3-mini"})


def test_hub_id_by_reference(tmp_path: Path):
    """A hub id stays a hub id; nothing is downloaded."""
    settings = load_config(environment={}, overrides={"model.reference": "Qwen/Qwen3-0.6B"})
    pack(settings, tmp_path / "a.tar", with_model=False, report=nothing)

    assert unpack(tmp_path / "a.tar", tmp_path / "p").overrides["model.reference"] == '"Qwen/Qwen3-0.6B"'


def test_same_content_gives_the_same_archive(archive: Path, model: Path, tmp_path: Path):
    """An archive has no times or owners in it."""
    pack(loaded(model), tmp_path / "again.tar", with_model=True, report=nothing)

    assert archive.read_bytes() == (tmp_path / "again.tar").read_bytes()


def test_keys_stay_at_home(model: Path, tmp_path: Path):
    """API keys, and whatever else is secret, are not packed."""
    secrets: dict[str, object] = {**dict.fromkeys(SECRET_TEXTS, "topsecret"), "auth.keys": ["topsecret"]}
    assert "cluster.token" in secrets
    given = loaded(model, **{**secrets, "store.url": "redis://me:topsecret@kv:6379/1"})

    pack(given, tmp_path / "a.tar", with_model=False, report=nothing)

    packed = (tmp_path / "a.tar").read_bytes()
    assert b"topsecret" not in packed
    assert b"redis://kv:6379/1" in packed


def alter_weights(members: Members) -> None:
    members["model/model.safetensors"] = b'{"file": "xodel.safetensors"}'


def alter_settings(members: Members) -> None:
    members[CONFIG] = members[CONFIG].replace(b"8123", b"8124")


def drop_file(members: Members) -> None:
    del members["model/tokenizer.json"]


def add_file(members: Members) -> None:
    members["model/extra.json"] = b"{}"


def drop_manifest(members: Members) -> None:
    del members[MANIFEST]


def manifest_change(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], None]:
    def alter(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        change(manifest)
        members[MANIFEST] = json.dumps(manifest).encode()

    return alter


def escape_to(name: str) -> Callable[[Members], None]:
    def alter(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["files"][name] = manifest["files"].pop("model/tokenizer.json")
        members[MANIFEST] = json.dumps(manifest).encode()
        members[name] = members.pop("model/tokenizer.json")

    return alter


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (alter_weights, "model.safetensors is not what the manifest says"),
        (alter_settings, "qwenserve.yaml is not what the manifest says"),
        (drop_file, "lacks model/tokenizer.json"),
        (add_file, "'model/extra.json' is not in the manifest"),
        (drop_manifest, "does not begin with a manifest.json"),
        (escape_to("../escaped.json"), "points outside"),
        (escape_to("/tmp/escaped.json"), "points outside"),
        (escape_to("model/../../escaped.json"), "points outside"),
        (manifest_change(lambda m: m.update(model_path="../..")), "points outside"),
        (manifest_change(lambda m: m.update(format=99)), "format 99"),
        (manifest_change(lambda m: m.update(files={})), "has no qwenserve.yaml"),
        (manifest_change(lambda m: m.pop("files")), "cannot be used"),
        (manifest_change(lambda m: m.update(surprise=1)), "cannot be used"),
    ],
)
def test_altered_archives_are_refused(archive: Path, tmp_path: Path, alter: Callable[[Members], None], words: str):
    """Nothing of an archive that is not what its manifest says is left behind."""
    members = members_of(archive)
    alter(members)
    write(archive, members)

    with pytest.raises(CommandError, match=words):
        unpack(archive, tmp_path / "packages")

    assert not [path for path in (tmp_path / "packages").rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("escaped.json"))


def test_altered_archive_is_refused_after_a_good_one(archive: Path, tmp_path: Path):
    """An archive is checked every time, also where a good one of the same manifest was unpacked before."""
    good = unpack(archive, tmp_path / "packages")
    assert unpack(archive, tmp_path / "packages") == good
    members = members_of(archive)
    alter_weights(members)
    write(archive, members)

    with pytest.raises(CommandError, match="not what the manifest says"):
        unpack(archive, tmp_path / "packages")


def test_an_archive_of_holes_is_refused_unread(archive: Path, tmp_path: Path):
    """A sparse member is of any size, in a few bytes of archive."""
    members = members_of(archive)
    manifest = json.loads(members[MANIFEST])
    manifest["files"]["model/tokenizer.json"]["bytes"] = 64 << 30
    members[MANIFEST] = json.dumps(manifest).encode()
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "model/tokenizer.json":
                member.size = 0
                member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(64 << 30)}
            tar.addfile(member, io.BytesIO(content))

    with pytest.raises(CommandError, match="no plain file"):
        unpack(archive, tmp_path / "packages")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(archive: Path, tmp_path: Path, kind: bytes):
    """Only plain files are unpacked, whatever name they have."""
    members = members_of(archive)
    with tarfile.open(archive, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "model/tokenizer.json":
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(content))

    with pytest.raises(CommandError, match="no plain file"):
        unpack(archive, tmp_path / "packages")


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 2048])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes):
    """A file that only calls itself an archive gives one clear message."""
    file = tmp_path / "x.tar"
    file.write_bytes(content)

    assert is_package(file)
    with pytest.raises(CommandError, match=r"x\.tar"):
        unpack(file, tmp_path / "packages")


def test_cut_archive_is_refused(archive: Path, tmp_path: Path):
    """A download that broke off does not start."""
    archive.write_bytes(archive.read_bytes()[:3000])

    with pytest.raises(CommandError, match=r"mini\.tar"):
        unpack(archive, tmp_path / "packages")


def test_configuration_files_are_no_archives(tmp_path: Path):
    """`up FILE` takes both."""
    file = tmp_path / "qwenserve.yaml"
    file.write_text("http:\n  port: 1\n")

    assert not is_package(file)


def test_command_says_what_it_did(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The command prints what is in the archive, and that keys are not."""
    target = tmp_path / "out" / "a.tar"

    code = main(["pack", "-o", str(target), "--model", str(model), "--with-model", "--set", "auth.keys=[k]"])

    output = capsys.readouterr().out
    assert code == 0
    assert "4 files" in output
    assert "auth.keys are left out" in output
    assert target.exists()
