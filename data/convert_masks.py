"""Masks of other values, colours, instance maps and DICOM Segmentations become label maps with a table of their own.

A label map is written under a name that a digest of its source and of the options is a part of, so that a conversion
that was interrupted goes on where it stood; the table is written last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.dicom_seg import segmentation_of
from medfm_compress.data.fingerprint import file_sha256
from medfm_compress.data.instances import inside_and_boundary
from medfm_compress.data.mask_files import write_label_map
from medfm_compress.data.masks import LabelMap, check_size, listed, mask_folder, presence
from medfm_compress.data.open import open_study
from medfm_compress.data.sources import Files, size_of
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import write_table
from medfm_compress.data.table_study import check_shown
from medfm_compress.runtime.errors import ImageRefused, InputError, StudyError
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of
from medfm_compress.runtime.images.read_mask import read_colours, read_mask
from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.threads import map_in_threads

_WORKERS = 2
_VERSION = 1  # of the arithmetic; another one makes files that were written before stale
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")
_WHOLE = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Structure(msgspec.Struct, frozen=True):
    """What is wanted: a name, and the values or colours (0xRRGGBB) that stand for it; none where they are evident."""

    name: str
    values: tuple[int, ...] = ()
    is_colour: bool = False


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """How masks are converted.

    Attributes:
        structures: in the order of the new values, 1 and up.
        background: further values that stand for nothing, beside 0 or black.
        instances: a mask's values number objects of the one structure.
        boundary_px: of instances, see `medfm_compress.data.instances`.
        nearest: a pixel is taken for the nearest of the values; JPEG files are read.
    """

    structures: tuple[Structure, ...]
    background: tuple[int, ...] = ()
    instances: bool = False
    boundary_px: int = 1
    nearest: bool = False

    def __post_init__(self) -> None:
        if not self.structures:
            raise InputError("no structure; give --structure NAME or NAME=VALUE, once for each")
        names = [structure.name for structure in self.structures]
        if len(set(names)) != len(names):
            raise InputError(f"--structure {', '.join(names)}: each name once; several values are NAME=1,2")
        valued = [bool(structure.values) for structure in self.structures]
        if any(valued) and not all(valued):
            raise InputError("some --structure have values and some do not; give NAME=VALUE for each, or for none")
        if len({structure.is_colour for structure in self.structures}) > 1:
            raise InputError("values and #RRGGBB colours cannot be mixed; write all of them as colours")
        values = [value for structure in self.structures for value in structure.values] + list(self.background)
        if len(set(values)) != len(values):
            raise InputError("a value stands for two things; give each value once")
        if self.instances and (len(names) > 1 or any(valued) or self.nearest):
            raise InputError("--instances goes with one --structure NAME without values, and without --nearest")
        if self.nearest and not any(valued):
            raise InputError("--nearest needs the values: --structure NAME=VALUE")
        if not 1 <= self.boundary_px <= 64:
            raise InputError(f"--boundary-px is {self.boundary_px}; it must be 1 to 64")

    @property
    def labels(self) -> tuple[str, ...]:
        """Structures of the new masks."""
        names = tuple(structure.name for structure in self.structures)
        return (*names, f"{names[0]} boundary") if self.instances else names

    @property
    def in_colour(self) -> bool:
        """Whether colours are looked for."""
        return self.structures[0].is_colour


def structure_from(text: str) -> Structure:
    """``NAME``, ``NAME=128``, ``NAME=1,2`` or ``NAME=#FF0000``.

    Raises:
        InputError: another form.
    """
    name, mark, value = text.partition("=") if "=#" in text else text.rpartition("=") if "=" in text else (text, "", "")
    name = name.strip()
    parts = [part.strip() for part in value.split(",")] if mark else []
    colours = [match for part in parts if (match := _COLOUR.fullmatch(part))]
    if not name or len(colours) not in (0, len(parts)) or (not colours and not all(map(_WHOLE.fullmatch, parts))):
        raise InputError(f"--structure {text!r}: write NAME, NAME=VALUE, NAME=1,2 or NAME=#RRGGBB")
    if colours:
        return Structure(name, tuple(int(match[1], 16) for match in colours), True)
    return Structure(name, tuple(map(int, parts)))


def conversion_from(
    structures: Sequence[str], background: Sequence[str], instances: bool, boundary_px: int, nearest: bool
) -> Conversion:
    """From the words of options; see `structure_from`.

    Raises:
        InputError: they say no conversion.
    """
    parsed = tuple(map(structure_from, structures))
    values = []
    for text in background:
        match = _COLOUR.fullmatch(text.strip())
        if bool(match) != any(structure.is_colour for structure in parsed) or not (match or _WHOLE.fullmatch(text)):
            raise InputError(f"--background {text!r}: write a value, or #RRGGBB where the structures are colours")
        values.append(int(match[1], 16) if match else int(text))
    return Conversion(
        structures=parsed, background=tuple(values), instances=instances, boundary_px=boundary_px, nearest=nearest
    )


class Converted(NamedTuple):
    """The new study, how many masks were made now, and how many were there already."""

    study: Study
    made: int
    kept: int


def convert_masks(path: Path, conversion: Conversion, out: Path, progress: Progress | None = None) -> Converted:
    """Write ``out/masks/*.png`` and ``out/cases.csv``; the images stay where they are.

    Raises:
        StudyError: no masks, or one that cannot be converted; what was converted before stays, and is used again.
        InputError: ``out`` cannot be written.
    """
    names = tuple(structure.name for structure in conversion.structures)
    study = open_study(path, structures=names, read_masks=False)
    if not any(case.masks for case in study.cases):
        raise StudyError(f"{path} has no mask in its table; there is nothing to convert")
    place = out / "cases.csv"

    def convert(case: Case) -> tuple[Case, bool]:
        if not case.masks:
            return msgspec.structs.replace(case, target=()), False
        file = Path("masks") / _file_name(study, case, conversion)
        is_new = not (out / file).is_file()
        if is_new:
            write_label_map(out / file, _converted(study, case, conversion))
        drawn = read_mask(out / file).astype(np.uint8)
        target = presence(drawn, len(conversion.labels))
        return msgspec.structs.replace(case, masks=(file.as_posix(),), target=target), is_new

    done = list(counted(map_in_threads(convert, study.cases, _WORKERS), "convert masks", len(study.cases), progress))
    cases = tuple(case for case, _ in done)
    check_shown(cases, conversion.labels, path.name)
    converted = msgspec.structs.replace(study, root=place, labels=conversion.labels, cases=cases)
    write_table(converted, place)
    made = sum(is_new for _, is_new in done)
    return Converted(converted, made, sum(bool(case.masks) for case in cases) - made)


def _file_name(study: Study, case: Case, conversion: Conversion) -> str:
    folder = mask_folder(study)
    sources = [file_sha256(folder / name) if name else "" for name in case.masks]
    stem = _NAME.sub("_", Path(case.image).stem)[:60]
    return f"{stem}-{digest([_VERSION, conversion, case.image, sources])[:12]}.png"


def _converted(study: Study, case: Case, conversion: Conversion) -> LabelMap:
    folder = mask_folder(study)
    try:
        files = [folder / name if name else None for name in case.masks]
        if len(files) == 1 and files[0] is not None:
            drawn = _of_file(files[0], study, case, conversion, conversion.structures)
        else:
            drawn = _of_files(files, study, case, conversion)
        if size_of(study.source, case.image) != drawn.shape:
            check_size(drawn, case, study.source.read(case.image).shape[:2])
    except ImageRefused as exc:
        raise StudyError(f"mask of {case.image!r}: {exc}") from None
    return drawn


def _of_files(files: Sequence[Path | None], study: Study, case: Case, conversion: Conversion) -> LabelMap:
    """Of one file a structure."""
    merged: LabelMap | None = None
    for k, (file, structure) in enumerate(zip(files, conversion.structures, strict=True), start=1):
        if file is None:
            continue
        drawn = _of_file(file, study, case, conversion, (structure,)) > 0
        merged = np.zeros(drawn.shape, np.uint8) if merged is None else merged
        if merged.shape != drawn.shape or (drawn & (merged > 0)).any():
            raise ImageRefused(f"{file.name} is of another size than the masks before it, or draws pixels of theirs")
        merged[drawn] = k
    if merged is None:
        raise ImageRefused("no file draws anything")
    return merged


def _of_file(file: Path, study: Study, case: Case, conversion: Conversion, structures: Sequence[Structure]) -> LabelMap:
    with file.open("rb") as opened:
        is_dicom = kind_of(opened.read(HEAD_BYTES)) == "dicom"
    if is_dicom:
        if not isinstance(study.source, Files):
            raise ImageRefused(f"{file.name} is a DICOM segmentation, and the image no DICOM file")
        wanted = [(structure.name, structure.values) for structure in structures]
        return segmentation_of(file, study.source.root / case.image, wanted)
    if conversion.instances:
        return inside_and_boundary(_stored(file), conversion.boundary_px)
    values = read_colours(file, lossy=conversion.nearest) if conversion.in_colour else _numbers(file, conversion)
    return _mapped(values, structures, conversion, file.name)


def _stored(file: Path) -> NDArray[np.integer]:
    """The numbers of a mask, or its colours as numbers."""
    try:
        return read_mask(file)
    except ImageRefused:
        return read_colours(file)


def _numbers(file: Path, conversion: Conversion) -> NDArray[np.integer]:
    """Stored values; of a file that is only nearly of its values, the green of its colours."""
    try:
        return read_mask(file)
    except ImageRefused:
        if not conversion.nearest:
            raise
        return read_colours(file, lossy=True) >> 8 & 255


def _mapped(
    values: NDArray[np.integer], structures: Sequence[Structure], conversion: Conversion, name: str
) -> LabelMap:
    present, where = np.unique(values, return_inverse=True)
    known = {0: 0} | dict.fromkeys(conversion.background, 0)
    if any(structure.values for structure in structures):
        known |= {value: k for k, structure in enumerate(structures, start=1) for value in structure.values}
    elif len(structures) > 1:
        known |= {k: k for k in range(1, len(structures) + 1)}
    elif len(others := [int(value) for value in present if int(value) not in known]) <= 1:
        known |= dict.fromkeys(others, 1)
    if conversion.nearest:
        known = {int(value): known[_nearest(int(value), list(known), conversion.in_colour)] for value in present}
    unknown = np.array([value for value in present if int(value) not in known])
    if len(unknown):
        shown = ", ".join(f"#{int(v):06X}" for v in unknown[:6]) if conversion.in_colour else listed(unknown)
        raise ImageRefused(
            f"{name} has the values {shown}, which stand for nothing; name them with --structure NAME=VALUE or "
            "--background VALUE, or say --instances where each is an object"
        )
    lookup = np.array([known[int(value)] for value in present], np.uint8)
    mapped: LabelMap = lookup[where.reshape(values.shape)]
    return mapped


def _nearest(value: int, known: Sequence[int], in_colour: bool) -> int:
    def distance(other: int) -> int:
        if not in_colour:
            return abs(value - other)
        return sum(((value >> shift & 255) - (other >> shift & 255)) ** 2 for shift in (0, 8, 16))

    return min(known, key=distance)
