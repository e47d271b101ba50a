"""What the commands print: lines and tables for people, one JSON document for programs."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from medfm_compress.cli.progress_bar import ProgressBar
from medfm_compress.cli.streams import readable, visible, write_error, write_out
from medfm_compress.runtime.progress import Tick

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN_BOX = "    \n    \n -  \n    \n    \n    \n    \n    \n"  # a rule below the headers and nothing else
_NAME_WIDTH = 17  # of a fact
_BELOW = "  "  # before a sentence below its row
_MARK = "\ue000"  # where it will stand; of a user's name `visible` leaves none
_WIDE = 10_000  # columns where no terminal limits a line


class Output(NamedTuple):
    """How a command prints.

    Attributes:
        json: one document instead of lines.
        quiet: no progress.
        verbose: progress with the time since ``start``.
        start: monotonic seconds.
        bar: of work whose size is known.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    start: float = 0.0
    bar: ProgressBar = ProgressBar()


_DEFAULT = Output()
_OUTPUT = ContextVar("output", default=_DEFAULT)


class _Formatter(logging.Formatter):
    """Messages as one line each; they hold names out of files."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's own name
        return visible(super().formatMessage(record))


def _keep_logs_visible(verbose: bool) -> None:
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
    if logging.lastResort:  # what prints warnings otherwise
        logging.lastResort.setFormatter(_Formatter())


@contextmanager
def output(*, json: bool, quiet: bool, verbose: bool) -> Iterator[None]:
    """How everything within prints; what libraries warn of is logged, so that it shows with ``verbose`` alone."""
    logging.captureWarnings(True)
    _keep_logs_visible(verbose)
    chosen = Output(json, quiet, verbose, time.monotonic(), ProgressBar())
    token = _OUTPUT.set(chosen)
    try:
        yield
    finally:
        chosen.bar.clear()
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


def line_width(most: int) -> int:
    """How many characters a line of words has: at most so many, and no more than the terminal."""
    return min(most, shutil.get_terminal_size().columns) if sys.stdout.isatty() else most


def say(text: str = "") -> None:
    """Print one line for people on standard output, whatever ``text`` holds: see `visible`."""
    _say(visible(text) + "\n")


def fact(name: str, value: object) -> None:
    """Print ``name: value``; on a terminal a long value is broken to its width, and goes on below its beginning."""
    text = visible(str(value))
    lines = [text]
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns - _NAME_WIDTH, _NAME_WIDTH)
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [text]
    _say(f"{visible(name) + ':':{_NAME_WIDTH}}" + f"\n{'':{_NAME_WIDTH}}".join(lines) + "\n")


def _say(text: str) -> None:
    if is_first_process():
        _OUTPUT.get().bar.clear()
        _write(text)


def _write(text: str) -> None:
    """Names of files may hold bytes, and words characters, that standard output has no encoding for."""
    try:
        write_out(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "utf-8"
        write_out(readable(text).encode(encoding, "backslashreplace").decode(encoding))


def progress(text: str) -> None:
    """Print one line of progress on standard error, so that standard output stays clean."""
    chosen = _OUTPUT.get()
    if chosen.quiet or not is_first_process():
        return
    elapsed = f"{time.monotonic() - chosen.start:8.1f} s  " if chosen.verbose else ""
    if isinstance(text, Tick):
        chosen.bar.show(text, elapsed)
        return
    chosen.bar.clear()
    write_error(f"{elapsed}{visible(text)}\n")


def is_plain() -> bool:
    """Whether standard output takes no colour: a pipe, a file, a dumb terminal, or a user who wants none."""
    return not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,), *, sentences: bool = False
) -> None:
    """Print an aligned table: the columns numbered in ``left`` to the left, the others to the right.

    Where the last column is of ``sentences``, each stands below its row on a terminal that is too narrow for it beside.
    """
    if sentences and not is_plain():
        lines = _with_sentences_below(headers, rows, left)
    else:
        lines = _drawn(_grid(headers, rows, left))
    for line in lines:
        _say(line.rstrip() + "\n")


def _with_sentences_below(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """The lines of the table, its last column below each row where it has no room beside."""
    from rich.text import Text

    whole, console = _grid(headers, rows, left), _console()
    if console.measure(whole, options=console.options.update(max_width=_WIDE)).maximum <= console.width:
        return _drawn(whole)
    marked = [part for row in rows for part in ((*row[:-1],), (_MARK,))]  # a row may take several lines
    lines: list[str] = []
    told = iter(rows)
    for line in _drawn(_grid(headers[:-1], marked, left)):
        if _MARK not in line:
            lines.append(line)
            continue
        sentence = Text(visible(next(told)[-1]))
        width = max(console.width - len(_BELOW), _NAME_WIDTH)
        lines += [_BELOW + part.plain for part in sentence.wrap(console, width, overflow="fold") if part.plain]
    return lines


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> Table:
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table
    from rich.text import Text

    box = Box(_PLAIN_BOX, ascii=True) if is_plain() else SIMPLE_HEAD
    grid = Table(box=box, show_edge=False, pad_edge=False)
    for number, header in enumerate(headers):
        grid.add_column(Text(header), justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell if cell == _MARK else visible(cell)) for cell in row))
    return grid


def _console(drawn: io.StringIO | None = None) -> Console:
    from rich.console import Console

    if is_plain():
        return Console(file=drawn, force_terminal=False, color_system=None, width=_WIDE)
    return Console(file=drawn, force_terminal=True)


def _drawn(grid: Table) -> list[str]:
    """The lines of ``grid``, with its colours."""
    drawn = io.StringIO()  # Rich hands a stream on at once, and ends the process where its reader has left
    _console(drawn).print(grid)
    return drawn.getvalue().splitlines()


def emit_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    _say(_as_json(value) + "\n")


@contextmanager
def json_list() -> Iterator[Callable[[Any], None]]:
    """What prints the items of one JSON list as they come, where JSON is asked for, and nothing where it is not."""
    opened = False

    def add(value: Any) -> None:
        nonlocal opened
        if wants_json():
            _say(("," if opened else "[") + "\n" + textwrap.indent(_as_json(value), "  "))
            opened = True

    try:
        yield add
    finally:  # a list that was interrupted can be read as far as it goes
        if wants_json():
            _say("\n]\n" if opened else "[]\n")


def _as_json(value: Any) -> str:
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_readable(msgspec.to_builtins(value)))
    document = msgspec.json.format(encoded, indent=2).decode()
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in document)


def _json_escape(char: str) -> str:
    """A character of a JSON string that a terminal may act on; JSON itself escapes only those below U+0020."""
    units = char.encode("utf-16-be")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def _readable(value: Any) -> Any:
    """Plain data with every text `readable`."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list | tuple) else value
