"""Output: results to stdout, progress to stderr, JSON alone on stdout when asked for."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sparsec.printable import printable

# Without a terminal a line appears when the work changes, but not more often than this.
_LINE_EVERY_SECONDS = 2.0

# What goes to a file or a pipe is not folded to the width of some window.
_WIDTH_OF_FILES = 160


class _Pipe(Console):
    """A console that leaves it to the command line what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich would turn into an exit."""
        raise BrokenPipeError


def console() -> Console:
    """Return a console on stdout; colours only on a terminal, and never with NO_COLOR."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return _Pipe(file=sys.stdout, width=width, highlight=False)


def print_json(value: Any) -> None:
    """Print one object and nothing else."""
    # ASCII: whatever the encoding of the terminal or pipe, and no name can steer a terminal.
    print(json.dumps(value, ensure_ascii=True, allow_nan=False, indent=1))


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Yield ``report(text, done)``: a bar on a terminal, lines elsewhere, nothing if ``quiet``."""
    if quiet:
        yield lambda text, done: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        with bar:
            task = bar.add_task("", total=1.0)
            yield lambda text, done: bar.update(
                task, description=escape(printable(text[:48])), completed=done
            )
    else:
        last = [-_LINE_EVERY_SECONDS]

        def line(text: str, done: float) -> None:
            now = time.monotonic()
            if now - last[0] >= _LINE_EVERY_SECONDS:
                last[0] = now
                print(f"[{done:4.0%}] {printable(text)}", file=sys.stderr, flush=True)

        yield line


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in ``right`` hold numbers."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        result.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return result


def text(value: object) -> str:
    """Return ``value`` as text that is shown as it is: names from models may look like markup."""
    return escape(printable(value))
