"""From a model reference to files: what is on this machine, what is in the hub's cache, and no network."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.model_files import Hub, resolve_model
from tests.worker.engines.hub_stand_in import hub_serving

COMMIT = "0" * 40


@pytest.fixture
def offline(tmp_path: Path) -> Hub:
    """A hub at a port of this machine where nobody listens, with an empty cache."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return Hub(f"http://127.0.0.1:{port}", tmp_path / "hub")


def _cached(hub: Hub, repository: str, *files: str) -> Path:
    """Puts files into the hub's cache as its library lays them out."""
    assert hub.cache_directory is not None
    root = hub.cache_directory / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).write_text("{}")
    return snapshot


def test_local_references(directory: Path, gguf: Path, offline: Hub) -> None:
    assert resolve_model(str(directory), hub=offline) == directory
    assert resolve_model(str(gguf), hub=offline) == gguf


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "does not exist"), ("empty", "no config.json"), ("text.txt", "neither a directory nor a .gguf")],
)
def test_local_references_that_name_no_model(tmp_path: Path, offline: Hub, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(EngineError, match=message):
        resolve_model(str(tmp_path / name), hub=offline)


def test_a_model_in_the_hubs_cache_needs_no_network(offline: Hub) -> None:
    snapshot = _cached(offline, "org/name", "config.json", "tokenizer.json", "model.safetensors")
    assert resolve_model("org/name", hub=offline) == snapshot
    files = _cached(offline, "org/files", "a.gguf")
    assert resolve_model("org/files/a.gguf", hub=offline) == files / "a.gguf"


@pytest.mark.parametrize("files", [(), ("config.json", "tokenizer.json"), ("config.json", "model.safetensors")])
def test_without_a_network_the_error_says_what_to_do(offline: Hub, files: tuple[str, ...]) -> None:
    if files:
        _cached(offline, "org/name", *files)
    with pytest.raises(EngineError, match=r"org/name is not on this machine.*name a model directory"):
        resolve_model("org/name", hub=offline)
    with pytest.raises(EngineError, match=r"org/name/a\.gguf is not on this machine"):
        resolve_model("org/name/a.gguf", hub=offline)


def test_a_model_is_downloaded_once_and_then_found_without_the_hub(directory: Path, gguf: Path, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    repository = tmp_path / "repository"
    shutil.copytree(directory, repository)
    (repository / "pytorch_model.bin").write_bytes(bytes(1000))
    shutil.copyfile(gguf, repository / "file.gguf")
    with hub_serving(repository, "org/name") as endpoint:
        hub = Hub(endpoint, tmp_path / "hub")
        path = resolve_model("org/name", lambda done, total: shown.append((done, total)), hub)
        file = resolve_model("org/name/file.gguf", hub=hub)
        with pytest.raises(EngineError, match=r"no file org/name/other\.gguf"):
            resolve_model("org/name/other.gguf", hub=hub)
        with pytest.raises(EngineError, match="no model org/none"):
            resolve_model("org/none", hub=hub)
    assert {p.name for p in path.iterdir()} >= {p.name for p in directory.iterdir()}
    assert not (path / "pytorch_model.bin").exists()
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    assert file.read_bytes() == gguf.read_bytes()
    size = sum(p.stat().st_size for p in directory.iterdir())
    assert shown[-1] == (size, size)
    assert resolve_model("org/name", hub=hub) == path
    assert engine_file(path, WeightType.F32, tmp_path / "cache").name.startswith("name-f32-")


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("models/qwen3-tinny", "did you mean models/qwen3-tiny"),
        ("./qwen3-tiny", "is no hub id"),
        ("../models", "is no hub id"),
        ("~/qwen3-tiny", "is no hub id"),
        (".hidden/x", "is no hub id"),
    ],
)
def test_a_mistyped_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch, offline, reference, told):
    """What names a folder of this machine is never looked for elsewhere."""
    (tmp_path / "here" / "models" / "qwen3-tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(EngineError, match=told):
        resolve_model(reference, hub=offline)
