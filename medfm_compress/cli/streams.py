"""Standard output and error as they are met: closed, read by nobody any more, or on a device without room.

A reader who leaves changes nothing of a command: what is left to say goes nowhere, and the exit code is the command's
own. Output that cannot be stored is an error instead, since whoever wanted it lacks it.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from medfm_compress.runtime.errors import InputError


def visible(text: str) -> str:
    """``text`` as one line, its spaces kept: what a terminal acts on, a new line too, is written as an escape.

    A name out of a file must not be able to add a line to what is said of it, nor to take one away.
    """
    return "".join(char if char.isprintable() else _escape(char) for char in readable(text))


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def readable(text: str) -> str:
    """``text`` whose undecodable bytes, as in names of files, are written as hexadecimal escapes."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def replace_closed() -> None:
    """Put the null device where standard streams are closed, so that no file takes the number of one of them."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        os.set_inheritable(handle, True)
        handle = os.dup(handle)
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def write_out(text: str) -> None:
    """Write to standard output; raises `InputError` where there is no room for it."""
    try:
        sys.stdout.write(text)
    except OSError as exc:
        _give_up_output(exc)


def flush_out() -> None:
    """Hand over what standard output still holds; raises `InputError` where there is no room for it."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        _give_up_output(exc)


def write_error(text: str) -> None:
    """Write to standard error at once; where nobody can read it, nobody does."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _give_up_output(exc: OSError) -> None:
    _discard(sys.stdout)
    if not isinstance(exc, BrokenPipeError):
        raise InputError(f"cannot write to standard output: {exc.strerror}; make room, or write elsewhere") from None


def _discard(stream: TextIO) -> None:
    """Let what ``stream`` holds, and whatever it is given from now on, go to the null device."""
    handle = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(handle, stream.fileno())
    finally:
        os.close(handle)
