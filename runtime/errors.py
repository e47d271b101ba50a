"""The one exception tree of medfm-compress.

Every error a user can cause says what was given, what is allowed and how to fix it, in one sentence, and carries the
exit code that the command line returns for it. ``70`` (internal error) and ``130`` (interrupted) are the face's own.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_UNUSABLE = 2
EXIT_INCONCLUSIVE = 3
EXIT_REFUSED = 4
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class MedfmError(Exception):
    """Root of all errors that medfm-compress raises on purpose."""

    exit_code: ClassVar[int] = EXIT_UNUSABLE


class InputError(MedfmError, ValueError):
    """A value, file or option that cannot be used (exit code 2)."""


class StudyError(InputError):
    """A study whose table, images or splits cannot be used."""


class ModelError(InputError):
    """A model folder, weight file or architecture that cannot be used."""


class MissingDependency(InputError):
    """A backend or extra that is not installed; the message names the pip command."""


class Refused(MedfmError):
    """The runtime gives no result rather than a wrong one (exit code 4)."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class ImageRefused(Refused):
    """An image that is unreadable or not what the bundle was made for."""


class BundleRefused(Refused):
    """A bundle that is damaged, altered, too new, or holds no variant that may run here."""
