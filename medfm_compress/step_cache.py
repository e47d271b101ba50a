"""Which steps of a job are done: a finished step is repeated when anything that decides its output has changed.

The key of a step is a digest of its name, its settings, the *contents* of all that it reads, and the version of this
package. The output's own content is recorded as well: one that was damaged or replaced is made again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from medfm_compress import __version__
from medfm_compress.artefacts import Artefact, Input
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import decode, digest, encode

Output = TypeVar("Output", bound=Artefact)


class FinishedStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record of one finished step.

    Attributes:
        key: of everything that decides the output.
        output: the output's fingerprint.
        seconds: that its last run took.
    """

    key: str
    output: str
    seconds: float


class StepCache:
    """Runs steps and remembers them in ``folder/steps``."""

    def __init__(self, folder: Path, progress: Progress, *, overwrite: bool = True) -> None:
        """Steps of ``folder``; without ``overwrite`` a finished output that is not theirs, or no longer, stays."""
        self._folder, self._progress, self._overwrite = folder, progress, overwrite

    @property
    def begun(self) -> bool:
        """Whether a step was finished here."""
        return (self._folder / "steps").is_dir()

    def refuse_to_replace(self, path: Path) -> None:
        """Raises InputError unless what is there may be replaced."""
        if not self._overwrite:
            raise InputError(
                f"{path} is there and was made by other settings, inputs or another version; name another folder with "
                "--out, or replace it with --overwrite"
            )

    def step(
        self, name: str, output: Output, inputs: Sequence[Input], settings: Any, make: Callable[[Path], object]
    ) -> Output:
        """``output``, made by ``make`` unless an earlier run with the same key left it there.

        Args:
            name: of the step.
            output: what is made, in the job's folder.
            inputs: everything that the step reads.
            settings: whatever it depends on besides; JSON-serialisable.
            make: is called with the output's path; must leave it whole or absent.

        Raises:
            InputError: another output is there and may not be replaced.
        """
        record = self._folder / "steps" / f"{name}.json"
        key = digest([name, settings, [read.fingerprint for read in inputs], __version__])
        if self._is_done(record, key, output):
            self._progress(f"{name}: done before")
            return output
        if output.finished:
            self.refuse_to_replace(output.path)
        self._progress(f"{name} …")
        started = time.monotonic()
        make(output.path)
        seconds = time.monotonic() - started
        made = dataclasses.replace(output)  # type: ignore[type-var]  # a fresh one: the old may have hashed what was there
        finished = FinishedStep(key=key, output=made.fingerprint, seconds=round(seconds, 1))
        write_atomically(record, encode(finished))
        self._progress(f"{name}: {seconds:.0f} s")
        return made

    @staticmethod
    def _is_done(record: Path, key: str, output: Artefact) -> bool:
        try:
            finished = decode(record.read_bytes(), FinishedStep, source=str(record))
            return finished.key == key and finished.output == output.fingerprint
        except (OSError, InputError, MedfmError):
            return False
