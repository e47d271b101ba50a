"""The one exception tree of medfm-compress.

Every error a user can cause says what was given, what is allowed and how to fix it, in one sentence, and carries the
exit code that the command line returns for it. ``70`` (internal error) and ``130`` (interrupted) are the face's own.
`NoRoom` alone stands outside: nothing but the face may go on from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_INCONCLUSIVE = 3
EXIT_REFUSED = 4
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

_LONGEST = 300


class MedfmError(Exception):
    """Root of all errors that medfm-compress raises on purpose."""

    exit_code: ClassVar[int] = EXIT_UNUSABLE


class InputError(MedfmError, ValueError):
    """A value, file or option that cannot be used (exit code 2)."""


class StudyError(InputError):
    """A study whose table, images or splits cannot be used."""


class ModelError(InputError):
    """A model folder, weight file or architecture that cannot be used."""


class UndescribedModel(ModelError):
    """A model whose file does not say all that is needed; carries a file that is ready to be filled in.

    Attributes:
        lacking: the message, up to what to do about it.
        file_name: of the file that is ready.
        text: its content.
    """

    def __init__(self, lacking: str, advice: str, file_name: str, text: str) -> None:
        super().__init__(f"{lacking}; {advice}")
        self.lacking, self.file_name, self.text = lacking, file_name, text


class MissingDependency(InputError):
    """A backend or extra that is not installed; the message names the pip command."""


class NotWritten(InputError):
    """A file that could not be written.

    Attributes:
        path: of the file.
        reason: in the system's words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}; free space or choose another folder")
        self.path, self.reason = path, reason


class NoRoom(OSError):
    """The temporary folder has no room: nobody's fault who may be passed over, such as a candidate or an engine."""


class Refused(MedfmError):
    """The runtime gives no result rather than a wrong one (exit code 4)."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class ImageRefused(Refused):
    """An image that is unreadable or not what the bundle was made for."""


class BundleRefused(Refused):
    """A bundle that is damaged, altered, too new, or holds no variant that may run here."""


class TrustRefused(Refused):
    """A trust store that cannot be relied on: empty, damaged, or others may write to it."""


class EvidenceRefused(Refused):
    """An evidence pack that is damaged or incomplete, or whose figures do not follow from what is in it."""


@contextmanager
def refusing(error: type[MedfmError], what: str) -> Iterator[None]:
    """Raise any error of the block that is not of this tree as an ``error`` of one sentence that starts with ``what``.

    For the borders where what others made is read: a library may raise anything there.
    """
    try:
        yield
    except MedfmError:
        raise
    except Exception as exc:
        raise error(f"{what}: {in_one_line(exc)}") from exc


def in_one_line(thing: object) -> str:
    """Text of an error, path or name on one line and of at most 300 characters; an `OSError` by its reason alone."""
    reason = getattr(thing, "strerror", None) if isinstance(thing, OSError) else None
    try:
        text = printable(str(reason or thing))
    except ValueError:  # e.g. an integer of more digits than Python prints
        text = ""
    if not text:
        text = type(thing).__name__ if isinstance(thing, (int, BaseException)) else repr(str(thing))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def quoted(text: str) -> str:
    """``text`` in quotes, on one line and shortened; a blank one as it is."""
    return repr(in_one_line(text) if text.strip() else text[:_LONGEST])


def printable(text: str) -> str:
    """``text`` on one line, without characters that a terminal acts on: what a file says may stand in it."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in words)
