"""What commands print: lines, tables, progress. Plain where the output is no terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
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
    """Prints for people. Lines go to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _PipeAwareConsole(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False)

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
            yield _Tenths(title, self.line)


@contextlib.contextmanager
def _bar(console: Console, title: str) -> Iterator[ReportProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


class _Tenths:
    """A line for every tenth: a log file needs no more."""

    def __init__(self, title: str, line: Callable[[str], None]) -> None:
        self._title = title
        self._line = line
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total if total > 0 else 0
        with self._lock:
            if tenth == self._last:
                return
            self._last = tenth
        if tenth:
            self._line(f"{self._title}: {10 * tenth} % of {total / 1e6:,.1f} MB")
