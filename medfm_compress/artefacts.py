"""What steps take and return: a path and a fingerprint of its *content*, so that a file replaced behind it counts.

A step's output depends on the bytes of its inputs and not on their names: a teacher that is trained again into the same
folder is another teacher.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec

from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.data.fingerprint import file_sha256, study_fingerprint
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import digest

ENCODER_CARD = "encoder.json"
MODEL_CARDS = ("model.json", "backbone.json", ENCODER_CARD)  # written last: a folder with one is finished
_WORKING_FOLDER = "training"  # of a model folder: caches and checkpoints, which are not the model


class Input(Protocol):
    """Something that a step reads."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the content.

        Raises:
            InputError: it is not there, or cannot be read.
        """
        ...


class Artefact(Input, Protocol):
    """A file or a folder that a step writes, and later ones read."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def finished(self) -> bool:
        """Whether it is there, and whole: an interrupted step leaves what it goes on with, but no result."""
        ...


@dataclass(frozen=True)
class StudyTable:
    """A study: labels, splits, patients and every image's content, wherever they lie."""

    path: Path
    normal: tuple[str, ...] = ()  # of an anomaly model's

    @property
    def finished(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256, see `study_fingerprint`; raises StudyError where it cannot be read."""
        return study_fingerprint(open_study(self.path, normal=self.normal))


@dataclass(frozen=True)
class ModelFolder:
    """A model folder: card, weights and what else lies beside them, but for what training left to go on with."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether it is there."""
        return any((self.path / card).exists() for card in MODEL_CARDS)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over names and contents of its files."""
        return _folder_sha256(self.path, leave=_WORKING_FOLDER)


@dataclass(frozen=True)
class BundleFile:
    """A bundle, verdicts and report included."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the file."""
        return file_sha256(self.path)


@dataclass(frozen=True)
class ReportFolder:
    """A report: what it says, not how its page looks."""

    path: Path

    @property
    def json(self) -> Path:
        """The report that the gate judges."""
        return self.path / "report.json"

    @property
    def finished(self) -> bool:
        """Whether it is there."""
        return self.json.exists()

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of ``report.json``."""
        return file_sha256(self.json)


@dataclass(frozen=True)
class NamedInput:
    """What a setting names: a file, a folder, or something that is no path (``timm:NAME``) and counts as its name."""

    name: str

    @property
    def path(self) -> Path:
        """Where it is, if it is a path."""
        name = self.name.partition(":")[2] if self.name.startswith("outputs:") else self.name
        return Path(name if Path(name).exists() else name.partition("#")[0])  # BUNDLE#VARIANT

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the content, or of the name where there is none."""
        if self.path.is_dir():
            is_model = any((self.path / card).is_file() for card in MODEL_CARDS)
            return _folder_sha256(self.path, leave=_WORKING_FOLDER if is_model else "")
        return file_sha256(self.path) if self.path.is_file() else digest(self.name)


@dataclass(frozen=True)
class TeacherInput:
    """Whatever teaches: model folders, published networks, ONNX files, MONAI bundles, cached outputs."""

    sources: tuple[TeacherSource, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over what is said of the teachers and the content of all files that say it."""
        said = [msgspec.structs.replace(source, source="", weights="", spec="") for source in self.sources]
        names = [name for source in self.sources for name in (source.source, source.weights, source.spec)]
        return digest([said, [NamedInput(name).fingerprint if name else "" for name in names]])


def _folder_sha256(folder: Path, leave: str = "") -> str:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; it was there when the step before was done: do that step again")
    walked = os.walk(folder, followlinks=True)
    names = sorted(Path(inside, name).relative_to(folder) for inside, _, files in walked for name in files)
    return digest([(str(name), file_sha256(folder / name)) for name in names if name.parts[0] != leave])
