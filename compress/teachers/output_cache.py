"""Cached answers on disk: shards of one view and some hundred cases each, read by rows.

A folder holds ``outputs.json`` (:class:`Header`) and ``KIND-vVVV-sSSSSS.npy``, where KIND is ``logits`` (float32; maps
of a segmentation are float16, and smaller than the image by `Header.stride`) or a feature (float16). The header is
written before the first shard, a shard under a temporary name and renamed: what is there is whole, and a killed run
goes on with the first shard that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.compress.training.augment import Augmentation
from medfm_compress.data.case_columns import columns_digest
from medfm_compress.data.fingerprint import content_hashes
from medfm_compress.data.npy_rows import NpyRows
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import ModelError, StudyError
from medfm_compress.runtime.strict_json import decode, digest, encode

HEADER = "outputs.json"
LOGITS = "logits"
SCHEMA_VERSION = 1
SHARD_CASES = 512

Groups = Sequence[tuple[Study, tuple[Case, ...]]]


class ViewPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The augmented views that a teacher answers on.

    Attributes:
        augmentation: what they are drawn from.
        seeds: one a view; epoch e learns on view e modulo their number.
    """

    augmentation: Augmentation
    seeds: tuple[int, ...]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the answers depend on, and their shapes.

    Attributes:
        schema_version: of this file.
        teacher: who answered.
        engine: in which engine and precision, e.g. ``pytorch fp32``.
        precision: that was asked for, e.g. ``auto``.
        plan: on which views.
        cases_sha256: content of the images, in their order, and of the columns beside them; no names.
        cases: how many.
        shard_cases: of one shard at most.
        features: name → shape of one case.
        stride: pixels of the teacher's input that one pixel of a map of logits is the mean of, each way.
    """

    schema_version: int = SCHEMA_VERSION
    teacher: TeacherCard
    engine: str
    precision: str = "auto"
    plan: ViewPlan
    cases_sha256: str
    cases: int
    shard_cases: int = SHARD_CASES
    features: dict[str, tuple[int, ...]] = {}
    stride: int = 1

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Of one case."""
        task, spec = self.teacher.task, self.teacher.spec
        if not task.is_dense:
            return (len(task.labels),)
        return (len(task.labels), -(-spec.height_px // self.stride), -(-spec.width_px // self.stride))

    @property
    def shards(self) -> int:
        """Of one view."""
        return -(-self.cases // self.shard_cases)

    def rows(self, shard: int) -> range:
        """Cases of one shard."""
        return range(shard * self.shard_cases, min(self.cases, (shard + 1) * self.shard_cases))


class OutputCache:
    """Answers on every case and view; complete once `missing` is empty."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        # As it is read back: a number given as 10 is 10.0 in the file, and the fingerprint must be the same for both.
        self.header = decode(encode(header), Header, source=HEADER, error=ModelError)
        self._rows: dict[str, NpyRows] = {}

    @classmethod
    def open(cls, folder: str | Path) -> OutputCache:
        """A complete store.

        Raises:
            ModelError: no such folder, a damaged or newer header, or shards that are missing.
        """
        path = Path(folder) / HEADER
        if not path.is_file():
            raise ModelError(f"{folder} holds no cached answers: it has no {HEADER}")
        header = decode(path.read_bytes(), Header, source=str(path), error=ModelError)
        if header.schema_version > SCHEMA_VERSION:
            raise ModelError(f"{path} has schema {header.schema_version}; this version reads {SCHEMA_VERSION}: upgrade")
        store = cls(Path(folder), header)
        missing = store.missing()
        if missing:
            raise ModelError(
                f"{folder} is not complete: {len(missing)} of {header.shards * len(header.plan.seeds)} shards are "
                "missing or damaged; run 'distill' with the teacher at hand once more"
            )
        return store

    @classmethod
    def answering(cls, folder: Path, header: Header) -> OutputCache | None:
        """The store in ``folder`` where it answers the questions of ``header``, and perhaps more; else None.

        The engine may be another one, and there may be further features.
        """
        path = folder / HEADER
        if not path.is_file():
            return None
        try:
            stored = decode(path.read_bytes(), Header, source=str(path), error=ModelError)
        except ModelError:
            return None
        more = {**stored.features, **header.features} == stored.features
        same = msgspec.structs.replace(stored, engine=header.engine, features=header.features) == header and more
        return cls(folder, stored) if same else None

    @classmethod
    def begin(cls, folder: Path, header: Header) -> OutputCache:
        """A store to fill; what is in the folder is kept where the header is the same, and deleted otherwise."""
        path = folder / HEADER
        content = encode(header)
        if not (path.is_file() and path.read_bytes() == content):
            for stale in folder.glob("*-v[0-9]*-s[0-9]*.npy"):
                stale.unlink()
            write_atomically(path, content)
        return cls(folder, header)

    @property
    def card(self) -> TeacherCard:
        """Who answered."""
        return self.header.teacher

    @property
    def plan(self) -> ViewPlan:
        """On which views."""
        return self.header.plan

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the answers depend on."""
        return digest(self.header)

    @property
    def bytes_per_case(self) -> float:
        """On disk, of one case over all views."""
        values = int(np.dtype(self._dtype(LOGITS)).itemsize * np.prod(self.header.logits_shape))
        values += sum(2 * int(np.prod(shape)) for shape in self.header.features.values())
        return float(values * len(self.plan.seeds))

    def check(self, groups: Groups) -> None:
        """Raises StudyError unless these are the cases that were answered on, in this order."""
        cases = sum(len(cases) for _, cases in groups)
        if cases != self.header.cases or hash_of_cases(groups, self.card.told) != self.header.cases_sha256:
            raise StudyError(
                f"the answers in {self.folder} are on {self.header.cases} other cases than the study's {cases} "
                "training and unlabelled ones; give the study (and --more, --no-unlabelled) that they were made with"
            )

    def missing(self) -> list[tuple[int, int]]:
        """(view, shard) of what is not there, or not whole."""
        every = ((view, shard) for view in range(len(self.plan.seeds)) for shard in range(self.header.shards))
        return [(view, shard) for view, shard in every if not self._is_whole(view, shard)]

    def write(self, view: int, shard: int, answers: TeacherOutputs) -> None:
        """Keep the answers on the cases of one shard; logits last, so that a shard with logits is whole."""
        for name in self.header.features:
            _save(self._path(name, view, shard), answers.features[name].numpy().astype(np.float16))
        _save(self._path(LOGITS, view, shard), answers.logits.numpy().astype(self._dtype(LOGITS)))

    def lookup(self, view: int, index: Tensor, names: tuple[str, ...] = ()) -> TeacherOutputs:
        """Answers on cases ``index`` ``[b]`` of one view, with ``names`` features in float16.

        Maps of logits are as small as they are stored; see `distill` for how they come to a student's grid.
        """
        numbers = index.numpy()
        features = {name: torch.from_numpy(self._gather(name, view, numbers)) for name in names}
        return TeacherOutputs(torch.from_numpy(self._gather(LOGITS, view, numbers)).float(), features)

    def _gather(self, kind: str, view: int, numbers: NDArray[np.int64]) -> NDArray[np.floating]:
        shards, rows = np.divmod(numbers, self.header.shard_cases)
        out = np.empty((len(numbers), *self._shape(kind)), self._dtype(kind))
        for shard in np.unique(shards):
            mine = shards == shard
            out[mine] = self._open(kind, view, int(shard))[rows[mine]]
        return out

    def _open(self, kind: str, view: int, shard: int) -> NpyRows:
        path = self._path(kind, view, shard)
        if path.name not in self._rows:
            self._rows[path.name] = NpyRows(path)
        return self._rows[path.name]

    def _is_whole(self, view: int, shard: int) -> bool:
        return all(self._fits(kind, view, shard) for kind in (LOGITS, *self.header.features))

    def _fits(self, kind: str, view: int, shard: int) -> bool:
        path = self._path(kind, view, shard)
        try:
            shard_values = NpyRows(path)
        except (OSError, ValueError):
            return False
        shape = (len(self.header.rows(shard)), *self._shape(kind))
        return bool(shard_values.dtype == self._dtype(kind)) and shard_values.shape == shape

    def _shape(self, kind: str) -> tuple[int, ...]:
        return self.header.logits_shape if kind == LOGITS else self.header.features[kind]

    def _dtype(self, kind: str) -> type[np.floating]:
        return np.float32 if kind == LOGITS and not self.header.teacher.task.is_dense else np.float16

    def _path(self, kind: str, view: int, shard: int) -> Path:
        return self.folder / f"{kind}-v{view:03d}-s{shard:05d}.npy"


def hash_of_cases(groups: Groups, columns: Sequence[Column] = ()) -> str:
    """Digest of the images' contents in their order, and of the values of ``columns`` beside them."""
    images = [content_hashes(study.source, [case.image for case in cases]) for study, cases in groups]
    if not columns:
        return digest(images)
    return digest([images, [columns_digest(study, cases, columns) for study, cases in groups]])


def _save(path: Path, values: NDArray[np.floating]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
