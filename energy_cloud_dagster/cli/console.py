"""What people see: stages with their time on a terminal, plain lines when piped, one sentence for an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: Columns of what is piped or logged: without a terminal there is no width to ask for.
_PIPED_WIDTH: Final = 110


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or wide enough for the report where there is none."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPED_WIDTH)


@dataclass
class Stages:
    """The stages of a long job: shown as they go, their seconds kept for the report."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show ``title`` while the block runs; it is handed a function that takes how much is done of ``total``."""
        started = time.perf_counter()
        if self.console.is_terminal:
            with Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", justify="left"),
                BarColumn(bar_width=30),
                *([MofNCompleteColumn()] if total else []),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            ) as progress:
                task = progress.add_task(title, total=total)
                yield lambda done: progress.update(task, completed=done)
        else:
            self.console.print(f"{title} ...", soft_wrap=True)
            yield lambda _done: None
        self.seconds[title] = time.perf_counter() - started
        self.console.print(f"[green]✓[/] {title} [dim]{self.seconds[title]:.1f} s[/]", soft_wrap=True)
