"""Which steps of a job are done: a finished step is repeated when anything that decides its output has changed.

The key of a step is a digest of its name, its settings, the *contents* of all that it reads, and the version of this
package. The output's own content is recorded as well: one that was damaged or replaced is made again. What made the key
up is recorded beside it, files as digests, so that a refusal can say what changed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from medfm_compress import __version__
from medfm_compress.artefacts import Artefact, Input
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError, MedfmError, in_one_line
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import decode, digest, encode

Output = TypeVar("Output", bound=Artefact)
RECIPE_SHA256 = "the recipe's file"
UNKNOWN = "was made by other settings, inputs or another version"
_MOST_NAMED = 8


class Ingredients(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decided an output.

    Attributes:
        settings: by their keys in the recipe.
        inputs: file name, or ``teacher`` → fingerprint of the content.
        version: of this package.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    version: str

    def differing(self, other: Ingredients) -> str:
        """What is not as in ``other``, in words; empty where nothing is."""
        keys = _differing(_flat(self.settings), _flat(other.settings))
        if len(keys) > 1:  # every change of a recipe changes its digest
            keys = [key for key in keys if key != RECIPE_SHA256]
        files = _differing(self.inputs, other.inputs)
        found = [
            f"other {what} ({', '.join(map(in_one_line, names[:_MOST_NAMED]))}{', …' * (len(names) > _MOST_NAMED)})"
            for what, names in (("settings", keys), ("inputs", files))
            if names
        ]
        if self.version != other.version:
            found.append(f"another version ({self.version})")
        return " and ".join(found)


class FinishedStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record of one finished step.

    Attributes:
        key: of everything that decides the output.
        output: the output's fingerprint.
        seconds: that its last run took.
        ingredients: what the key is of; records of earlier versions have none.
    """

    key: str
    output: str
    seconds: float
    ingredients: Ingredients | None = None


class StepCache:
    """Runs steps and remembers them in ``folder/steps``."""

    def __init__(self, folder: Path, progress: Progress, *, overwrite: bool = True) -> None:
        """Steps of ``folder``; without ``overwrite`` a finished output that is not theirs, or no longer, stays."""
        self._folder, self._progress, self._overwrite = folder, progress, overwrite

    @property
    def begun(self) -> bool:
        """Whether a step was finished here."""
        return (self._folder / "steps").is_dir()

    def refuse_to_replace(self, path: Path, why: str = UNKNOWN) -> None:
        """Raises InputError, with ``why`` it is not what would be made, unless what is there may be replaced."""
        if not self._overwrite:
            raise InputError(
                f"{path} is there and {why}; name another folder with --out, or replace it with --overwrite"
            )

    def step(
        self,
        name: str,
        output: Output,
        inputs: Sequence[Input],
        settings: Any,
        make: Callable[[Path], object],
        keys: Sequence[str] = (),
    ) -> Output:
        """``output``, made by ``make`` unless an earlier run with the same key left it there.

        Args:
            name: of the step.
            output: what is made, in the job's folder.
            inputs: everything that the step reads.
            settings: whatever it depends on besides; JSON-serialisable.
            make: is called with the output's path; must leave it whole or absent.
            keys: what the recipe calls the settings, one for each of a list of them; by default ``name``.

        Raises:
            InputError: another output is there and may not be replaced.
        """
        record = self._folder / "steps" / f"{name}.json"
        key = digest([name, settings, [read.fingerprint for read in inputs], __version__])
        values = settings if isinstance(settings, list) else [settings]
        ingredients = _ingredients(dict(zip(keys or (name,), values, strict=True)), inputs)
        changed = _changed(record, key, output, ingredients)
        if not changed:
            self._progress(f"{name}: done before")
            return output
        if output.finished:
            self.refuse_to_replace(output.path, changed)
        self._progress(f"{name} …")
        started = time.monotonic()
        make(output.path)
        seconds = time.monotonic() - started
        made = dataclasses.replace(output)  # type: ignore[type-var]  # a fresh one: the old may have hashed what was there
        finished = FinishedStep(key=key, output=made.fingerprint, seconds=round(seconds, 1), ingredients=ingredients)
        write_atomically(record, encode(finished))
        self._progress(f"{name}: {seconds:.0f} s")
        return made


def _ingredients(settings: Mapping[str, Any], inputs: Sequence[Input]) -> Ingredients:
    files: dict[str, str] = {}
    for read in inputs:
        path = getattr(read, "path", None)
        if path and not path.exists():
            continue  # the name of a network, which the settings have
        label = path.name if path else "teacher"  # which may be several
        same = sum(name.partition(" #")[0] == label for name in files)
        files[f"{label} #{same + 1}" if same else label] = read.fingerprint
    as_json: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return Ingredients(settings=as_json, inputs=files, version=__version__)


def _changed(record: Path, key: str, output: Artefact, ingredients: Ingredients) -> str:
    """Why ``output`` is not what its step would make, in words; empty where it is."""
    try:
        finished = decode(record.read_bytes(), FinishedStep, source=str(record))
        if finished.key == key:
            return "" if finished.output == output.fingerprint else "is not what its step left there"
        made_by = finished.ingredients and finished.ingredients.differing(ingredients)
        return f"was made by {made_by}" if made_by else UNKNOWN
    except (OSError, MedfmError):
        return UNKNOWN


def _differing(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    keys = [key for key in sorted({*first, *second}) if first.get(key, ...) != second.get(key, ...)]
    return [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]  # of a section that is new


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Dotted path → value, of nested keys."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        path = f"{before}{key}"
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return flat
