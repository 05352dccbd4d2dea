"""Finished model files, kept by content: made once, whole or not at all, and taken up again after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files.plan import FilePlan
from qwenserve.worker.progress import Progress, no_progress

_READ_BYTES = 4 << 20
# Below this a file is hashed each time: reading it costs less than being wrong about it.
_MEMO_FROM_BYTES = 64 << 20
# How much work a crash may cost.
_CHECKPOINT_BYTES = 64 << 20
_LOCK_POLL_S = 0.1


class ModelStore:
    """A directory of model files named by content. Several processes may use it at once."""

    def __init__(self, directory: Path, *, lock_wait_s: float = 3600.0) -> None:
        self._directory = directory
        self._lock_wait_s = lock_wait_s

    def obtain(self, name: str, digest: str, plan: Callable[[], FilePlan], progress: Progress = no_progress) -> Path:
        """Returns the file of `digest`, writing it by `plan` if it is not there.

        A second process that asks meanwhile waits for the first. Raises EngineError where the disk is full or
        the wait is over.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{name}-{digest[:16]}.gguf"
        if path.exists():
            return path
        with self._locked(path.with_suffix(".lock")):
            if not path.exists():
                _write(path, plan(), progress)
        return path

    def digest_of(self, files: list[Path], *facts: str, progress: Progress = no_progress) -> str:
        """Returns the SHA-256 over the contents of `files` and over `facts`.

        Large files are hashed once and remembered by path, size and modification time.
        """
        total, done = sum(f.stat().st_size for f in files), 0
        whole = hashlib.sha256("\0".join(facts).encode())
        for file in files:
            whole.update(file.name.encode() + b"\0" + self._file_digest(file, done, total, progress).encode())
            done += file.stat().st_size
        progress(done, total)
        return whole.hexdigest()

    def _file_digest(self, file: Path, done: int, total: int, progress: Progress) -> str:
        stat = file.stat()
        if stat.st_size < _MEMO_FROM_BYTES:
            return _hash(file, done, total, progress)
        stamp = [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
        memo = self._directory / "digests" / f"{hashlib.sha256(str(stamp[0]).encode()).hexdigest()[:32]}.json"
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known = json.loads(memo.read_text(encoding="utf-8"))
            if known["stamp"] == stamp:
                return str(known["sha256"])
        digest = _hash(file, done, total, progress)
        memo.parent.mkdir(parents=True, exist_ok=True)
        _replace_text(memo, json.dumps({"stamp": stamp, "sha256": digest}))
        return digest

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        limit = time.monotonic() + self._lock_wait_s
        with path.open("wb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > limit:
                        raise EngineError(
                            f"another process has been preparing this model for {self._lock_wait_s:.0f} s; "
                            f"see who holds {path}"
                        ) from None
                    time.sleep(_LOCK_POLL_S)
            # The lock file stays: removing it would let a third process lock a file that nobody else sees.
            yield


def _hash(file: Path, done: int, total: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
            done += len(piece)
            progress(done, total)
    return digest.hexdigest()


def _write(path: Path, plan: FilePlan, progress: Progress) -> None:
    """Writes `<path>.partial` from where an earlier try left off, then renames it."""
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    free = shutil.disk_usage(path.parent).free + (partial.stat().st_size if partial.exists() else 0)
    if free < plan.total_bytes:
        raise EngineError(
            f"{path.parent} has {free >> 20} MiB free and this model needs {plan.total_bytes >> 20} MiB; "
            "free some space or name another cache directory"
        )
    identity = hashlib.sha256(plan.header).hexdigest()
    finished = _finished_segments(partial, journal, identity, plan)
    with partial.open("r+b" if finished else "wb") as out:
        position = len(plan.header) + sum(s.nbytes for s in plan.segments[:finished])
        if finished:
            out.truncate(position)
            out.seek(position)
        else:
            out.write(plan.header)
        progress(position, plan.total_bytes)
        unsynced = 0
        for number, segment in enumerate(plan.segments[finished:], finished + 1):
            position = _write_segment(out, segment.pieces(), position, segment.nbytes, plan.total_bytes, progress)
            unsynced += segment.nbytes
            if unsynced >= _CHECKPOINT_BYTES:
                _sync(out)
                _replace_text(journal, json.dumps({"header": identity, "segments": number}))
                unsynced = 0
        _sync(out)
    os.replace(partial, path)
    journal.unlink(missing_ok=True)


def _write_segment(
    out: BinaryIO, pieces: Iterable[bytes | memoryview], position: int, nbytes: int, total: int, progress: Progress
) -> int:
    """Writes one segment and its padding; returns the position after it."""
    end = position + nbytes
    for piece in pieces:
        out.write(piece)
        position += len(piece)
        progress(position, total)
    if position > end:
        raise EngineError("a tensor came out larger than its header says; report this model")
    out.write(bytes(end - position))
    return end


def _finished_segments(partial: Path, journal: Path, identity: str, plan: FilePlan) -> int:
    """Returns how many segments an interrupted write of the same file has left safely on disk."""
    try:
        known = json.loads(journal.read_text(encoding="utf-8"))
        finished = int(known["segments"])
        size = len(plan.header) + sum(s.nbytes for s in plan.segments[:finished])
        if known["header"] == identity and partial.stat().st_size >= size:
            return finished
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return 0


def _sync(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
