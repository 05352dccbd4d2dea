"""The cache of model files: once per content, whole or not at all, taken up again after a crash."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import ModelStore, WeightType, engine_file, store
from qwenserve.worker.engines.llamacpp.gguf_files.plan import FilePlan, Segment
from tests.worker.engines.model_directories import write_model

DIGEST = "0123456789abcdef" * 4


class Recipe:
    """A file of eight segments; counts what is made and can fail at one of them."""

    def __init__(self, *, fail_at: int | None = None) -> None:
        self.made: list[int] = []
        self.fail_at = fail_at

    def plan(self) -> FilePlan:
        def segment(number: int) -> Segment:
            def pieces() -> Iterator[bytes]:
                if number == self.fail_at:
                    yield b"half"
                    raise KeyboardInterrupt
                self.made.append(number)
                yield bytes([number]) * 50
                yield bytes([number]) * 10

            return Segment(64, pieces)

        return FilePlan(b"HEADER" * 8, [segment(n) for n in range(8)])


WHOLE = b"HEADER" * 8 + b"".join(bytes([n]) * 60 + bytes(4) for n in range(8))


def test_made_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    recipe = Recipe()
    for _ in range(2):
        path = ModelStore(tmp_path).obtain("m", DIGEST, recipe.plan, lambda done, total: seen.append((done, total)))
        assert path.read_bytes() == WHOLE
    assert recipe.made == list(range(8))
    assert seen[-1][0] <= seen[-1][1] == len(WHOLE)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {p.suffix for p in tmp_path.iterdir()} == {".gguf", ".lock"}


def test_an_interrupted_file_is_never_seen_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CHECKPOINT_BYTES", 128)  # every second segment
    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path).obtain("m", DIGEST, Recipe(fail_at=5).plan)
    assert not list(tmp_path.glob("*.gguf"))
    again = Recipe()
    assert ModelStore(tmp_path).obtain("m", DIGEST, again.plan).read_bytes() == WHOLE
    assert again.made == [4, 5, 6, 7]


def test_a_part_of_another_file_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHECKPOINT_BYTES", 128)
    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path).obtain("m", DIGEST, Recipe(fail_at=5).plan)
    (journal,) = tmp_path.glob("*.journal")
    journal.write_text(journal.read_text().replace('"header": "', '"header": "0'))
    again = Recipe()
    assert ModelStore(tmp_path).obtain("m", DIGEST, again.plan).read_bytes() == WHOLE
    assert again.made == list(range(8))


def test_a_segment_that_outgrows_its_place_is_an_error(tmp_path: Path) -> None:
    plan = FilePlan(b"H", [Segment(4, lambda: [b"12345"])])
    with pytest.raises(EngineError, match="larger than its header says"):
        ModelStore(tmp_path).obtain("m", DIGEST, lambda: plan)


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    plan = FilePlan(b"H", [Segment(1 << 60, lambda: [b""])])
    with pytest.raises(EngineError, match="MiB free"):
        ModelStore(tmp_path).obtain("m", DIGEST, lambda: plan)


def test_whoever_comes_second_waits_and_does_not_work(tmp_path: Path) -> None:
    first, second = Recipe(), Recipe()
    inside, go_on = threading.Event(), threading.Event()

    def slow_plan() -> FilePlan:
        inside.set()
        assert go_on.wait(10)
        return first.plan()

    one = threading.Thread(target=lambda: ModelStore(tmp_path).obtain("m", DIGEST, slow_plan))
    two = threading.Thread(target=lambda: ModelStore(tmp_path).obtain("m", DIGEST, second.plan))
    one.start()
    assert inside.wait(10)
    two.start()
    go_on.set()
    one.join(10)
    two.join(10)
    assert (first.made, second.made) == (list(range(8)), [])


def test_the_wait_for_another_process_has_a_limit(tmp_path: Path) -> None:
    with (tmp_path / f"m-{DIGEST[:16]}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="another process"):
            ModelStore(tmp_path, lock_wait_s=0.05).obtain("m", DIGEST, Recipe().plan)


def _convert(directory: Path, cache: Path) -> None:
    engine_file(directory, WeightType.Q8_0, cache)


def test_two_processes_at_once_leave_one_good_file(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_convert, args=(directory, tmp_path / "cache")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [w.exitcode for w in workers] == [0, 0]
    (path,) = (tmp_path / "cache").glob("*.gguf")
    assert path.read_bytes() == engine_file(directory, WeightType.Q8_0, tmp_path / "other").read_bytes()


def test_the_digest_covers_content_and_facts_and_not_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_bytes(b"content")
    cache = ModelStore(tmp_path / "cache")
    first = cache.digest_of([tmp_path / "a" / "w"], "q8")
    assert cache.digest_of([tmp_path / "b" / "w"], "q8") == first
    assert cache.digest_of([tmp_path / "a" / "w"], "f16") != first
    (tmp_path / "b" / "w").write_bytes(b"Content")
    assert cache.digest_of([tmp_path / "b" / "w"], "q8") != first


def test_large_files_are_hashed_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MEMO_FROM_BYTES", 1)
    file = tmp_path / "w"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    cache = ModelStore(tmp_path / "cache")
    first = cache.digest_of([file])
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert cache.digest_of([file]) == first  # size and time say that nothing has changed
    os.utime(file, ns=(2, 2))
    assert cache.digest_of([file]) != first
