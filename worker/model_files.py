"""From a model reference to files on this machine: a directory, a GGUF file, or a model of the hub."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.progress import Progress, no_progress
from qwenserve.worker.weight_files import weight_files

_NEEDED = ("*.json", "*.jinja", "*.safetensors")
# Not downloaded: other formats of the same weights, and files that no engine here reads.
_NOT_NEEDED = ("*/*", "consolidated*", "*.index.fp8.json")
# Names of the hub begin and end with a letter or digit, so `./model` and `../model` are paths.
_HUB_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_HUB_ID = re.compile(rf"{_HUB_NAME}/{_HUB_NAME}")
_HUB_FILE = re.compile(rf"({_HUB_NAME}/{_HUB_NAME})/(.+\.gguf)")
_POLL_S = 0.25


class Hub(NamedTuple):
    """Where hub models come from and are kept; None is the hub library's own choice (its environment variables)."""

    endpoint: str | None = None
    cache_directory: Path | None = None


def resolve_model(reference: str, progress: Progress = no_progress, hub: Hub | None = None) -> Path:
    """Returns the local directory or GGUF file that `reference` names, downloading it where it is a hub id.

    A reference is a path, `org/name`, or `org/name/file.gguf`. What is on this machine wins over the hub, and a
    model in the hub's cache is used without asking the network. Blocks; call it in a thread. Raises EngineError with
    the remedy.
    """
    path = Path(reference).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir():
        if not (path / "config.json").exists():
            raise EngineError(f"{path} has no config.json; name a Hugging Face model directory or a .gguf file")
        return path
    if path.exists():
        raise EngineError(f"{path} is neither a directory nor a .gguf file")
    if near := nearest_path(reference):
        raise EngineError(f"{reference} does not exist; did you mean {near}?")
    where = hub or Hub()
    if match := _HUB_FILE.fullmatch(reference):
        return _hub_file(match[1], match[2], progress, where)
    if _HUB_ID.fullmatch(reference):
        return _hub_directory(reference, progress, where)
    raise EngineError(f"{reference} does not exist, and is no hub id (org/name) either")


def nearest_path(reference: str, base: Path = Path()) -> str:
    """Returns the path that a mistyped one means; empty where its folder is not below `base` or holds nothing like it.

    `models/qwen3-tinny` has the form of a hub id too. With a folder `models` here it is a path with a typing mistake.
    """
    folder, _, name = reference.rpartition("/")
    parent = base / Path(folder).expanduser()
    if not folder or not parent.is_dir():
        return ""
    close = difflib.get_close_matches(name, [entry.name for entry in parent.iterdir()], n=1)
    return f"{folder}/{close[0]}" if close else ""


def _hub_directory(repository: str, progress: Progress, hub: Hub) -> Path:
    cached = _cached_directory(repository, hub)
    if cached is not None:
        return cached
    from huggingface_hub import snapshot_download

    with _hub_errors(repository):
        total = _download_size(repository, hub)
        with _watched(repository, total, progress, hub):
            directory = Path(
                snapshot_download(
                    repository,
                    allow_patterns=list(_NEEDED),
                    ignore_patterns=list(_NOT_NEEDED),
                    endpoint=hub.endpoint,
                    cache_dir=hub.cache_directory,
                )
            )
    progress(total, total)
    if not weight_files(directory):
        raise EngineError(
            f"{repository} has no safetensors weights; for a GGUF repository name the file: org/name/file.gguf"
        )
    return directory


def _hub_file(repository: str, name: str, progress: Progress, hub: Hub) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name, cache_dir=hub.cache_directory)
    if isinstance(cached, str):
        return Path(cached)
    with _hub_errors(f"{repository}/{name}"):
        total = _download_size(repository, hub, name)
        with _watched(repository, total, progress, hub):
            path = hf_hub_download(repository, name, endpoint=hub.endpoint, cache_dir=hub.cache_directory)
    progress(total, total)
    return Path(path)


def _cached_directory(repository: str, hub: Hub) -> Path | None:
    """Returns a whole model from the hub's cache, None where there is none or a part is missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", cache_dir=hub.cache_directory)
    if not isinstance(config, str):
        return None
    directory = Path(config).parent
    try:
        whole = weight_files(directory) and (directory / "tokenizer.json").exists()
    except EngineError:
        return None
    return directory if whole else None


def _download_size(repository: str, hub: Hub, name: str | None = None) -> int:
    """Returns the bytes of the files that will be downloaded."""
    from huggingface_hub import HfApi

    siblings = HfApi(endpoint=hub.endpoint).model_info(repository, files_metadata=True).siblings or []
    sizes = {s.rfilename: s.size or 0 for s in siblings}
    if name is not None:
        return sizes.get(name, 0)
    return sum(size for file, size in sizes.items() if _is_needed(file))


def _is_needed(file: str) -> bool:
    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatch(file, p) for p in patterns)

    return matches(_NEEDED) and not matches(_NOT_NEEDED)


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Translates whatever the hub's library raises; its tree of errors has roots in several others."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except EngineError:
        raise
    except GatedRepoError as error:
        raise EngineError(
            f"{what} asks for its licence to be accepted; do so on its page, then set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise EngineError(f"there is no model {what} on the hub, or it is private; set HF_TOKEN if it is") from error
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and what.endswith(".gguf"):
            raise EngineError(f"the hub has no file {what}") from error
        raise EngineError(
            f"{what} is not on this machine and cannot be downloaded ({type(error).__name__}: {error}). "
            "Connect to the network, set HTTPS_PROXY or HF_ENDPOINT, or name a model directory or a .gguf file"
        ) from error


@contextlib.contextmanager
def _watched(repository: str, total: int, progress: Progress, hub: Hub) -> Iterator[None]:
    """Reports how much of a download is on disk. The library's own progress bars are meant for terminals only."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    cache = hub.cache_directory or Path(constants.HF_HUB_CACHE)
    blobs = cache / f"models--{repository.replace('/', '--')}" / "blobs"
    before = _size_of(blobs)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            progress(min(total, _size_of(blobs) - before), total)

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    watcher = threading.Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if not were_disabled:
            enable_progress_bars()


def _size_of(directory: Path) -> int:
    size = 0
    with contextlib.suppress(OSError):  # files come and go while they are counted
        size = sum(f.stat().st_blocks * 512 for f in directory.iterdir())
    return size
