"""What the commands print: lines and tables for people, one JSON document for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

import msgspec


def speaks() -> bool:
    """Whether this process speaks: under ``torchrun`` every process runs the command, and the first one tells."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """Print one line for people on standard output."""
    if not speaks():
        return
    sys.stdout.write(text + "\n")


def progress(text: str) -> None:
    """Print one line of progress on standard error, so that standard output stays clean."""
    if not speaks():
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> None:
    """Print an aligned table: the columns numbered in ``left`` to the left, the others to the right."""
    cells = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    for number, row in enumerate(cells):
        padded = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        say("  ".join(padded).rstrip())
        if number == 0:
            say("  ".join("-" * width for width in widths))


def emit_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
