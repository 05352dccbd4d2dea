"""A process's own log file: everything is in it, and it stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwenserve.runtime.log_file import LogFile

PROGRAM = """
import os, sys
from pathlib import Path
from qwenserve.runtime.log_file import LogFile

file = LogFile(Path(sys.argv[1]), 1000)
file.open()
{work}
file.close()
"""


def run(log: Path, work: str) -> str:
    """Runs `work` in a process that writes to `log`; returns what still reached its old output."""
    command = [sys.executable, "-c", PROGRAM.format(work=work), str(log)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True)
    return done.stdout


def test_what_anything_writes_is_in_the_file(tmp_path: Path) -> None:
    """Python's streams and the bare descriptors, which native libraries use, all end in the file."""
    log = tmp_path / "x.log"

    assert (
        run(log, "print('a', flush=True); sys.stderr.write('b\\n'); os.write(1, b'c\\n'); os.write(2, b'd\\n')") == ""
    )
    assert log.read_text() == "a\nb\nc\nd\n"
    assert log.stat().st_mode & 0o077 == 0


def test_a_full_file_makes_room_and_nothing_is_lost(tmp_path: Path) -> None:
    """At its limit the file becomes FILE.1, in place of the one before, and the next line begins a new one."""
    log = tmp_path / "x.log"

    run(log, "for n in range(3):\n    os.write(2, b'%d' % n * 1001)\n    file.look()\nos.write(2, b'end'); file.look()")

    assert log.read_text() == "end"
    assert (tmp_path / "x.log.1").read_text() == "2" * 1001
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]


def test_a_file_that_others_move_is_made_anew(tmp_path: Path) -> None:
    """What rotates logs on a machine may take the file away."""
    log = tmp_path / "x.log"

    run(log, "os.write(2, b'old'); os.rename(sys.argv[1], sys.argv[1] + '.old'); file.look(); os.write(2, b'new')")

    assert (log.read_text(), (tmp_path / "x.log.old").read_text()) == ("new", "old")


def test_without_a_place_for_another_file_the_process_goes_on(tmp_path: Path) -> None:
    """A folder that is gone, such as on a disk that went away, ends nothing."""
    log = tmp_path / "logs" / "x.log"
    log.parent.mkdir()

    run(log, "import shutil; shutil.rmtree(Path(sys.argv[1]).parent); file.look(); os.write(2, b'lost')")

    assert not log.exists()


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    """A file that was never opened, too, can be closed."""
    LogFile(tmp_path / "x", 1).close()
