"""What commands print: lines, tables, progress. Plain where the output is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

ReportProgress = Callable[[int, int], None]


class _PipeAwareConsole(Console):
    """A console that lets a broken pipe be handled by the command; rich would exit from wherever it printed."""

    def on_broken_pipe(self) -> None:
        """Raises what is being handled."""
        raise BrokenPipeError


class Output:
    """Prints for people: to standard output, or to standard error where the output itself is what was asked for."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        file = sys.stderr if to_stderr else sys.stdout
        self.console = _PipeAwareConsole(file=file, highlight=False, soft_wrap=True, emoji=False)

    def line(self, text: str = "", style: str | None = None) -> None:
        """Prints one line, whatever characters it holds."""
        self.console.print(text, style=style, markup=False)

    def lines(self, lines: Sequence[str], style: str | None = "dim") -> None:
        """Prints lines of a log, set apart."""
        for line in lines:
            self.line(f"    {line}", style)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints columns that line up; no borders, so that `awk` can read them too."""
        widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
        for number, row in enumerate([header, *rows]):
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line(text.rstrip(), "bold" if number == 0 else None)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[ReportProgress]:
        """Shows how far something is; the block's function takes bytes done and total, from any thread."""
        if self.console.is_terminal:
            with _bar(self.console, title) as report:
                yield report
        else:
            yield _TimedLines(title, self.line)


@contextlib.contextmanager
def _bar(console: Console, title: str) -> Iterator[ReportProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


class _TimedLines:
    """A line every few seconds: a log file needs no more, and quick work needs none."""

    def __init__(self, title: str, line: Callable[[str], None], every_s: float = 5.0) -> None:
        self._title = title
        self._line = line
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self._every_s
        share = f"{100 * done // total} % of {total / 1e6:,.0f} MB" if total > 0 else f"{done / 1e6:,.0f} MB"
        self._line(f"{self._title}: {share}")
