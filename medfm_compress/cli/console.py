"""What the commands print: lines and tables for people, one JSON document for programs."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

_PLAIN_BOX = "    \n    \n -  \n    \n    \n    \n    \n    \n"  # a rule below the headers and nothing else
_WIDE = 10_000  # columns where no terminal limits a line


class Output(NamedTuple):
    """How a command prints.

    Attributes:
        json: one document instead of lines.
        quiet: no progress.
        verbose: progress with the time since ``start``.
        start: monotonic seconds.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    start: float = 0.0


_DEFAULT = Output()
_OUTPUT = ContextVar("output", default=_DEFAULT)


@contextmanager
def output(*, json: bool, quiet: bool, verbose: bool) -> Iterator[None]:
    """How everything within prints; what libraries warn of is logged, so that it shows with ``verbose`` alone."""
    logging.captureWarnings(True)
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    token = _OUTPUT.set(Output(json, quiet, verbose, time.monotonic()))
    try:
        yield
    finally:
        _OUTPUT.reset(token)
        logging.captureWarnings(False)


def wants_json() -> bool:
    """Whether one JSON document is printed instead of lines."""
    return _OUTPUT.get().json


def emit(document: Callable[[], Any], describe: Callable[[], None]) -> None:
    """Print the result of a command: the document as JSON, or what ``describe`` prints for people."""
    if wants_json():
        emit_json(document())
    else:
        describe()


def is_first_process() -> bool:
    """Whether this process prints: under ``torchrun`` every process runs the command, and only the first prints."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """Print one line for people on standard output."""
    if is_first_process():
        sys.stdout.write(text + "\n")


def progress(text: str) -> None:
    """Print one line of progress on standard error, so that standard output stays clean."""
    chosen = _OUTPUT.get()
    if chosen.quiet or not is_first_process():
        return
    elapsed = f"{time.monotonic() - chosen.start:8.1f} s  " if chosen.verbose else ""
    sys.stderr.write(f"{elapsed}{text}\n")
    sys.stderr.flush()


def is_plain() -> bool:
    """Whether standard output takes no colour: a pipe, a file, a dumb terminal, or a user who wants none."""
    return not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> None:
    """Print an aligned table: the columns numbered in ``left`` to the left, the others to the right."""
    from rich.box import SIMPLE_HEAD, Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plain = is_plain()
    console = Console(file=sys.stdout, color_system=None if plain else "auto", width=_WIDE if plain else None)
    grid = Table(box=Box(_PLAIN_BOX, ascii=True) if plain else SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(headers):
        grid.add_column(Text(header), justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(grid)
    for line in captured.get().splitlines():
        say(line.rstrip())


def emit_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
