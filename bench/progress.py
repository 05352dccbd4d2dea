"""Live progress of a run on a terminal; silent where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qwenserve.bench.load import Run


@contextmanager
def live(console: Console, title: str, total: int) -> Iterator[Callable[[Run], Callable[[], None]]]:
    """Shows a bar inside the block. The value makes, for a run, the function that the run calls at intervals."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, auto_refresh=False
    ) as bar:
        task = bar.add_task(title, total=total, state="")

        def follow(run: Run) -> Callable[[], None]:
            def tick() -> None:
                state = f"running {run.running}" + (f", failed {run.failed}" if run.failed else "")
                bar.update(task, completed=run.ended, state=state, refresh=True)

            return tick

        yield follow
