"""Run one command: every error becomes one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from medfm_compress.cli import streams
from medfm_compress.cli.app import PROGRAM, build_app, is_command
from medfm_compress.runtime.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    InputError,
    MedfmError,
    NoRoom,
    in_one_line,
    printable,
)

# What a path, and no fault of ours, can cause; wherever it is met first.
_OF_THE_USER = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
    }
)

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def run(arguments: Sequence[str] | None) -> int:
    """Run one command; the design's exit code, whatever becomes of those who read what it prints."""
    streams.replace_closed()
    try:
        code = _run(arguments)
        streams.flush_out()
    except InputError as exc:  # there is no room for what was printed
        return _complain(str(exc), exc.exit_code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    app, out, error = build_app(_command_of(arguments)), sys.stdout, sys.stderr
    try:
        code = app(args=arguments, standalone_mode=False, prog_name=PROGRAM)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except SystemExit:  # what Rich and Typer make of a reader who left while help was printed; commands raise none
        sys.stdout, sys.stderr = out, error
        code = EXIT_OK
    except Exception as exc:  # noqa: BLE001 -- the last resort that keeps tracebacks from users
        return _failed(exc)
    if code == EXIT_INTERRUPTED:  # also what Typer makes of an interrupt
        return _complain("interrupted; what was finished is kept", EXIT_INTERRUPTED)
    return code if isinstance(code, int) else EXIT_OK


def _command_of(arguments: Sequence[str] | None) -> str:
    """The command that is called, where the first word says so; empty where all of them must be known."""
    words = sys.argv[1:] if arguments is None else arguments
    completing = any(name.endswith("_COMPLETE") for name in os.environ)
    return words[0] if words and is_command(words[0]) and not completing else ""


def _failed(exc: Exception) -> int:
    """Print an error in one sentence; the exit code."""
    if isinstance(exc, MedfmError):
        return _complain(str(exc), exc.exit_code)
    if isinstance(exc, NoRoom):
        return _complain(str(exc), EXIT_UNUSABLE)
    if isinstance(exc, OSError) and exc.errno in _NO_ROOM and exc.filename is None:  # writing tells no name
        streams.flush_out()
        advice = "make room, here or in the temporary folder (TMPDIR), or write elsewhere"
        return _complain(f"cannot write: {exc.strerror}; {advice}", EXIT_UNUSABLE)
    if isinstance(exc, OSError) and exc.filename is not None and exc.errno in _OF_THE_USER:
        name = in_one_line(os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else exc.filename)
        return _complain(f"cannot use {name}: {exc.strerror}; give another path, or make room for it", EXIT_UNUSABLE)
    return _missing(exc) if isinstance(exc, ModuleNotFoundError) else _unexpected(exc)


def _missing(exc: ModuleNotFoundError) -> int:
    """A command of the toolchain in a bare install; a missing module of our own is a fault instead."""
    library = (exc.name or "").partition(".")[0]
    if library in {"", "medfm_compress"}:
        return _unexpected(exc)
    return _complain(f"this command needs {library}: pip install 'medfm-compress[toolchain]'", EXIT_UNUSABLE)


def _unexpected(exc: Exception) -> int:
    message = getattr(exc, "format_message", None)  # a usage error of the command-line parser
    if type(exc).__name__ == "NoArgsIsHelpError":  # a command that only has commands, alone
        streams.write_out(f"{message() if message else ''}\n")
        return EXIT_OK
    if message is not None:
        context = getattr(exc, "ctx", None)
        path = context.command_path if context else PROGRAM
        return _complain(f"{message().removesuffix('.')}; see '{path} --help'", EXIT_UNUSABLE)
    if os.environ.get("MEDFM_DEBUG"):
        streams.write_error(traceback.format_exc())
    name = type(exc).__name__
    return _complain(f"internal error ({name}: {exc}); set MEDFM_DEBUG=1 for the traceback", EXIT_INTERNAL)


def _complain(message: str, code: int) -> int:
    streams.write_error(f"error: {printable(message)}\n")
    return code
